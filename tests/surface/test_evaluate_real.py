"""A real model judged end to end, killed in the middle of generation and resumed. `make smollm2` first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.real

SHARED = Path(os.environ.get("CUVEE_SHARED", Path(__file__).parents[2].parent / "shared"))
HOME = Path(os.environ.get("CUVEE_HOME") or Path.home() / ".cache" / "cuvee")
CASES = [("gsm8k", "math/gsm8k_test", 50), ("humaneval", "code/humaneval", 20)]


def evaluate(evaluator: str, file: Path, items: int, store: Path) -> subprocess.Popen[str]:
    asked = [evaluator, f"path={file}", f"items={items}", "max_new_tokens=160"]
    return subprocess.Popen(
        [sys.executable, "-m", "cuvee", "evaluate", "builtin:smollm2", *asked, "--store", str(store), "--json"],
        cwd=store.parent,
        env={**os.environ, "CUVEE_HOME": str(HOME)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def journals(store: Path) -> Iterator[Path]:
    yield from store.glob("**/answers.jsonl")


def written(store: Path) -> int:
    """Count the answers that are kept; a journal's first line says what they are answers of."""
    return sum(max(0, len(path.read_bytes().splitlines()) - 1) for path in journals(store))


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def texts(store: Path) -> dict[str, str]:
    (path,) = store.glob("**/responses.parquet")
    table = pq.read_table(path).to_pydict()
    return dict(zip(table["item"], table["text"], strict=True))


@pytest.mark.parametrize(("evaluator", "name", "items"), CASES, ids=[case[0] for case in CASES])
def test_a_killed_evaluation_goes_on_and_writes_nothing_twice(
    evaluator: str, name: str, items: int, tmp_path: Path
) -> None:
    if not (HOME / "smollm2-135m-instruct" / "config.json").is_file():
        pytest.skip(f"{HOME} has no smollm2: make smollm2")
    file = SHARED / "data" / f"{name}.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    begin = time.monotonic()
    first = finished(evaluate(evaluator, file, items, whole))
    took = time.monotonic() - begin

    process = evaluate(evaluator, file, items, halved)
    while process.poll() is None and written(halved) < items // 3:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = written(halved)
    assert items // 3 <= before < items, "killed in the middle"
    second = finished(evaluate(evaluator, file, items, halved))

    (journal,) = journals(halved)
    _, *lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert set(Counter((line["id"], line["sample"]) for line in lines).values()) == {1}
    assert len(lines) == items
    one, other = texts(whole), texts(halved)
    differing = sum(one[item] != other[item] for item in one)
    (a,), (b,) = first["scores"], second["scores"]
    print(f"{evaluator}: {took:.0f} s, killed after {before}, {differing} texts differ, {a}")
    assert one.keys() == other.keys()
    assert differing == 0
    assert (a["m"], a["n"], a.get("unread", 0)) == (b["m"], b["n"], b.get("unread", 0))
