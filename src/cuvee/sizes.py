"""How much each stage of a plan handles: rows, tokens, steps, requests; exact where stored, else from a sample."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee import bases, canonical, components, harnessed, lookups
from cuvee.errors import DataError, UsageError
from cuvee.plan import Plan
from cuvee.protocols import Estimate
from cuvee.runtime import Runtime
from cuvee.stage import Base, Harnessed, Stage
from cuvee.store import Store

JUDGE_PROMPT, JUDGE_QUESTION, VERDICT = 250, 90, 200
"""Assumed tokens of a judge prompt's own words, of a turn's question and of a verdict: GPT-4's 320 published judgements
of MT-Bench have 202 tokens in the mean, at four letters a token."""


@dataclass(frozen=True)
class Size:
    """How much a stage handles.

    `kept` is the share of a rendered source's rows that have tokens left (an estimate until it is rendered);
    `rows_exact` and `tokens_exact` say which numbers are certain.
    """

    rows: int = 0
    total_tokens: int = 0
    supervised_tokens: int = 0
    steps: int = 0
    longest: int = 0
    kept: float = 1.0
    rows_exact: bool = True
    tokens_exact: bool = True

    def times(self, factor: int) -> Size:
        """Return the size of so many passes."""
        return replace(
            self,
            rows=self.rows * factor,
            total_tokens=self.total_tokens * factor,
            supervised_tokens=self.supervised_tokens * factor,
        )


@dataclass(frozen=True)
class Judging:
    """How much a judge is asked: requests, tokens it reads and tokens it writes; `exact` is about the requests."""

    requests: int
    prompt_tokens: int
    new_tokens: int
    exact: bool = True

    def __add__(self, other: Judging) -> Judging:
        return Judging(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.new_tokens + other.new_tokens,
            self.exact and other.exact,
        )


@dataclass
class Book:
    """A plan with its store and machine, and what is found out about its stages on the way.

    Args:
        rate: useful operations a second of one worker; `rate_given` says that it is not to be measured.
        present: ids of the stages that the store has.
    """

    plan: Plan
    store: Store
    runtime: Runtime
    rate: float
    rate_given: bool
    present: frozenset[str]
    parts: dict[Any, Size] = field(default_factory=dict)
    rendered: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)


def size_of(stage: Stage, book: Book) -> Size:
    """Return how much a stage handles; the stages before it are in the book.

    Raises:
        UsageError: an amount is impossible, or a source has more bad rows than it may.
    """
    # A training's manifest tells tokens, not rows; its mixture tells both.
    if stage.id in book.present and stage.kind != "train":
        summary = book.store.manifest(stage.kind, stage.id)["summary"]
        _check_bad(stage, summary, book)
        return _stored(summary)
    if stage.kind == "score" and stage.component == "ensemble":
        return replace(book.sizes[stage.inputs["members"][0].id], total_tokens=0)
    # Of training rows; the losses of held-out rows are those of an evaluator.
    if stage.kind == "embed" or (stage.kind == "score" and stage.component != "loss"):
        return book.sizes[stage.one("data").id]
    measure = {"load": _load, "render": _render, "mix": _mix, "train": _train, "mark": _mark, "fisher": _fisher}
    measure |= {"score": _items, "generate": _items, "choose": _weighed, "judge": _judged, "harness": _harnessed}
    return measure[stage.kind](stage, book) if stage.kind in measure else Size()


def _check_bad(stage: Stage, summary: Mapping[str, Any], book: Book) -> None:
    """`max_bad` is no part of a load's id, since it changes no row; so a stricter one is checked here."""
    bad, limit = int(summary.get("bad") or 0), Fraction(stage.locate.get("max_bad", 1))
    rows = int(summary.get("rows") or 0) + bad
    if stage.kind == "load" and bad > limit * rows:
        name = book.plan.sources.get(stage.id, (stage.label, ""))[0]
        raise UsageError(
            f"sources.{name}: {bad:,} of {rows:,} rows cannot be used, more than max_bad = {float(limit):.2%} allows; "
            f"see quarantine.parquet in {book.store.path(stage.kind, stage.id)}, or raise max_bad"
        )


def _stored(summary: Mapping[str, Any]) -> Size:
    names = ("rows", "total_tokens", "supervised_tokens", "steps", "longest")
    rows, total, supervised, steps, longest = (int(summary.get(name) or 0) for name in names)
    # Of a mixture it is the rows of a training: more than examples where long ones were split.
    return Size(
        int(summary.get("pieces") or 0) or rows or int(summary.get("items") or 0), total, supervised, steps, longest
    )


def _load(stage: Stage, book: Book) -> Size:
    if declared := book.plan.declared.get(stage.id):
        supervised = declared.supervised_tokens or declared.tokens // 2
        return Size(declared.rows, declared.tokens, supervised, tokens_exact=False)
    module = components.find("sources", stage.component)
    found = module.estimate(stage.identity["params"], stage.locate)
    book.estimates[stage.id] = found
    return Size(found.rows, rows_exact=found.exact, tokens_exact=False)


def _render(stage: Stage, book: Book) -> Size:
    source, tokenizer = stage.one("source"), stage.one("tokenizer")
    size = book.sizes[source.id]
    if size.total_tokens:  # declared
        return replace(size, longest=int(stage.params["max_length"]))
    found = book.estimates.get(source.id) or components.find("sources", source.component).estimate(
        source.identity["params"], source.locate
    )
    total, supervised, longest, kept = _sampled_tokens(stage, tokenizer, found)
    return replace(
        size,
        kept=kept,
        rows_exact=False,  # how many rows rendering loses is known afterwards
        total_tokens=round(total * size.rows),
        supervised_tokens=round(supervised * size.rows),
        longest=longest,
        tokens_exact=False,
    )


def _sampled_tokens(stage: Stage, tokenizer: Stage, found: Estimate) -> tuple[float, float, int, float]:
    """Return mean tokens and supervised tokens a row, the longest row, and the share kept, of a source's sample."""
    sample = found.sample
    if not sample:
        return 0.0, 0.0, 0, 1.0
    if tokenizer.component != "declared":
        from cuvee.data.chat import Chat

        chat = Chat(Path(str(tokenizer.locate["path"])), **stage.identity["params"])
        rows = chat.render(list(sample))
        lengths = [len(row.ids) for row in rows]
        supervised = [row.num_supervised for row in rows]
        kept = sum(count > 0 for count in supervised) / len(rows)
        return statistics.fmean(lengths), statistics.fmean(supervised), max(lengths), kept
    # Without a tokenizer at hand: four characters a token, the usual figure for English.
    texts = [sum(len(m.content) for m in e.messages) / 4 for e in sample]
    answers = [sum(len(m.content) for m in e.messages if m.role == "assistant") / 4 for e in sample]
    return statistics.fmean(texts), statistics.fmean(answers), round(max(texts)), 1.0


def _mix(stage: Stage, book: Book) -> Size:
    parts = [book.sizes[data.id] for data in stage.inputs["parts"]]
    hows = stage.identity["params"]["parts"]
    names = [_who(name, stage, book) for name, _ in stage.locate["parts"]]
    chosen = [
        _exact_part(data, how, stage, book, who) or _amounts(part, how, stage, book, who)
        for data, part, how, who in zip(stage.inputs["parts"], parts, hows, names, strict=True)
    ]
    return Size(
        sum(p.rows for p in chosen),
        sum(p.total_tokens for p in chosen),
        sum(p.supervised_tokens for p in chosen),
        longest=max((p.longest for p in parts), default=0),
        rows_exact=all(p.rows_exact for p in chosen),
        tokens_exact=all(p.tokens_exact for p in chosen),
    )


def _exact_part(data: Stage, how: Mapping[str, Any], stage: Stage, book: Book, who: Callable[[], str]) -> Size | None:
    """Return exact numbers when the rendered source is stored: the same choice that the mix will make."""
    if data.id not in book.present or not lookups.present(how, book.store):
        return None
    params = stage.identity["params"]
    asked = (data.id, canonical.text(how), params["heldout"], params["split_seed"], params["seed"])
    if asked not in book.parts:
        try:
            book.parts[asked] = _chosen(data, how, params, book)
        except DataError as error:
            raise UsageError(f"{who()}: {error}") from error
    return book.parts[asked]


def _chosen(data: Stage, how: Mapping[str, Any], params: Mapping[str, Any], book: Book) -> Size:
    from cuvee.data.parts import choose
    from cuvee.data.rendered import Rendered

    if data.id not in book.rendered:
        book.rendered[data.id] = Rendered(book.store.path(data.kind, data.id))
    rendered = book.rendered[data.id]
    out, tags = lookups.excluded(how, book.store), lookups.tags(how, book.store)
    chosen = choose(rendered, how, Fraction(params["heldout"]), params["split_seed"], params["seed"], out, tags)
    return Size(
        int(rendered.num_pieces[chosen.rows].sum()),
        chosen.counts["total_tokens"],
        chosen.counts["supervised_tokens"],
        longest=int(rendered.num_tokens.max(initial=0)),
    )


def _who(source: str, stage: Stage, book: Book) -> Callable[[], str]:
    """Return what names a part of a mixture in an error; made only when it is needed."""
    return lambda: f"source '{source}' in {', '.join(book.plan.runs_of.get(stage.id, ()))}"


def _amounts(part: Size, how: Mapping[str, Any], stage: Stage, book: Book, who: Callable[[], str]) -> Size:
    heldout = Fraction(stage.identity["params"]["heldout"])
    rows = part.rows - round(part.rows * heldout)
    exact = part.rows_exact and not heldout and not {"drop", "keep", "duplicates", "excluded"} & set(how)
    kept = _kept(how, part, stage, book)
    if kept is not None:
        rows, exact = kept, False
    for amount in how.get("amounts", []):
        rows, exact = _after(amount, rows, exact, part, who)
    scale = rows / max(1, part.rows)
    return Size(
        round(rows * part.kept),
        round(part.total_tokens * scale),
        round(part.supervised_tokens * scale),
        longest=part.longest,
        rows_exact=exact,
        tokens_exact=False,
    )


def _after(amount: Mapping[str, Any], rows: int, exact: bool, part: Size, who: Callable[[], str]) -> tuple[int, bool]:
    """Return how many rows an amount leaves, and whether this is known exactly."""
    if (one := _one_of_several(amount)) is not None:
        if "fold" not in amount and one * rows < Fraction(4, 5):
            raise UsageError(
                f"{who()}: {one} of {'' if exact else 'about '}{rows:,} rows is no row, and so much each of "
                "several models would be trained on; use fewer portions or models, or more rows"
            )
        return max(1, math.floor(one * rows)), False
    if "items" in amount:
        held_out = round(rows * Fraction(amount["items"]["of"]))
        return max(1, min(int(amount["items"]["most"]), held_out)), False
    if "share" in amount:
        # The pool is an estimate by a few rows; only what is surely nothing is refused before the data is read.
        if Fraction(amount["share"]) * rows < Fraction(4, 5):
            raise UsageError(
                f"{who()}: a share of {amount['share']} of {'' if exact else 'about '}{rows:,} rows is no row; "
                f"the smallest share that keeps one is 1/{rows}, or say count: 1"
            )
        return max(1, math.floor(Fraction(amount["share"]) * rows)), exact
    if "count" in amount:
        if amount["count"] > part.rows:
            raise UsageError(
                f"{who()}: count: {amount['count']:,} asked, {part.rows:,} rows are there before any is held out; "
                f"say count: {rows} or less, or a share above 1 to repeat rows on purpose"
            )
        return min(rows, amount["count"]), part.rows_exact and rows >= amount["count"]
    there = part.supervised_tokens * rows // max(1, part.rows)
    if amount["tokens"] > there * 1.1:
        raise UsageError(
            f"{who()}: tokens: {amount['tokens']:,} asked, about {there:,} supervised tokens are there; "
            "say fewer, or a share above 1 in its place to repeat rows on purpose"
        )
    mean = part.supervised_tokens / max(1, part.rows)
    return min(rows, int(amount["tokens"] / max(1.0, mean))), False


def _one_of_several(amount: Mapping[str, Any]) -> Fraction | None:
    """Return about what share of its rows an amount leaves that divides a source; None where it does not."""
    if "portion" in amount:
        return Fraction(1, amount["portion"]["of"])
    if "drawn" in amount:
        return Fraction(amount["drawn"]["share"])
    if "fold" in amount:
        fold = amount["fold"]
        return Fraction(1 if fold["inside"] else fold["of"] - 1, fold["of"])
    return None


def _kept(how: Mapping[str, Any], part: Size, stage: Stage, book: Book) -> int | None:
    """Return about how many rows of a source selections keep, as far as their rules say; None without any.

    Each pool is what the selections before it have kept, reduced by the amounts that come before it.
    """
    found = None
    for stage_id, number in how.get("excluded", ()):
        (named,) = (one for one in stage.inputs["excluded"] if one.id == stage_id)
        if named.kind != "select":
            continue
        kept = _chosen_of(named, int(number), book) / part.kept  # a pool has lost what rendering loses
        found = max(1, math.floor(min(kept, part.rows if found is None else found)))
    return found


def _chosen_of(selected: Stage, number: int, book: Book) -> float:
    """Return about how many rows of one of its pools a selection keeps."""
    rule, groups = selected.params["rule"], selected.params.get("groups") or [0] * len(selected.inputs["pools"])
    pools = [book.sizes[pool.id].rows for pool in selected.inputs["pools"]]
    rows = pools[number]
    if "share" in rule:
        return float(Fraction(rule["share"]) * rows)
    if "count" in rule:
        together = sum(size for size, group in zip(pools, groups, strict=True) if group == groups[number])
        return rows * min(1.0, int(rule["count"]) / max(1, together))
    if "between" in rule and not rule.get("values"):
        low, high = map(Fraction, rule["between"])
        return float((high - low) * rows)
    return rows


def _train(stage: Stage, book: Book) -> Size:
    data = book.sizes[stage.one("data").id]
    epochs, batch = stage.params["epochs"], stage.params["batch_size"]
    return replace(data.times(epochs), steps=math.ceil(data.rows / batch) * epochs)


def _mark(stage: Stage, book: Book) -> Size:
    """Return what a mark is of: the first steps of its training."""
    size, share = book.sizes[stage.one("training").id], float(stage.params["fraction"])
    parts = {name: round(getattr(size, name) * share) for name in ("rows", "total_tokens", "supervised_tokens")}
    return replace(size, **parts, steps=math.ceil(size.steps * stage.params["fraction"]))


def _fisher(stage: Stage, book: Book) -> Size:
    size, samples = book.sizes[stage.one("data").id], int(stage.params["samples"])
    share = min(1.0, samples / max(1, size.rows))
    parts = {name: round(getattr(size, name) * share) for name in ("rows", "total_tokens", "supervised_tokens")}
    return replace(size, **parts, tokens_exact=size.tokens_exact and share == 1)


def _items(stage: Stage, book: Book) -> Size:
    inputs = stage.inputs["data" if stage.kind == "score" else "items"]
    sizes = [book.sizes[data.id] for data in inputs]
    params = stage.identity["params"]
    rows = sum(size.rows for size in sizes)
    share = Fraction(params["heldout"]) if params["heldout"] else Fraction(1)
    if rows * share < Fraction(4, 5):
        raise UsageError(
            f"heldout: {params['heldout']} of {rows:,} rows of {', '.join(d.label for d in inputs)} holds out none to "
            f"measure; say heldout: {float(Fraction(10, max(rows, 20))):.2g} or more"
        )
    items = min(round(rows * share), params["items"] or rows)
    tokens = sum(size.total_tokens for size in sizes) * items // max(1, rows)
    if stage.kind == "generate":
        # Answers end before the limit; half of it is a guess on the safe side.
        turns = getattr(components.find("evaluators", stage.component), "TURNS", 1)
        tokens = items * turns * int(params.get("max_new_tokens", 0)) // 2
    return Size(items, tokens, rows_exact=share == 1 and all(s.rows_exact for s in sizes), tokens_exact=False)


def _weighed(stage: Stage, book: Book) -> Size:
    """Tokens of items with their choices, at four characters a token; equal shots are computed once."""
    inputs = stage.inputs["items"]
    rows = sum(book.sizes[data.id].rows for data in inputs)
    items = min(rows, stage.identity["params"]["items"] or rows)
    samples = [row for data in inputs if data.id in book.estimates for row in book.estimates[data.id].sample]
    letters = [len(row.messages[0].content) + sum(map(len, row.messages[0].extra["choices"])) for row in samples]
    mean = statistics.fmean(letters) / 4 if letters else 100
    return Size(items, round(items * mean), tokens_exact=False)


def _harnessed(stage: Stage, book: Book) -> Size:
    """Return the items of a task that is known; of another one the rows are 0 and not exact."""
    assert isinstance(stage, Harnessed)
    known = harnessed.known_items(stage, book.store)
    return Size(known or 0, rows_exact=known is not None, tokens_exact=False)


def judging_of(stage: Stage, book: Book) -> Judging:
    """Return what one judge stage asks, as if none of it were known; the turn is shown with all turns before it."""
    params, turns = stage.identity["params"], int(components.find("evaluators", stage.component).TURNS)
    answers = book.sizes[stage.one("answers").id]
    sides = 2 if "order" in params else 1
    times = (2 if params.get("order") == "both" else 1) * int(params["repeats"])
    shown = answers.rows * turns * (turns + 1) // 2
    words = answers.rows * turns * JUDGE_PROMPT + shown * JUDGE_QUESTION
    replies = _reply_tokens(stage.one("answers"), book) * (turns + 1) // 2 * sides
    requests = answers.rows * turns * times
    new = requests * min(VERDICT, int(params["max_tokens"]))
    return Judging(requests, (words + replies) * times, new, answers.rows_exact)


def _reply_tokens(answers: Stage, book: Book) -> int:
    """Return the tokens of all replies: counted where they are stored."""
    if answers.id in book.present:
        return int(book.store.manifest(answers.kind, answers.id)["summary"]["new_tokens"])
    return book.sizes[answers.id].total_tokens


def _judged(stage: Stage, book: Book) -> Size:
    found = judging_of(stage, book)
    return Size(found.requests, found.prompt_tokens + found.new_tokens, rows_exact=found.exact, tokens_exact=False)


def judges(book: Book, todo: frozenset[str]) -> dict[str, Judging]:
    """Return what is still to be asked, by judge."""
    found: dict[str, Judging] = {}
    for stage in book.plan.stages:
        if stage.kind == "judge" and stage.id in todo:
            name = stage.one("judge").label
            found[name] = found.get(name, Judging(0, 0, 0)) + judging_of(stage, book)
    return found


def root_of(stage: Stage) -> Stage:
    """Return the base model that a model, or what is asked of one, comes from."""
    while stage.kind != "base":
        stage = (stage.inputs.get("model") or stage.inputs["models"])[0]
    return stage


def parameters_of(stage: Stage, book: Book) -> int:
    """Return the parameters of the base model behind a stage."""
    root = root_of(stage)
    assert isinstance(root, Base)
    if root.id not in book.parameters:
        book.parameters[root.id] = bases.parameters(root, book.plan.refs.get(root.id))
    return book.parameters[root.id]
