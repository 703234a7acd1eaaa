"""A model as judge: asking it about replies, and grading from what it answered. Two stages, so that another reading of
its answers asks nobody.

    judgements.parquet  item, turn, order, repeat, prompt, format, text, finish, failure, tokens, key: one row a verdict
    items.parquet       item, cluster, reference, turns
    verdicts.parquet    of the grade stage: item, turn, order, repeat, value, failure, fallback
    results.parquet     of the grade stage: item, cluster, turn, score, weight, and the grader's own columns

A judgement is asked for once in a store: one with the same key (judge, messages, sampling, number of the repeat) that
another stage has is taken over. A request that fails is no verdict, and never a low one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cuvee import canonical, components, seeds
from cuvee.bases import MODEL
from cuvee.errors import StageFailed
from cuvee.job import Input, Job
from cuvee.protocols import Conversation, Grade, Judgement, Progress, Question, Verdict
from cuvee.runtime import Runtime
from cuvee.store import Store
from cuvee.store.store import MANIFEST

JUDGEMENTS = "judgements.parquet"
ITEMS = "items.parquet"
VERDICTS = "verdicts.parquet"
RESULTS = "results.parquet"
WHO = "judge.txt"
"""File of a work folder that names the judge: what it answered there is of use to other stages."""

REFUSED, NO_ANSWER, TOO_LONG = "refused", "no answer", "too long"
"""Failures of requests; the others are the evaluator's."""


@dataclass(frozen=True)
class Asked:
    """A question with the number of its repeat, and the hash of all that decides the answer."""

    question: Question
    repeat: int
    key: str

    @property
    def name(self) -> str:
        """What tells it from the others of its stage."""
        one = self.question
        return f"{one.item}/{one.turn}/{one.order}/{self.repeat}"


@dataclass(frozen=True)
class Said:
    """What came back: no text where the request failed."""

    text: str | None
    finish: str = "stop"
    tokens: int = 0
    prompt_tokens: int = 0
    failure: str = ""


def write(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Ask a judge about a model's replies; what it answered survives a kill.

    Args:
        job: the judge stage.
        work: its work folder.
        store: where its inputs lie, and judgements that were made before.
        runtime: how a local judge is run.
        progress: told how far it is.

    Raises:
        UsageError: the key or a package is missing.
        StageFailed: the judge cannot be reached, or more requests failed than `judge.max_failed` allows.
    """
    asked = conversations(job.one("answers").folder)
    others = conversations(job.one("others").folder) if "others" in job.inputs else None
    module = components.find("evaluators", job.component)
    questions = module.questions([one for one, _ in asked], _alone(others), job.params, job.locate["files"])
    wanted = _wanted(questions, job)
    known = _known(job, store)
    missing = [one for one in wanted if one.question.messages and one.key not in known]
    said = {one.name: known[one.key] for one in wanted if one.key in known}
    (work / WHO).write_text(job.one("judge").id, encoding="utf-8")
    if missing:
        said |= _answerer(job, answered=bool(said))(missing, job, work, runtime, progress)
    _bear(said, job)
    _write_judgements(work, wanted, said)
    _write_items(work, asked)
    answers = store.manifest("generate", job.one("answers").id)["summary"]
    return {
        "items": len(asked),
        "requests": len(missing),
        "taken_over": sum(one.key in known for one in wanted),
        "full": answers["full"],
        "cut": answers.get("cut", 0),
        "prompt_tokens": sum(one.prompt_tokens for one in said.values()),
        "new_tokens": sum(one.tokens for one in said.values()),
        "failures": dict(Counter(one.failure for one in said.values() if one.failure)),
    }


def conversations(folder: Path) -> list[tuple[Conversation, str]]:
    """Return the items of a generate stage as a judge sees them, each with its cluster."""
    from cuvee.judging import RESPONSES, read_table

    found = []
    for item, rows in groupby(read_table(folder / RESPONSES), key=lambda row: row["item"]):
        turns = [row for row in rows if row["sample"] == 0]
        said = tuple(json.loads(row["prompt"])[-1]["content"] for row in turns)
        texts = tuple(row["text"] for row in turns)
        if None in texts:
            raise StageFailed(f"item {item} has no reply; a request that failed is no reply: generate again")
        found.append((Conversation(item, turns[0]["reference"], said, texts), turns[0]["cluster"]))
    return found


def _alone(pairs: Sequence[tuple[Conversation, str]] | None) -> list[Conversation] | None:
    return None if pairs is None else [one for one, _ in pairs]


def _wanted(questions: Sequence[Question], job: Job) -> list[Asked]:
    """Return every question as often as it is to be asked."""
    params = job.params
    how = {name: params.get(name) for name in ("temperature", "max_tokens", "template", "seed")}
    how["judge"] = job.one("judge").id
    found = []
    for question in questions:
        messages = [message.as_dict() for message in question.messages]
        for repeat in range(params["repeats"]):
            found.append(Asked(question, repeat, canonical.digest({**how, "messages": messages, "repeat": repeat})))
    return found


def _known(job: Job, store: Store) -> dict[str, Said]:
    """Return what this judge answered in stages that are finished, by key."""
    found: dict[str, Said] = {}
    for path in sorted((store.folder / "judge").glob(f"*/{MANIFEST}")):
        try:
            judge = json.loads(path.read_text(encoding="utf-8"))["identity"]["inputs"]["judge"]
        except (OSError, ValueError, KeyError):  # being deleted, or damaged
            continue
        if judge == [job.one("judge").id]:
            found |= _stored(path.parent / JUDGEMENTS)
    return found


def _stored(path: Path) -> dict[str, Said]:
    import pyarrow.parquet as pq

    names = ["key", "text", "finish", "tokens", "prompt_tokens"]
    rows = pq.read_table(path, columns=names).to_pylist()
    return {row.pop("key"): Said(**row) for row in rows if row["text"] is not None}


# ------------------------------------------------------------------------------------------------- asking

Answer = Callable[[Sequence[Asked], Job, Path, Runtime, Progress], dict[str, Said]]


def _answerer(job: Job, answered: bool) -> Answer:
    """Return who asks; `answered` says whether the judge has answered other requests of the stage."""
    from cuvee.engine import FAKE_FILE

    judge = job.one("judge")
    if judge.locate.get("endpoint"):
        return partial(_endpoint, answered=answered)
    return _fake if (_folder(judge) / FAKE_FILE).is_file() else _local


def _folder(judge: Input) -> Path:
    return Path(judge.locate["path"]) if "path" in judge.locate else judge.folder / MODEL


def _endpoint(
    wanted: Sequence[Asked], job: Job, work: Path, runtime: Runtime, progress: Progress, answered: bool
) -> dict[str, Said]:
    from cuvee.engine import endpoint

    params = job.params
    server = endpoint.Endpoint(**job.one("judge").locate["endpoint"])
    unfinished = list(_unfinished(work, job.one("judge").id, endpoint.JOURNAL))
    found: dict[str, Said] = {}
    for repeat in sorted({one.repeat for one in wanted}):
        seed = None if params.get("seed") is None else params["seed"] + repeat
        settings = endpoint.Settings(server, params["max_tokens"], params["temperature"], seed, copy=repeat)
        asked = [(one.name, one.question.messages) for one in wanted if one.repeat == repeat]
        journal = work / endpoint.JOURNAL
        answers, failures = endpoint.ask_most(asked, settings, journal, progress, unfinished, answered)
        for name, answer in answers.items():
            usage = answer.usage
            text = answer.text.encode("utf-8", "replace").decode()
            found[name] = Said(text, answer.finish, usage.get("completion_tokens", 0), usage.get("prompt_tokens", 0))
        for name, failure in failures.items():
            kind = REFUSED if failure.refused else NO_ANSWER
            found[name] = Said(None, failure.reason, failure=kind)
    return found


def _unfinished(work: Path, judge: str, journal: str) -> Iterator[Path]:
    """Yield the journals of other stages that have asked this judge and are not finished."""
    for who in sorted(work.parent.glob(f"judge-*/{WHO}")):
        if who.parent != work and (who.parent / journal).exists() and who.read_text(encoding="utf-8") == judge:
            yield who.parent / journal


def _local(wanted: Sequence[Asked], job: Job, work: Path, runtime: Runtime, progress: Progress) -> dict[str, Said]:
    from cuvee import engine
    from cuvee.data.chat import Chat
    from cuvee.engine import loading
    from cuvee.engine.decoding import Decoding, Prompt

    params, folder = job.params, _folder(job.one("judge"))
    chat = Chat(folder, params["template"])
    drawn = {"temperature": params["temperature"], "seed": params.get("seed") or 0} if params["temperature"] else {}
    repeats = params["repeats"]
    each = {one.name.rpartition("/")[0]: one.question for one in wanted}
    every = [Prompt(name, chat.prompt(question.messages)) for name, question in each.items()]
    limit = loading.context_of(folder)
    prompts = [prompt for prompt in every if len(prompt.ids) < limit]
    found = {
        f"{prompt.id}/{repeat}": Said(None, f"{len(prompt.ids)} tokens, of a context of {limit}", failure=TOO_LONG)
        for prompt in every
        if len(prompt.ids) >= limit
        for repeat in range(repeats)
    }
    if not prompts:
        return found
    replies = engine.for_model(folder, runtime.generator).generate(
        folder,
        prompts,
        Decoding(params["max_tokens"], samples=repeats, **drawn),
        chat.stop_ids,
        runtime,
        progress,
        "float32",
        journal=work / "answers.jsonl",
    )
    places = [(prompt, repeat) for prompt in prompts for repeat in range(repeats)]
    return found | {
        f"{prompt.id}/{repeat}": Said(chat.decode(reply.ids), reply.finish, len(reply.ids), len(prompt.ids))
        for (prompt, repeat), reply in zip(places, replies, strict=True)
    }


def _fake(wanted: Sequence[Asked], job: Job, work: Path, runtime: Runtime, progress: Progress) -> dict[str, Said]:
    """Return verdicts that hang on the questions alone, for dry runs."""
    progress({"step": len(wanted), "steps": len(wanted)})
    return {
        one.name: Said(
            one.question.possible[seeds.rank(0, "fake verdict", one.key.encode()) % len(one.question.possible)]
        )
        for one in wanted
    }


def _bear(said: Mapping[str, Said], job: Job) -> None:
    """Refuse more requests without an answer than the recipe allows: they can be asked again.

    What a judge refuses for good it would refuse again; such requests are counted and no error.
    """
    failed = [one for one in said.values() if one.failure == NO_ANSWER]
    limit = Fraction(job.locate["max_failed"])
    if len(failed) <= limit * len(said):
        return
    share = Fraction(len(failed), len(said)).limit_denominator(1000)
    raise StageFailed(
        f"{len(failed):,} of {len(said):,} requests to the judge {job.one('judge').label} have no answer; the first: "
        f"{failed[0].finish}. The other {len(said) - len(failed):,} are kept: run again to ask the rest, or take the "
        f"result without them: judge.max_failed: {float(share) + 0.001:.3f}",
        stage=job.short,
    )


def _write_judgements(work: Path, wanted: Sequence[Asked], said: Mapping[str, Said]) -> None:
    from cuvee.judging import write_table

    rows = []
    for one in wanted:
        question = one.question
        found = said.get(one.name) or Said(None, "", failure=question.failure)
        rows.append(
            {
                "item": question.item,
                "turn": question.turn,
                "order": question.order,
                "repeat": one.repeat,
                "prompt": json.dumps([message.as_dict() for message in question.messages], ensure_ascii=False),
                "format": question.format,
                **vars(found),
                "key": one.key,
            }
        )
    write_table(work / JUDGEMENTS, _columns(rows))


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _write_items(work: Path, asked: Sequence[tuple[Conversation, str]]) -> None:
    from cuvee.judging import write_table

    write_table(
        work / ITEMS,
        {
            "item": [one.item for one, _ in asked],
            "cluster": [cluster for _, cluster in asked],
            "reference": [one.reference for one, _ in asked],
            "turns": [len(one.turns) for one, _ in asked],
        },
    )


# ------------------------------------------------------------------------------------------------ grading


@dataclass(frozen=True)
class Graded:
    """One turn of one item: its verdicts, and their grade, None where no verdict could be read."""

    item: str
    turn: int
    reference: str
    cluster: str
    verdicts: tuple[Verdict, ...]
    grade: Grade | None


def graded(
    module: Any, items: Mapping[str, tuple[str, str]], judgements: Sequence[Judgement], params: Mapping[str, Any]
) -> list[Graded]:
    """Return the grade of each turn of each item, in the order of the judgements.

    Args:
        module: the evaluator.
        items: (reference, cluster) by item.
        judgements: what the judge answered; those on one turn of an item stand together.
        params: the grade stage's parameters.
    """
    found = []
    for (item, turn), some in groupby(judgements, key=lambda one: (one.item, one.turn)):
        verdicts = tuple(module.read(one, params) for one in some)
        reference, cluster = items[item]
        found.append(Graded(item, turn, reference, cluster, verdicts, module.combine(reference, verdicts)))
    return found


def grade(module: Any, job: Job, work: Path, store: Store) -> dict[str, Any]:
    """Grade from a judge's answers: one score a turn of an item; those without a verdict have none and are counted.

    Raises:
        StageFailed: no verdict could be read at all.
    """
    from cuvee.judging import read_table, write_table

    judged = job.one("answers")
    rows = read_table(judged.folder / JUDGEMENTS)
    names = ("item", "turn", "order", "repeat", "text", "finish", "failure", "format")
    judgements = [Judgement(**{name: row[name] for name in names}) for row in rows]
    told = read_table(judged.folder / ITEMS)
    items = {row["item"]: (row["reference"], row["cluster"]) for row in told}
    found = graded(module, items, judgements, job.params)
    scored = [one for one in found if one.grade is not None]
    verdicts = [verdict for one in found for verdict in one.verdicts]
    write_table(work / VERDICTS, _columns([_verdict_row(one) for one in verdicts]))
    if not scored:
        raise StageFailed(_nothing(judgements, verdicts), stage=job.short)
    several = len({one.turn for one in found}) > 1
    write_table(work / RESULTS, _columns([_result_row(one, one.grade, several) for one in scored if one.grade]))
    asked = store.manifest(judged.kind, judged.id)["summary"]
    # Any questions can be compared on, also such as have one turn.
    turns = max(row["turns"] for row in told) if module.COMPARES else module.TURNS
    return {
        "n": len(scored),
        "full": asked["full"] * turns,
        "metric": module.METRIC,
        "mean": _mean(scored),
        "unjudged": len(found) - len(scored),
        "replies": len(found),
        "cut": asked["cut"],
        "verdicts": _told(module, found, verdicts),
        "by": breakdown(scored),
    }


def _verdict_row(one: Verdict) -> dict[str, Any]:
    return {**{name: getattr(one, name) for name in ("item", "turn", "order", "repeat", "failure", "fallback")}} | {
        "value": None if one.value is None else str(one.value)
    }


def _result_row(one: Graded, grade: Grade, several: bool) -> dict[str, Any]:
    return {
        "item": f"{one.item}/{one.turn}" if several else one.item,
        "cluster": one.cluster,
        "turn": one.turn,
        "score": grade.score,
        "weight": grade.weight,
        **grade.extra,
    }


def _nothing(judgements: Sequence[Judgement], verdicts: Sequence[Verdict]) -> str:
    reasons = Counter(one.failure for one in verdicts)
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    shown = next((one.text for one in judgements if one.text), None)
    example = f"; one of its answers: {shown[:300]!r}" if shown else ""
    return f"the judge gave no verdict on any of {len(verdicts):,} replies ({told}){example}. {_remedy(set(reasons))}"


def _remedy(reasons: set[str]) -> str:
    if reasons == {REFUSED}:
        return "It refuses to judge them, as a content filter does: take another judge or another prompt"
    if reasons == {TOO_LONG}:
        return "Take a judge with a longer context, shorter replies (max_new_tokens) or a shorter prompt"
    return "Take a judge that follows the form its prompt asks for, or a prompt that it follows"


def _mean(scored: Sequence[Graded]) -> float:
    grades = [one.grade for one in scored if one.grade is not None]
    return sum(one.score * one.weight for one in grades) / sum(one.weight for one in grades)


def breakdown(scored: Sequence[Graded]) -> dict[str, dict[str, dict[str, float]]]:
    """Return mean and number of scores by turn and by category."""
    parts: dict[str, dict[str, list[Graded]]] = {"turn": {}, "category": {}}
    for one in scored:
        parts["turn"].setdefault(str(one.turn), []).append(one)
        if one.grade and "category" in one.grade.extra:
            parts["category"].setdefault(str(one.grade.extra["category"]), []).append(one)
    return {
        name: {key: {"mean": _mean(some), "n": len(some)} for key, some in groups.items()}
        for name, groups in parts.items()
    }


OUTCOMES = ("win", "tie", "inconsistent", "loss", "first_preferred")
"""Columns of comparisons that are summed."""


def _told(module: Any, found: Sequence[Graded], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return what is to be known of the verdicts: failures by reason, weak readings, outcomes, spread of repeats."""
    told: dict[str, Any] = {
        "asked": len(verdicts),
        "failed": dict(Counter(one.failure for one in verdicts if one.value is None)),
        "fallback": sum(one.fallback for one in verdicts),
    }
    extras = [one.grade.extra for one in found if one.grade]
    told |= {name: sum(extra[name] for extra in extras) for name in OUTCOMES if name in extras[0]}
    means = list(_repeat_means(module, found))
    if len(means) > 1:
        spreads = [extra["spread"] for extra in extras if extra["spread"] is not None]
        told |= {
            "repeat_means": means,
            "repeat_sd": stdev(means),
            "mean_spread": fmean(spreads) if spreads else None,
        }
    return told


def _repeat_means(module: Any, found: Sequence[Graded]) -> Iterator[float]:
    """Yield the mean score by each repeat alone: what a single run of the judge would have given."""
    for repeat in sorted({verdict.repeat for one in found for verdict in one.verdicts}):
        alone = [module.combine(one.reference, [v for v in one.verdicts if v.repeat == repeat]) for one in found]
        scores = [grade.score for grade in alone if grade is not None]
        if scores:
            yield fmean(scores)
