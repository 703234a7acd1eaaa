"""Asking a model an evaluator's questions, and grading what it answered: two stages, so that a better grader costs no
generation.

    responses.parquet   item, cluster, sample, prompt, reference, text, tokens, finish; an item's samples stand
                        together; where items have several turns, turn as well
    results.parquet     item, cluster, score, weight, and the grader's own columns

Items of one cluster have the same question, and hang together where chance is concerned.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

from cuvee import answering, choosing, components, lookups, model_judge
from cuvee.errors import StageFailed
from cuvee.job import Job
from cuvee.protocols import Grade, Likelihood, Progress, Request, Response
from cuvee.runtime import Runtime
from cuvee.store import Store
from cuvee.values import Example

RESPONSES = "responses.parquet"
RESULTS = "results.parquet"


def generate(
    job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress, folder: Path, tokenizer: Path
) -> dict[str, Any]:
    """Ask a model all questions; finished answers survive a kill.

    Args:
        job: the stage.
        work: its work folder.
        store: where its inputs lie.
        runtime: how to run.
        progress: told how far it is.
        folder: the model.
        tokenizer: a folder with the model's tokenizer.

    Raises:
        StageFailed: there is nothing to ask.
    """
    asked, facts = _requests(job, store)
    requests = [request for _, request in asked]

    def ask(some: Sequence[Request]) -> list[answering.Answer]:
        if job.one("model").locate.get("endpoint"):
            return answering.by_endpoint(job, some, work, progress)
        return answering.by_model(job, some, work, runtime, progress, folder, tokenizer)

    replies = answering.converse(requests, ask)
    answers = [reply.answer for reply in replies]
    turns = max(reply.turn for reply in replies)
    texts = [_storable(answer.text) for answer in answers]
    write_table(work / RESPONSES, {**_asked_columns(asked, replies, turns), **_answer_columns(texts, answers)})
    return {
        **facts,
        "items": len(asked),
        "samples": 1 + max(reply.sample for reply in replies),
        **({"turns": turns} if turns > 1 else {}),
        "new_tokens": sum(answer.tokens for answer in answers),
        "finish": dict(Counter(answer.finish for answer in answers)),
        "cut": sum(answer.finish == "length" for answer in answers),
        "repaired": sum(text != answer.text for text, answer in zip(texts, answers, strict=True)),
    }


def _asked_columns(
    asked: Sequence[tuple[Example, Request]], replies: Sequence[answering.Reply], turns: int
) -> dict[str, list[Any]]:
    each = [asked[reply.number] for reply in replies]
    first = [reply.sample == 0 and reply.turn == 1 for reply in replies]
    return {
        "item": [request.item for _, request in each],
        "cluster": [example.prompt_key.hex() for example, _ in each],
        "sample": [reply.sample for reply in replies],
        **({"turn": [reply.turn for reply in replies]} if turns > 1 else {}),
        "prompt": [json.dumps([m.as_dict() for m in reply.messages], ensure_ascii=False) for reply in replies],
        # References can be large; an item's first row has it.
        "reference": [request.reference if new else "" for (_, request), new in zip(each, first, strict=True)],
    }


def _answer_columns(texts: Sequence[str], answers: Sequence[answering.Answer]) -> dict[str, list[Any]]:
    return {
        "text": list(texts),
        "tokens": [answer.tokens for answer in answers],
        "finish": [answer.finish for answer in answers],
    }


def _storable(text: str) -> str:
    """Return text that UTF-8 can hold: a server may send half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _requests(job: Job, store: Store) -> tuple[list[tuple[Example, Request]], dict[str, Any]]:
    """Return what is asked, with how many items the benchmark has, and how many of its rows repeat an item."""
    from cuvee.data import items

    params, module = job.params, components.find("evaluators", job.component)
    heldout = Fraction(params["heldout"]) if params["heldout"] else None
    hows = params.get("filters", ())
    found = items.examples(
        [item.folder for item in job.inputs["items"]],
        heldout,
        params["split_seed"] or 0,
        None,
        hows,
        [lookups.tags(how, store) for how in hows],
    )
    every = [(example, request) for example in found if (request := module.request(example, params)) is not None]
    asked = every[: params["items"]]
    if not asked:
        names = ", ".join(item.label for item in job.inputs["items"])
        why = f"heldout {heldout} of so few rows is none; raise heldout" if heldout else "no row is an item"
        raise StageFailed(f"nothing of {names} can be asked: {why}", stage=job.short)
    facts = {"full": max(len(every), getattr(module, "SIZE", 0))}
    if heldout is None:
        rows = sum(store.manifest("load", item.id)["summary"]["rows"] for item in job.inputs["items"])
        facts["repeated"] = rows - len(found)
    return asked, facts


def grade(job: Job, work: Path, store: Store, runtime: Runtime) -> dict[str, Any]:
    """Grade likelihoods, answers, choices or a judge's verdicts, one score an item."""
    module, answers = components.find("evaluators", job.component), job.one("answers")
    if module.ANSWERS == "judge":
        return model_judge.grade(module, job, work, store)
    columns, grades = _grades(module, answers.folder, job.params, runtime)
    own = {name: [one.extra[name] for one in grades] for name in grades[0].extra}
    scores, weights = [one.score for one in grades], [one.weight for one in grades]
    write_table(work / RESULTS, {**columns, "score": scores, "weight": weights, **own})
    asked = store.manifest(answers.kind, answers.id)["summary"]
    metric = _metric(module, job.params)
    summary: dict[str, Any] = {
        "n": len(grades),
        "full": asked["full"],
        "metric": metric,
        "mean": sum(score * weight for score, weight in zip(scores, weights, strict=True)) / sum(weights),
    }
    told = ("task_versions", "n_shot", "filters", "harness")
    summary |= {name: asked[name] for name in told if name in asked}
    if module.ANSWERS == "harness":
        summary["higher_is_better"] = asked["higher_is_better"].get(job.params["metric"], True)
    if metric == "accuracy" and math.isfinite(right := sum(scores)):
        summary["m"] = int(right) if right == int(right) else round(right, 4)
        replies = {} if answers.kind in ("choose", "harness") else {"replies": asked["items"] * asked.get("samples", 1)}
        summary |= {**replies, **_counts(own)}
        summary |= {name: asked[name] for name in ("repeated", "repaired", "finish") if asked.get(name)}
    if "isolated" in own:
        summary["isolated"] = all(own["isolated"])
    return summary


def _metric(module: Any, params: Mapping[str, Any]) -> str:
    """Return the metric's name in tables, which may hang on the parameters."""
    accuracies = getattr(module, "ACCURACIES", None)
    if accuracies is None or params["metric"] in accuracies:
        return str(module.METRIC)
    return str(params["metric"])


COUNTED = ("unread", "cut", "given_up", "shortened", "inputs_skipped", "same", "context_cut")
"""Columns of evaluators that count replies or inputs."""


def _counts(own: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return what is to be known of the replies: how many could not be read, were cut, ..."""
    found = {name: sum(value or 0 for value in own[name]) for name in COUNTED if name in own}
    if "extracted" in own:
        found["unread"] = sum(not each for each in own["extracted"])
    return found


def _grades(
    module: Any, folder: Path, params: Mapping[str, Any], runtime: Runtime
) -> tuple[dict[str, list[str]], Sequence[Grade]]:
    """Return the columns that name the items, and their grades."""
    if module.ANSWERS == "score":
        rows = read_table(folder / "scores.parquet")
        grades = [module.grade(Likelihood(row["nll"], row["tokens"])) for row in rows]
        named = [name for name in ("item", "losses", "texts") if name in rows[0]]
        return {name: [row[name] for row in rows] for name in named}, grades
    if module.ANSWERS == "harness":
        graded = module.grade_all(read_table(folder / "harness.parquet"), params)
        columns = {"item": [one[0] for one in graded], "group": [one[1] for one in graded]}
        return columns, [one[2] for one in graded]
    if module.ANSWERS == "choose":
        found = list(choosing.scored(folder))
        columns = {"item": [one[0] for one in found], "cluster": [one[1] for one in found]}
        return {**columns, "group": [one[2] for one in found]}, [module.grade(one[3], params) for one in found]
    answered = list(_answered(read_table(folder / RESPONSES)))
    columns = {"item": [request.item for request, *_ in answered], "cluster": [cluster for *_, cluster in answered]}
    asked = [(request, responses) for request, responses, _ in answered]
    if hasattr(module, "grade_many"):
        return columns, module.grade_many(asked, params, max(1, runtime.threads))
    return columns, [module.grade(request, responses, params) for request, responses in asked]


def _answered(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Request, list[Response], str]]:
    """Yield each item's request with its answers, and what it shares with other items.

    Raises:
        StageFailed: an answer is missing; that is never a wrong one.
    """
    for item, group in groupby(rows, key=lambda row: row["item"]):
        found = list(group)
        if any(row["text"] is None for row in found):
            raise StageFailed(f"item {item} has no answer; a request that failed is no wrong answer: generate again")
        responses = [Response(row["text"], row["finish"]) for row in found]
        yield Request(item, (), found[0]["reference"]), responses, found[0].get("cluster", item)


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), path)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return a Parquet file's rows."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
