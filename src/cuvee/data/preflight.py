"""What is looked at before any training, from artefacts alone: nothing is executed, no model is asked.

    write(folder, check(Inputs(sources, chat, ...), {"max_lost": "1/4", "max_overlap": "0"}))  # findings.json

A check measures and never stops anything; whether a finding of level ``fail`` stops a training is decided elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cuvee.data import examples, exclusions, row_checks
from cuvee.data.chat import DROPPED, SPLIT, STATUSES, TRIMMED, Chat
from cuvee.data.exclusions import Exclusion
from cuvee.data.findings import (
    FAIL,
    LATER,
    OK,
    SHOWN,
    WARN,
    Finding,
    counted,
    evidence,
    excerpt,
    named,
    read,
    reasons,
    verb,
    write,
)
from cuvee.data.row_checks import Source

__all__ = ["Compared", "Finding", "Inputs", "Repeated", "Source", "check", "named", "read", "write"]


@dataclass(frozen=True)
class Repeated:
    """A finished search for duplicates.

    Args:
        folder: of the stage.
        summary: what it counted.
        loads: ids of the load stages, in the stage's order.
    """

    folder: Path
    summary: Mapping[str, Any]
    loads: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """A finished search for a benchmark's items in a source.

    Args:
        folder: of the stage.
        summary: what it counted.
        source: id of the source's load stage.
        benchmark: id of the load stage with the items.
        heldout: whether the items are the held-out rows of one of the recipe's own sources.
    """

    folder: Path
    summary: Mapping[str, Any]
    source: str
    benchmark: str
    heldout: bool = False


@dataclass(frozen=True)
class Inputs:
    """What the checks look at.

    Args:
        sources: every source with its rows as one setting renders them.
        chat: tokenizer, template and rules of that setting.
        duplicates: equal and near rows over all sources.
        overlaps: every source against every benchmark.
    """

    sources: Sequence[Source]
    chat: Chat
    duplicates: Repeated | None = None
    overlaps: Sequence[Compared] = ()


def check(inputs: Inputs, params: Mapping[str, Any]) -> list[Finding]:
    """Return what every check found, good news included.

    Args:
        inputs: the artefacts.
        params: ``max_lost`` and ``max_overlap`` (shares as text; "1/4" and "0"), ``overlap_dropped`` (load ids of
            sources that leave overlapping rows out), ``duplicates_dropped`` ([load id, load id, "equal" or "near"]:
            what is left out within a source or between two), ``sample`` (rows a source for masks and templates; 200).
    """
    return list(_findings(inputs, params))


def _findings(inputs: Inputs, params: Mapping[str, Any]) -> Iterator[Finding]:
    chat, count = inputs.chat, int(params.get("sample", row_checks.SAMPLE))
    max_lost = Fraction(params.get("max_lost", "1/4"))
    for source in inputs.sources:
        yield row_checks.end_tokens(source, chat)
        yield row_checks.supervised(source, chat)
        yield row_checks.mask(source, chat, count)
        yield row_checks.template(source, chat, count)
        yield special_tokens(source)
        yield from tools(source)
        yield lengths(source, chat, max_lost)
        yield quarantine(source)
    yield padding(chat)
    if inputs.duplicates:
        yield from duplicates(inputs.duplicates, inputs.sources, params.get("duplicates_dropped", ()))
    dropped = set(params.get("overlap_dropped", ()))
    for compared in inputs.overlaps:
        limit = Fraction(params.get("max_overlap", "0"))
        yield overlap(compared, inputs.sources, limit, compared.source in dropped)
    yield Finding(
        "packed_loss",
        LATER,
        text="each training will compare the packed with the unpacked loss on its first batch, in its own process",
    )


# ------------------------------------------------------------------------------------------- the tokenizer


def padding(chat: Chat) -> Finding:
    """A padding token that is also an end token hides the end token where padding is masked by its id."""
    pad = chat.tokens.get("pad_token", "")
    numbers = {"pad_token": pad, "stop_tokens": [chat.text([stop]) for stop in chat.stop_ids]}
    if not pad:
        text = "the tokenizer names no padding token; batches here hold no padding, so none is needed"
        return Finding("pad_token", OK, text=text, numbers=numbers)
    if chat.tokenizer.token_to_id(pad) in chat.stop_ids:
        text = (
            f"the padding token {pad} is one that ends an answer. Batches here hold no padding, so nothing is hidden; "
            "tools that mask padding by its id would leave out the end tokens"
        )
        return Finding("pad_token", WARN, text=text, numbers=numbers)
    text = f"the padding token {pad} ends no answer; batches here hold no padding"
    return Finding("pad_token", OK, text=text, numbers=numbers)


# ------------------------------------------------------------------------------------------------ one source


def special_tokens(source: Source) -> Finding:
    """Text that looks like a special token is tokenised as one, and steers the model."""
    rows = np.flatnonzero(source.rows.specials > 0)
    numbers = {"rows": len(rows), "messages": int(source.rows.specials.sum())}
    if not len(rows):
        return Finding("special_tokens", OK, source.load, text="no row's text holds a special token", numbers=numbers)
    text = (
        f"{len(rows):,} of {counted(len(source.rows), 'row')} {verb(len(rows), 'hold')} the text of a special token in "
        "a message; it acts as that token, so a turn may seem to end there"
    )
    return Finding("special_tokens", WARN, source.load, text=text, numbers=numbers, rows=source.shown(rows.tolist()))


def tools(source: Source) -> Iterator[Finding]:
    """Tools that a row offers and the template leaves out: the model would learn to call what it is not shown."""
    ignored = source.render_summary.get("tools_ignored", 0)
    if ignored:
        offer = counted(ignored, "row offers", "rows offer")
        text = f"{offer} tools that the template does not show; choose a template that knows tools"
        yield Finding("tools", WARN, source.load, text=text, numbers={"rows": ignored})


def lengths(source: Source, chat: Chat, max_lost: Fraction) -> Finding:
    """How much of the rows and of what they teach is lost to the length rule and to the template."""
    rows = source.rows
    alive = rows.full_tokens[rows.full_tokens > 0]
    middle, high, most = (int(value) for value in np.quantile(alive, (0.5, 0.95, 1), method="higher"))
    counts = {status: int((rows.status == number).sum()) for number, status in enumerate(STATUSES)}
    taught, before = int(rows.num_supervised.sum()), int(rows.full_supervised.sum())
    numbers = {"rows": len(rows), **counts, "max_length": chat.max_length, "too_long": chat.too_long}
    numbers |= {"median": middle, "p95": high, "max": most, "supervised_tokens": before, "lost": before - taught}
    spread = f"median {middle:,}, 95 % {high:,}, longest {most:,} tokens, max_length {chat.max_length or 'none'}"
    changed = {status: counts[status] for status in (TRIMMED, SPLIT, DROPPED) if counts[status]}
    if not changed and taught >= before:
        return Finding("lengths", OK, source.load, text=f"nothing lost: {spread}", numbers=numbers)
    why = reasons(source.render_summary.get("reasons", {}))
    lost_rows, lost_tokens = Fraction(counts[DROPPED], len(rows)), Fraction(max(0, before - taught), max(1, before))
    text = (
        f"{', '.join(f'{number:,} {status}' for status, number in changed.items())} of {counted(len(rows), 'row')} "
        f"({why}); "
        f"{before - taught:,} of {counted(before, 'supervised token')} lost ({float(lost_tokens):.1%}); {spread}"
    )
    level = FAIL if max(lost_rows, lost_tokens) > max_lost else WARN
    if level == FAIL:
        text += f". More than preflight.max_lost = {max_lost}; raise training.max_length, or too_long: split"
    bad = np.flatnonzero(rows.dropped if counts[DROPPED] else rows.status != 0)[:SHOWN].tolist()
    told = [f"{rows.full_tokens[index]:,} tokens: {rows.reason(index)}" for index in bad]
    return Finding("lengths", level, source.load, text=text, numbers=numbers, rows=source.shown(bad, told))


def quarantine(source: Source) -> Finding:
    """Rows that could not be used, and rows that were repaired."""
    summary = source.load_summary
    bad, repaired = int(summary.get("bad", 0)), int(summary.get("repaired", 0))
    numbers = {"rows": summary.get("rows"), "bad": bad, "repaired": repaired}
    if not bad and not repaired:
        return Finding("quarantine", OK, source.load, text="every row could be used as it is", numbers=numbers)
    told = f"{counted(bad, 'row')} could not be used, {counted(repaired, 'was', 'were')} repaired"
    text = f"{told}: {reasons(summary.get('reasons', {}))}"
    return Finding("quarantine", WARN, source.load, text=text, numbers=numbers, rows=_refused(source.load_folder))


def _refused(folder: Path) -> tuple[Mapping[str, Any], ...]:
    with pq.ParquetFile(folder / examples.QUARANTINE) as file:
        first = next(file.iter_batches(SHOWN), None)
    rows = first.to_pylist() if first is not None else []
    return tuple(evidence(row["path"], row["line"], "", excerpt(f"{row['reason']}: {row['text']}")) for row in rows)


# ------------------------------------------------------------------------------------------ rows among rows


def duplicates(found: Repeated, sources: Sequence[Source], dropped: Sequence[Sequence[str]] = ()) -> Iterator[Finding]:
    """Rows that say what another row says, by pair of sources; the first-named source holds the later row.

    `dropped` is as in `check`.
    """
    pairs: dict[tuple[int, int], Counter[str]] = {}
    for one, other, reason, rows in found.summary.get("pairs", ()):
        pairs.setdefault((one, other), Counter())[reason] += rows
    compared = int(found.summary.get("rows", 0))
    if not pairs:
        text = f"no row repeats another among {counted(compared, 'row')} of {counted(len(found.loads), 'source')}"
        yield Finding("duplicates", OK, text=text, numbers={"rows": compared})
        return
    shown: dict[tuple[int, int], list[Exclusion]] = {pair: [] for pair in pairs}
    wanted = sum(min(SHOWN, sum(counts.values())) for counts in pairs.values())
    for line in exclusions.read(found.folder):
        lines = shown[line.source, line.other_source]
        if len(lines) < SHOWN:
            lines.append(line)
            wanted -= 1
        if not wanted:
            break
    for (one, other), counts in sorted(pairs.items()):
        rows = sum(counts.values())
        there = found.summary.get("by_source", [{}] * (one + 1))[one].get("rows", compared)
        where = "of the same source" if one == other else "of {benchmark}"
        reasons_left = {reason for reason, count in counts.items() if count}
        gone = {what for *pair, what in dropped if set(pair) == {found.loads[one], found.loads[other]}}
        good = "near" in gone or reasons_left <= gone
        text = (
            f"{rows:,} of {counted(there, 'row')} {verb(rows, 'repeat')} a row {where} ({counts['equal']:,} equal, "
            f"{counts['near']:,} near); "
            + (_left_out(rows) if good else f"{_they(rows, 'weigh')} more than once unless duplicates are dropped")
        )
        lines = shown[one, other]
        told = [_told(line, f"{line.similarity:.0%} like" if line.reason == "near" else "equal to") for line in lines]
        loads = found.loads[one], "" if one == other else found.loads[other]
        numbers = {"rows": rows, "equal": counts["equal"], "near": counts["near"], "of": there}
        rows_shown = _evidence(lines, told, found.loads[one], sources)
        yield Finding("duplicates", OK if good else WARN, *loads, text=text, numbers=numbers, rows=rows_shown)


def overlap(found: Compared, sources: Sequence[Source], limit: Fraction, dropped: bool) -> Finding:
    """How many of a benchmark's items the rows of a source hold."""
    items, held = int(found.summary["items"]), int(found.summary["hit_items"])
    rows = int(found.summary["hit_rows"])
    numbers = {"items": items, "hit_items": held, "hit_rows": rows, "too_short": found.summary.get("too_short", 0)}
    what = "held-out item" if found.heldout else "item"
    of_items = f"{counted(items, what)} of {{benchmark}}"
    place: dict[str, Any] = {"source": found.source, "benchmark": found.benchmark, "numbers": numbers}
    if not items:
        return Finding("overlap", OK, text="no row of {benchmark} is held out, so none can be in the rows", **place)
    if not rows:
        return Finding("overlap", OK, text=f"none of {of_items} is in the rows", **place)
    text = f"{counted(rows, 'row holds', 'rows hold')} {held:,} of {of_items} ({held / max(1, items):.1%})"
    lines = [line for line, _ in zip(exclusions.read(found.folder), range(SHOWN), strict=False)]
    told = [f"{_told(line, 'holds')} ({line.reason} {line.similarity:.0%})" for line in lines]
    place["rows"] = _evidence(lines, told, found.source, sources)
    if dropped:
        return Finding("overlap", OK, text=f"{text}; {_left_out(rows)}", **place)
    if found.heldout:
        text += f"; the held-out loss is the lower for it. overlap: drop at {{source}} leaves {_them(rows)} out"
        return Finding("overlap", WARN, text=text, **place)
    if Fraction(held, max(1, items)) > limit:
        text += (
            f"; more than preflight.max_overlap = {limit}: its score would be no measure of the ability. "
            f"overlap: drop at {{source}} leaves {_them(rows)} out"
        )
        return Finding("overlap", FAIL, text=text, **place)
    return Finding("overlap", WARN, text=f"{text}; preflight.max_overlap = {limit} allows it", **place)


def _left_out(rows: int) -> str:
    return f"{'it is' if rows == 1 else 'they are'} left out of training"


def _they(rows: int, does: str) -> str:
    return f"{'it' if rows == 1 else 'they'} {verb(rows, does)}"


def _them(rows: int) -> str:
    return "the row" if rows == 1 else "the rows"


def _told(line: Exclusion, verb: str) -> str:
    return f"{excerpt(line.text, 90)!r} {verb} {excerpt(line.other_text, 90)!r}"


def _evidence(
    lines: Sequence[Exclusion], texts: Sequence[str], load: str, sources: Sequence[Source]
) -> tuple[dict[str, Any], ...]:
    """Return lines of an exclusion table as evidence, with file and line where the source is at hand."""
    here = next((source for source in sources if source.load == load), None)
    if here is None:
        return tuple(evidence("", 0, line.id.hex(), text) for line, text in zip(lines, texts, strict=True))
    return here.shown([line.row for line in lines], texts)
