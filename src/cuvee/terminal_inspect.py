"""What `cuvee inspect` and `cuvee preflight` show in the terminal; readable without colour too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuvee.data.findings import FAIL, LEVELS, Finding, counted, summary
from cuvee.inspection import Bin, Inspection, MixtureView, Piece, Shown, SourceView, segments, visible
from cuvee.terminal import make_console, number

PREFLIGHT_SCHEMA = "cuvee.preflight/1"

OPEN, CLOSE = "⟦", "⟧"
"""What supervised text stands between where there is no colour."""

SEAM = "│"
"""What stands between two tokens when they are asked for."""

BAR = 40
"""Columns of the longest bar."""

_ASCII = str.maketrans(
    {
        "█": "#",
        "▓": "+",
        "▒": "~",
        "░": ".",
        "–": "-",
        "─": "-",
        "│": "|",
        "✂": "--",
        "·": ",",
        "×": "x",
        "⟦": "[[",
        "⟧": "]]",
    }
)
"""Our own signs where the output's encoding has only letters."""

_MARKS = {"kept": "█", "trimmed": "▓", "split": "▒", "dropped": "░"}
_STYLES = {"later": "dim", "ok": "green", "warn": "yellow", "fail": "bold red"}


# ------------------------------------------------------------------------------------------------- inspect


def print_inspection(inspection: Inspection, tokens: bool = False) -> None:
    """Draw sources, their rows as a model sees them, and mixtures.

    Args:
        inspection: what was gathered.
        tokens: show where tokens begin.
    """
    console = make_console()
    for source in inspection.sources:
        _print_source(console, source, inspection.find, tokens)
    for mixture in inspection.mixtures:
        _print_mixture(console, mixture)
    for name in inspection.missing:
        _say(console, f"{name} is not rendered yet", "yellow")


def _print_source(console: Console, source: SourceView, find: str, tokens: bool) -> None:
    _say(console, f"{source.name}  ({source.ability})", "bold")
    for line in source_facts(source):
        _say(console, f"  {line}")
    for line in _bars(source.lengths):
        _say(console, f"  {line}")
    console.print()
    _say(console, f"  {choice(source, find)}" + ("" if _coloured(console) else f"; {OPEN}supervised{CLOSE}"), "dim")
    for row in source.examples:
        _say(console, f"── {row_facts(row)}", "cyan")
        console.print(_safe(console, _row(console, row, tokens)), soft_wrap=True)
        console.print()


def source_facts(source: SourceView) -> Iterator[str]:
    """Yield what is known of a source in a few lines."""
    where = ", ".join(map(visible, source.files)) or "rows in the recipe"
    how = " (found by looking)" if source.detected else ""
    yield f"from {where}" + (f"; format {source.format}{how}" if source.format else "")
    lost = f": {_counted(source.load_reasons)}" if source.load_reasons else ""
    yield f"{counted(source.rows, 'row')}, {number(source.bad)} unusable, {number(source.repaired)} repaired{lost}"
    statuses = ", ".join(f"{number(count)} {name}" for name, count in source.statuses.items() if count)
    lost = f": {_counted(source.render_reasons)}" if source.render_reasons else ""
    yield f"rendered with {source.rendering}: {statuses}{lost}"
    share = source.supervised / max(1, source.tokens)
    yield (
        f"{number(source.tokens)} tokens, {number(source.supervised)} of them supervised ({share:.1%}); "
        f"longest row {number(source.longest)}"
    )
    for name, counts in source.tags.items():
        shown = ", ".join(f"{visible(tag)} {number(count)}" for tag, count in counts.items() if tag)
        more = f", and {counted(counts[''], 'other tag')}" if counts.get("") else ""
        yield f"tags ({name}): {shown}{more}"
    for name, found in source.taggings.items():
        if found.complexity is not None:
            different = counted(found.distinct, "different tag")
            yield f"tags a row ({name}): {found.complexity:.2f} (complexity); {different}"


def choice(source: SourceView, find: str) -> str:
    """Return which rows are shown, as a sentence."""
    if source.found is not None:
        match = counted(source.found, "row that matches", "rows that match")
        return f"{len(source.examples)} of {match} '{visible(find)}', first by rank"
    rows = counted(len(source.examples), "row")
    return f"{rows}, chosen by hash: not the first of the file, and the same in any order of it"


def row_facts(row: Shown) -> str:
    """Return where a row comes from and what became of it."""
    place = f"{visible(row.path)}:{row.line}" if row.path else f"row {row.line}"
    again = f" (occurrence {row.occurrence})" if row.occurrence else ""
    facts = f"{place} · id {row.id[:12]}{again} · {number(row.tokens)} tokens, {number(row.supervised)} supervised"
    changed = "" if row.status == "kept" else f" · {row.status}: {visible(row.reason)}"
    return facts + changed


def _counted(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return "; ".join(f"{number(count)} × {visible(reason)}" for reason, count in ordered)


def _bars(lengths: Sequence[Bin]) -> Iterator[str]:
    if not lengths:
        return
    used = [name for name in _MARKS if any(bin.rows.get(name) for bin in lengths)]
    yield "tokens a row, before any length rule: " + ", ".join(f"{_MARKS[name]} {name}" for name in used)
    most = max(sum(bin.rows.values()) for bin in lengths)
    width = len(f"{lengths[-1].low:,}–{lengths[-1].high:,}")
    for bin in lengths:
        bar = "".join(_MARKS[name] * -(-BAR * bin.rows.get(name, 0) // most) for name in used)
        yield f"{f'{bin.low:,}–{bin.high:,}':>{width}}  {bar} {number(sum(bin.rows.values()))}"


def _row(console: Console, row: Shown, tokens: bool) -> Text:
    """Return a row's text: supervised parts green, or between marks where there is no colour."""
    text, coloured = Text(), _coloured(console)
    marked = False
    for shown, piece in _parts(row.pieces, tokens):
        if piece.first:
            text.append("\n✂ a new row begins here\n", style="yellow")
        if not coloured and piece.supervised != marked:
            text.append(OPEN if piece.supervised else CLOSE)
        marked = piece.supervised
        plain = shown if coloured else shown.replace(OPEN, ascii(OPEN)[1:-1]).replace(CLOSE, ascii(CLOSE)[1:-1])
        text.append(_encodable(console, plain), style=_style(piece))
        if tokens:
            text.append(SEAM, style="dim")
    if marked and not coloured:
        text.append(CLOSE)
    if row.cut and row.status == "trimmed":
        text.append(f"\n✂ cut here: {row.cut:,} tokens left out", style="yellow")
    return text


def _parts(pieces: Sequence[Piece], tokens: bool) -> Iterator[tuple[str, Piece]]:
    parts = ((piece.text, piece) for piece in pieces) if tokens else segments(pieces)
    return ((visible(text), piece) for text, piece in parts)


def _style(piece: Piece) -> str:
    if piece.supervised:
        return "bold green" if piece.special else "green"
    return "magenta" if piece.special else ""


def _print_mixture(console: Console, mixture: MixtureView) -> None:
    _say(console, "mixture of " + ", ".join(mixture.trainings), "bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in MIXTURE_COLUMNS:
        table.add_column(name, justify="left" if name in MIXTURE_COLUMNS[:2] else "right")
    for row in mixture_rows(mixture):
        table.add_row(*(Text(_encodable(console, cell)) for cell in row))
    console.print(table)
    for line in (*left_out(mixture), *tag_facts(mixture)):
        _say(console, f"  {line}", "dim")


def tag_facts(mixture: MixtureView) -> Iterator[str]:
    """Yield what each tagger's tags come to in the rows that a mixture trains on."""
    for part in mixture.parts:
        for name, found in part.taggings.items():
            if found.complexity is not None and found.diversity is not None:
                yield (
                    f"{part.source}, tags ({name}): {found.complexity:.2f} a row (complexity); "
                    f"{counted(found.distinct, 'different tag')}, {found.diversity:.1%} of the source's (diversity)"
                )


MIXTURE_COLUMNS = ("source", "asked", "pool", "chosen", "trained on", "rows", "tokens", "supervised")
"""Header of `mixture_rows`."""


def left_out(mixture: MixtureView) -> Iterator[str]:
    """Yield which rows of each source are not in the pool, and why."""
    for part in mixture.parts:
        if part.left_out:
            reasons = ", ".join(f"{number(rows)} {reason}" for reason, rows in part.left_out.items())
            yield f"{part.source}: not in the pool are {reasons}"


def mixture_rows(mixture: MixtureView) -> Iterator[tuple[str, ...]]:
    """Yield a row a source: asked, pool, chosen, trained on, and its shares of the mixture."""
    for part in mixture.parts:
        yield (
            part.source,
            ", ".join(part.asked),
            number(part.pool),
            number(part.chosen),
            number(part.rows),
            *(f"{mixture.share(part, what):.1%}" for what in ("rows", "tokens", "supervised")),
        )


# ----------------------------------------------------------------------------------------------- preflight


def findings_view(findings: Sequence[Finding], accepted: Sequence[str] = ()) -> dict[str, Any]:
    """Return findings as plain data for ``--json``.

    Args:
        findings: with names put in.
        accepted: names of those that fail and were accepted.
    """
    findings = _distinct(findings)
    rows = [
        {**vars(one), "rows": list(one.rows), "name": one.name, "accepted": one.name in accepted} for one in findings
    ]
    counts = {level: sum(one.level == level for one in findings) for level in LEVELS}
    return {"schema": PREFLIGHT_SCHEMA, "counts": counts, "findings": rows}


def print_findings(findings: Sequence[Finding], accepted: Sequence[str] = ()) -> None:
    """Draw findings, the worst first, with rows of those that fail and what to do.

    Args:
        findings: with names put in.
        accepted: names of those that fail and were accepted.
    """
    console = make_console()
    findings = _distinct(findings)
    ordered = sorted(findings, key=lambda one: -LEVELS.index(one.level))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("level", "check", "source", "what was found"):
        table.add_column(name, overflow="fold", no_wrap=name == "level")
    for one in ordered:
        level = "accepted" if one.name in accepted and one.level == FAIL else one.level
        where = " / ".join(filter(None, (one.source, one.benchmark)))
        cells = (Text(level, style=_STYLES[one.level]), Text(one.check), Text(where), Text(visible(one.text)))
        table.add_row(*(_safe(console, cell) for cell in cells))
    console.print(table)
    open_ones = [one for one in ordered if one.level == FAIL and one.name not in accepted]
    for one in ordered:
        if one.level == FAIL and one.rows:
            _say(console, one.name, "bold")
            for row in one.rows:
                place = f"{row['path']}:{row['line']}" if row["path"] else f"row {row['line']}"
                _say(console, f"  {visible(place)}  {row['id'][:12]}  {visible(row['text'])}")
    for line in advice(open_ones):
        _say(console, line, "red")
    _say(console, summary(findings) + (f"; {len(accepted)} accepted" if accepted else ""))


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
    """Return equal findings once: settings that differ in little find much the same."""
    return [one for number, one in enumerate(findings) if one not in findings[:number]]


def advice(failed: Sequence[Finding]) -> Iterator[str]:
    """Yield what to do about findings that stop a training."""
    if not failed:
        return
    yield f"{counted(len(failed), 'finding stops', 'findings stop')} every training of this recipe:"
    if any(one.check == "overlap" for one in failed):
        yield "  overlap: drop at the source leaves rows out that hold benchmark items"
    if any(one.check == "lengths" for one in failed):
        yield "  a larger training.max_length, too_long: split, or a larger preflight.max_lost"
    if any(one.check in ("end_token", "template") for one in failed):
        yield "  another training.template, or a mended chat template in the model's folder"
    yield "  or accept what is meant: " + " ".join(f"--accept {one.name}" for one in failed)


# ------------------------------------------------------------------------------------------------- console


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(_safe(console, Text(line, style=style)), soft_wrap=True)


def _coloured(console: Console) -> bool:
    return console.is_terminal and not console.no_color


def _encodable(console: Console, text: str) -> str:
    """Return the text with escapes for what the output's encoding cannot show."""
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)


def _safe(console: Console, text: Text) -> Text:
    """Return the text as the output can show it; without styles where something had to be replaced."""
    if _encodable(console, text.plain) == text.plain:
        return text
    return Text(_encodable(console, text.plain.translate(_ASCII)), style=text.style)
