"""Likelihood of choices: cuvee against lm-evaluation-harness, same model, same rows, one process, values compared.

    PYTHONPATH=src python benchmarks/choices_speed.py --model ~/.cache/cuvee/smollm2-135m-instruct \
        --data ../shared/data/knowledge --arc 60 --mmlu 20 --others 20 --rounds 2 --batches 1 8

needs lm-eval (extra ``harness``). The harness runs its own tasks on the local rows: its YAML files are included, and
only where the rows come from is replaced. Each round runs both, one after the other (A B A B); counted are processor
and wall seconds from texts to scores, tokenisation included, loading of the model not. The ratio is against the best of
the harness' batch sizes. Printed are the largest difference of any log-probability, and items whose prompt differs.
`--exact N` weighs the choices of N items of each also in float64, by the stock model and one choice at a time: whose
the difference is. HellaSwag's rows are in its published layout, made from PIQA's (goals with the marks of WikiHow, and
the solutions of two goals as endings).
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
import yaml

from cuvee import components
from cuvee.data import formats
from cuvee.data.pairs import Pairs
from cuvee.engine import choices, loading
from cuvee.protocols import Choices, Scored
from cuvee.runtime import Runtime
from cuvee.values import Example

Raw = Mapping[str, Any]
Scores = list[list[float]]


def raw_rows(path: Path) -> Iterator[Raw]:
    """Yield the rows of a packed JSON lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def arc(row: Raw) -> Raw:
    """Return a row as the hub has it."""
    labels = list("ABCD")
    question = row["query"].removeprefix("Question: ")
    return {
        "question": question,
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[row["gold"]],
    }


def mmlu(row: Raw) -> Raw:
    """Return a row as the hub has it."""
    return {
        "question": row["question"],
        "choices": [row[letter] for letter in "ABCD"],
        "answer": "ABCD".index(row["answer"]),
    }


def piqa(row: Raw) -> Raw:
    """Return a row as the hub has it."""
    goal = row["query"].removeprefix("Question: ")
    return {"goal": goal, "sol1": row["choices"][0], "sol2": row["choices"][1], "label": row["gold"]}


def alone(row: Raw) -> Raw:
    """Return a row of TruthfulQA with the best answer as the only true one, which is what mc1 weighs."""
    return {**row, "mc2_targets": row["mc1_targets"]}


def shots_of(base: str) -> list[Raw]:
    """Return the worked examples in one of the harness' task files."""
    import lm_eval.tasks

    text = (Path(lm_eval.tasks.__file__).parent / base).read_text(encoding="utf-8")
    found: list[Raw] = yaml.safe_load(text)["fewshot_config"]["samples"]
    return found


def winogrande(row: Raw) -> Raw:
    """Return a row as the hub has it."""
    message = formats.example(row, "choices").messages[0]
    first, second = message.extra["choices"]
    answer = str(message.extra["gold"][0] + 1)
    return {"sentence": message.content, "option1": first, "option2": second, "answer": answer}


def truthful(row: Raw) -> Raw:
    """Return a row as the hub has it, all true answers first."""
    message = formats.example(row, "choices").messages[0]
    texts, gold = message.extra["choices"], message.extra["gold"]
    labels = [int(number in gold) for number in range(len(texts))]
    single = [texts[0], *texts[len(gold) :]]
    return {
        "question": message.content,
        "mc1_targets": {"choices": single, "labels": [1] + [0] * (len(single) - 1)},
        "mc2_targets": {"choices": texts, "labels": labels},
    }


def hellaswag(rows: Sequence[Raw]) -> list[Raw]:
    """Return rows in HellaSwag's layout, with the marks that its texts are cleaned of, made from PIQA's rows."""
    found: list[Raw] = []
    for one, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        goal = one["query"].removeprefix("Question: ").strip()
        endings = [f"{text} [substeps] It is done." for text in (*one["choices"], *other["choices"])]
        context = f"[header] {goal} [title] Look for a way."
        scene = {"activity_label": "Home and Garden", "ctx_a": context, "ctx_b": "one way is this:"}
        found.append({**scene, "ctx": f"{context} One way is this:", "endings": endings, "label": str(one["gold"])})
    return found


# ------------------------------------------------------------------------------------------------- the harness


class Harness:
    """The harness with one model, on tasks whose rows lie in a folder of ours."""

    def __init__(self, model: Path, folder: Path) -> None:
        from lm_eval.models.huggingface import HFLM

        self.folder, self.tasks = folder, dict[str, Any]()
        self.lm = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=1)

    def add(self, name: str, base: str, rows: Sequence[Raw], shots: Sequence[Raw] = (), **more: Any) -> None:
        """Make the harness' own task `base` over local rows."""
        import lm_eval.tasks

        files = {"test": self._file(name, rows)} | ({"dev": self._file(f"{name}_dev", shots)} if shots else {})
        given = {
            "include": str(Path(lm_eval.tasks.__file__).parent / base),
            "task": name,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
            "training_split": None,
            "validation_split": None,
            "test_split": "test",
            "fewshot_split": "dev" if shots else None,
            "num_fewshot": more.pop("num_fewshot", 0),
            **more,
        }
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")

    def _file(self, name: str, rows: Sequence[Raw]) -> str:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    def requests(self, name: str) -> list[Any]:
        """Return a task's requests."""
        from lm_eval.tasks import TaskManager

        with contextlib.redirect_stdout(io.StringIO()):
            manager = TaskManager(include_path=str(self.folder))
            (task,) = manager.load([name])["tasks"].values()
            task.build_all_requests(limit=None, rank=0, world_size=1)
        found: list[Any] = task.instances
        return found

    def scores(self, requests: Sequence[Any], batch: int) -> Scores:
        """Return the log-probabilities by item."""
        self.lm.batch_size_per_gpu = batch
        answers = self.lm.loglikelihood(list(requests), disable_tqdm=True)
        pairs = zip(requests, answers, strict=True)
        return [[a for _, (a, _) in group] for _, group in itertools.groupby(pairs, key=lambda pair: pair[0].doc_id)]


# --------------------------------------------------------------------------------------------------------- ours


def asked(name: str, rows: Sequence[Raw], shots: Sequence[Raw], number: int, **params: Any) -> list[Choices]:
    """Return what our evaluator asks of the rows, in their order."""
    module = components.find("evaluators", name)
    worked = [formats.example(row, "choices") for row in shots][:number]
    examples: list[Example] = [formats.example(row, "choices") for row in rows]
    return [module.ask(example, worked, params) for example in examples]


def ours(model: Path, pairs: Pairs, items: Sequence[Choices], runtime: Runtime) -> Scores:
    """Return the log-probabilities by item, from texts."""
    prompts = [pairs.of(item) for item in items]
    rows = iter(pairs.rows([pair for item in prompts for pair in item]))
    tokens = [[next(rows) for _ in item] for item in prompts]
    found: list[list[Scored]] = choices.choose(model, tokens, runtime, lambda facts: None)
    return [[one.logprob for one in item] for item in found]


# ------------------------------------------------------------------------------------------------------ comparing


def timed(work: Callable[[], Scores]) -> tuple[Scores, float, float]:
    """Return what was made, with processor and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return found, time.process_time() - cpu, time.perf_counter() - wall


def exact(model: Path, pairs: Pairs, items: Sequence[Choices]) -> list[dict[tuple[str, str], float]]:
    """Return the log-probabilities of items in float64 by text, the stock model reading one choice after another."""
    from transformers import AutoModelForCausalLM

    stock: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    stock.eval()
    found = []
    for item in items:
        texts = pairs.of(item)
        values = {}
        for text, row in zip(texts, pairs.rows(texts), strict=True):
            ids = torch.tensor([list(row.ids)])
            with torch.inference_mode():
                logprobs = torch.log_softmax(stock(ids[:, :-1]).logits[0], -1)
            at = range(row.spans[0][0] - 1, len(row.ids) - 1)
            values[text] = float(sum(logprobs[n, ids[0, n + 1]] for n in at))
        found.append(values)
    return found


def by_text(texts: Sequence[Sequence[tuple[str, str]]], scores: Scores) -> list[dict[tuple[str, str], float]]:
    """Return each item's log-probabilities by (context, continuation)."""
    return [dict(zip(item, values, strict=True)) for item, values in zip(texts, scores, strict=True)]


def farthest(some: Sequence[Mapping[Any, float]], others: Sequence[Mapping[Any, float]]) -> float:
    """Return the largest difference of the values that both have."""
    pairs = [(one[key], other[key]) for one, other in zip(some, others, strict=False) for key in one.keys() & other]
    return max(abs(one - other) for one, other in pairs)


def compare(name: str, harness: Harness, items: Sequence[Choices], model: Path, how: argparse.Namespace) -> float:
    """Print one benchmark's seconds, ratio and largest difference; return the difference."""
    runtime = Runtime(device="cpu", threads=how.threads, micro_tokens=how.micro_tokens)
    requests, pairs = harness.requests(name), Pairs(model, None)
    theirs_texts = [[r.args for r in group] for _, group in itertools.groupby(requests, key=lambda r: r.doc_id)]
    ours_texts = [pairs.of(item) for item in items]
    # A task of BBH weighs letters too that an item has no option for.
    other = sum(not set(b) <= set(a) for a, b in zip(theirs_texts, ours_texts, strict=True))
    best: dict[int, list[float]] = {batch: [] for batch in how.batches}
    mine: list[float] = []
    far = 0.0
    for _ in range(how.rounds):
        found, cpu, wall = timed(lambda: ours(model, pairs, items, runtime))
        mine.append(cpu)
        for batch in how.batches:
            reference, seconds, wall_reference = timed(lambda batch=batch: harness.scores(requests, batch))  # type: ignore[misc]
            best[batch].append(seconds)
            one, two = by_text(ours_texts, found), by_text(theirs_texts, reference)
            far = max(far, farthest(one, two))
            print(
                f"  {name}: cuvee {cpu:.1f} s cpu, {wall:.1f} s; "
                f"harness (batch {batch}) {seconds:.1f} s cpu, {wall_reference:.1f} s"
            )
    if how.exact:
        true = exact(model, pairs, items[: how.exact])
        size = max(abs(value) for values in true for value in values.values())
        print(
            f"  {name}: from float64, {len(true)} items down to {-size:.0f}: cuvee {farthest(true, one):.1e}, "
            f"harness {farthest(true, two):.1e}"
        )
    fastest = min(best, key=lambda batch: min(best[batch]))
    ratio = min(best[fastest]) / min(mine)
    print(
        f"{name}: {len(items)} items, {len(requests)} choices: {ratio:.1f} times the harness (batch {fastest}); "
        f"largest difference {far:.1e}; other texts in {other} items",
        flush=True,
    )
    return far


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--arc", type=int, default=60)
    parser.add_argument("--mmlu", type=int, default=20)
    parser.add_argument("--others", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-tokens", type=int, default=4096)
    parser.add_argument("--exact", type=int, default=0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    how = parser.parse_args()
    torch.set_num_threads(how.threads)
    model = how.model.expanduser()
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(model, Path(folder))
        loading.cached(model, "float32", torch.device("cpu"))
        far = max(work for work in _all(harness, model, how))
    print(f"torch {torch.__version__}; largest difference of all {far:.1e}")


def _all(harness: Harness, model: Path, how: argparse.Namespace) -> Iterator[float]:
    def rows(name: str, number: int) -> list[Raw]:
        return list(itertools.islice(raw_rows(how.data / f"{name}.jsonl.gz"), number))

    if how.arc:
        given = rows("arc_easy", how.arc)
        harness.add("local_arc", "arc/arc_easy.yaml", [arc(row) for row in given])
        yield compare("local_arc", harness, asked("arc", given, (), 0), model, how)
    if how.mmlu:
        subject = "anatomy"
        given = [row for row in raw_rows(how.data / "mmlu_test.jsonl.gz") if row["subject"] == subject][: how.mmlu]
        shots = [row for row in raw_rows(how.data / "mmlu_dev.jsonl.gz") if row["subject"] == subject]
        for number in (0, 5):
            name = f"local_mmlu_{number}"
            base = "mmlu/default/mmlu_anatomy.yaml"
            harness.add(name, base, [mmlu(row) for row in given], [mmlu(row) for row in shots], num_fewshot=number)
            yield compare(name, harness, asked("mmlu", given, shots, number), model, how)
    if how.others:
        given = rows("piqa", how.others)
        harness.add("local_piqa", "piqa/piqa.yaml", [piqa(row) for row in given])
        yield compare("local_piqa", harness, asked("piqa", given, (), 0), model, how)
        given = rows("winogrande", how.others)
        harness.add("local_winogrande", "winogrande/default.yaml", [winogrande(row) for row in given])
        yield compare("local_winogrande", harness, asked("winogrande", given, (), 0), model, how)
        given = rows("truthfulqa", how.others)
        for name in ("truthfulqa_mc1", "truthfulqa_mc2"):
            harness.add(f"local_{name}", f"truthfulqa/{name}.yaml", [truthful(row) for row in given])
            single = [truthful(row) for row in given]
            items = asked("truthfulqa", [alone(row) for row in single] if name.endswith("1") else given, (), 0)
            yield compare(f"local_{name}", harness, items, model, how)
        given = hellaswag(rows("piqa", how.others))
        harness.add("local_hellaswag", "hellaswag/hellaswag.yaml", given)
        yield compare("local_hellaswag", harness, asked("hellaswag", given, (), 0), model, how)
        for task in ("boolean_expressions", "date_understanding", "navigate"):
            every = [row for row in raw_rows(how.data / "bbh.jsonl.gz") if row["task"] == task]
            given, base = every[-how.others :], f"leaderboard/bbh_mc/{task}.yaml"
            # The harness' three shots are in its file.
            harness.add(f"local_{task}", base, given, num_fewshot=3, description="")
            yield compare(f"local_{task}", harness, asked("bbh", given, shots_of(base), 3), model, how)


if __name__ == "__main__":
    main()
