"""A thousand judgements that the store has: how long it takes to load them and grade from them.

    python benchmarks/judgements.py [--count 1000]

Published judgements of GPT-4 (`judge/mt_bench_gpt4_judgments_2models.jsonl.gz` under $CUVEE_SHARED/data), repeated to
the count, lie in a finished judge stage. Timed are: taking them over into another stage that asks the same and more,
by their keys, and grading from them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from cuvee import model_judge
from cuvee.evaluators import mt_bench
from cuvee.job import Input, Job
from cuvee.judging import write_table
from cuvee.store import Store

FILE = Path(os.environ.get("CUVEE_SHARED", "../shared")) / "data" / "judge" / "mt_bench_gpt4_judgments_2models.jsonl.gz"
NAMES = ("item", "turn", "order", "repeat", "prompt", "format", "text", "finish", "tokens", "prompt_tokens", "failure")


def main() -> None:
    """Print seconds and CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        published = [json.loads(line) for line in file]
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        store.prepare()
        job = _stored(store, [published[number % len(published)] for number in range(count)])
        work = Path(place) / "graded"
        work.mkdir()
        for _ in range(3):
            _timed("taking over by key", lambda: len(model_judge._known(job, store)))
            _timed("grading", lambda: model_judge.grade(mt_bench, job, work, store)["n"])


def _stored(store: Store, rows: list[dict[str, Any]]) -> Job:
    """Write rows as a finished judge stage and return a job that reads it."""
    ids = {"judge": "j" * 64, "stage": "a" * 64}
    folder = store.path("judge", ids["stage"])
    folder.mkdir(parents=True)
    found = [
        (f"q{number}", 1, "", 0, row["user_prompt"], "[[rating]]", row["judgment"], "stop", 200, 800, "")
        for number, row in enumerate(rows)
    ]
    columns = {name: [row[place] for row in found] for place, name in enumerate(NAMES)}
    write_table(folder / model_judge.JUDGEMENTS, {**columns, "key": [f"{number:064x}" for number in range(len(rows))]})
    about = [json.dumps({"question_id": str(number), "category": "math"}) for number in range(len(rows))]
    items: dict[str, list[Any]] = {
        "item": columns["item"],
        "cluster": columns["item"],
        "reference": about,
        "turns": [1] * len(rows),
    }
    write_table(folder / model_judge.ITEMS, items)
    manifest = {
        "id": ids["stage"],
        "identity": {"inputs": {"judge": [ids["judge"]]}},
        "summary": {"full": 80, "cut": 0},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    judge = Input("base", ids["judge"], "judge", folder, {})
    answers = Input("judge", ids["stage"], "", folder, {})
    return Job(
        "", "", "grade", "mt_bench", "", {"fallback": True}, {}, {"judge": (judge,), "answers": (answers,)}, {}, {}
    )


def _timed(what: str, work: Any) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    print(f"{what}: {result:,} in {time.perf_counter() - wall:.3f} s, {time.process_time() - cpu:.3f} CPU s")


if __name__ == "__main__":
    main()
