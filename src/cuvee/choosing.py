"""Asking a model to weigh an evaluator's choices; grading is a stage of its own, so that another reading costs nothing.

choices.parquet   item, cluster, group, choice, text, right, logprob, tokens, greedy, cut, prompt, continuation; an
                  item's choices stand together, and a prompt that is the one of the choice before is left empty
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from cuvee import components, seeds
from cuvee.errors import StageFailed
from cuvee.job import Job
from cuvee.protocols import Choices, Progress, Scored, ScoredChoice
from cuvee.runtime import Runtime
from cuvee.store import Store
from cuvee.values import Example

CHOICES = "choices.parquet"
JOURNAL = "scores.jsonl"


def choose(
    job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress, folder: Path, tokenizer: Path
) -> dict[str, Any]:
    """Weigh all choices of all items; finished items survive a kill.

    Args:
        job: the stage.
        work: its work folder.
        store: where its inputs lie.
        runtime: how to run.
        progress: told how far it is.
        folder: the model.
        tokenizer: a folder with the model's tokenizer.

    Raises:
        StageFailed: there is nothing to weigh, or no shot for an item's group.
        DataError: a continuation adds no token to its context.
    """
    from cuvee import engine
    from cuvee.data.pairs import Pairs

    asked, facts = _asked(job, store)
    pairs = Pairs(tokenizer, job.params["template"])
    prompts = [pairs.of(item) for _, item in asked]
    flat = [pair for item in prompts for pair in item]
    rows = pairs.rows(flat)
    starts = [0]
    for item in prompts:
        starts.append(starts[-1] + len(item))
    scores = engine.for_model(folder).choose(
        folder,
        [rows[a:b] for a, b in pairwise(starts)],
        runtime,
        progress,
        job.params["precision"],
        journal=work / JOURNAL,
        cut=job.params["too_long"] == "cut",
        golds=[item.gold for _, item in asked],
        ability=job.names.get(job.inputs["items"][0].id, ("", ""))[1],
    )
    _write(work / CHOICES, asked, prompts, scores)
    (work / JOURNAL).unlink(missing_ok=True)
    each = [one for item in scores for one in item]
    return {
        **facts,
        "items": len(asked),
        "choices": len(each),
        "continuation_tokens": sum(one.tokens for one in each),
        "cut": sum(any(one.cut for one in item) for item in scores),
        "cut_tokens": sum(one.cut for one in each),
        "not_numbers": sum(one.logprob != one.logprob for one in each),
        "encoding": pairs.describe(),
    }


def _asked(job: Job, store: Store) -> tuple[list[tuple[Example, Choices]], dict[str, Any]]:
    """Return the rows with what is asked of each, and what is known of their number."""
    from cuvee.data import examples, items

    params, module = job.params, components.find("evaluators", job.component)
    found = items.examples([item.folder for item in job.inputs["items"]], None, params["split_seed"] or 0, None)
    shots = [row for item in job.inputs.get("shots", ()) for row, _ in examples.read(item.folder)]
    pick = _Shots(shots, params, getattr(module, "GROUPED", False) or params.get("grouped", False), job.short)
    chosen = found[: params["items"]]
    asked = [(row, ask) for row in chosen if (ask := module.ask(row, pick(row), params)) is not None]
    if not asked:
        names = ", ".join(item.label for item in job.inputs["items"])
        raise StageFailed(f"nothing of {names} can be asked: no row is an item", stage=job.short)
    rows = sum(store.manifest("load", item.id)["summary"]["rows"] for item in job.inputs["items"])
    return asked, {"full": max(len(found), params["full"] or 0), "repeated": rows - len(found)}


class _Shots:
    """Chooses the worked examples of each item: never the item itself.

    Args:
        rows: where they come from, in the order of the file.
        params: of the stage: how many, and the first ones or drawn ones.
        grouped: whether only rows of the item's group count.
        stage: for messages.
    """

    def __init__(self, rows: Sequence[Example], params: Mapping[str, Any], grouped: bool, stage: str) -> None:
        self.params, self.grouped, self.stage = params, grouped, stage
        self._by_group: dict[str, list[Example]] = {}
        for row in rows:
            self._by_group.setdefault(self._group(row), []).append(row)

    def _group(self, row: Example) -> str:
        return str(row.messages[0].extra.get("group", "")) if self.grouped else ""

    def __call__(self, item: Example) -> list[Example]:
        number = self.params["shots"]
        if not number:
            return []
        group = self._group(item)
        rows = [row for row in self._by_group.get(group, ()) if row.key != item.key]
        if len(rows) < number:
            of = f" of {group}" if group else ""
            raise StageFailed(
                f"item {item.id} asks for {number} shots, and the file of shots has {len(rows)}{of}; say shots: "
                f"{len(rows)}, or give a file with more",
                stage=self.stage,
            )
        if self.params["pick"] == "drawn":
            # A key of its own for every pair of item and shot: independent of the file's order.
            seed = self.params["seed"]
            rows = sorted(rows, key=lambda row: (seeds.rank(seed, "shots", item.key + row.key), row.key))
        return rows[:number]


def _write(
    path: Path,
    asked: Sequence[tuple[Example, Choices]],
    prompts: Sequence[Sequence[tuple[str, str]]],
    scores: Sequence[Sequence[Scored]],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for (row, item), pairs, found in zip(asked, prompts, scores, strict=True):
        before = None
        for number, ((context, continuation), one) in enumerate(zip(pairs, found, strict=True)):
            values = (
                *(item.item, row.prompt_key.hex(), item.group, number, item.texts[number], number in item.gold),
                *(one.logprob, one.tokens, one.greedy, one.cut, "" if context == before else context, continuation),
            )
            before = context
            for name, value in zip(COLUMNS, values, strict=True):
                columns[name].append(value)
    pq.write_table(pa.table(columns), path, compression="zstd")


COLUMNS = (
    *("item", "cluster", "group", "choice", "text", "right"),
    *("logprob", "tokens", "greedy", "cut", "prompt", "continuation"),
)


def scored(folder: Path) -> Iterator[tuple[str, str, str, list[ScoredChoice]]]:
    """Yield each item's id, cluster and group with its choices."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / CHOICES, columns=list(COLUMNS[:-2])).to_pylist()
    for item, group in groupby(rows, key=lambda row: row["item"]):
        found = list(group)
        names = ("text", "right", "logprob", "tokens", "greedy", "cut")
        choices = [ScoredChoice(*(row[name] for name in names)) for row in found]
        yield item, found[0]["cluster"], found[0]["group"], choices
