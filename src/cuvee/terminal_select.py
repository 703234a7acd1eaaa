"""What `cuvee select` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuvee.inspection import visible
from cuvee.terminal import make_console

KNOWN = ("source", "row", "id", "occurrence", "supervised", "score", "kept", "reason", "path", "line", "text")
"""What every row has; the rest are the selector's own numbers."""

PLACES = ("top", "last kept", "first not kept", "bottom")


def print_selections(view: Mapping[str, Any], written: list[Path]) -> None:
    """Draw each selection: what is kept of each source, why rows are not, and rows of the top, border and bottom."""
    console = make_console()
    for one in view["selections"]:
        _print_one(console, one)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)


def _print_one(console: Console, one: Mapping[str, Any]) -> None:
    border = "" if one["border"] is None else f", border {one['border']:.4g}"
    console.print(Text(f"{one['name']}  {one['stage']}", style="bold"), soft_wrap=True)
    console.print(f"  {one['kept']:,} of {one['rows']:,} rows kept{border}")
    others = [f"{count:,} x {visible(text)}" for text, count in one["reasons"].items() if text != "kept"]
    if others:
        console.print(Text(f"  not kept: {', '.join(others)}"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("source", "pool", "kept", "share of the source", "share of the kept", "supervised tokens"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for pool in one["pools"]:
        shares = (f"{pool['kept'] / max(1, pool['rows']):.1%}", f"{pool['kept'] / max(1, one['kept']):.1%}")
        table.add_row(
            Text(pool["source"]), f"{pool['rows']:,}", f"{pool['kept']:,}", *shares, f"{pool['supervised_tokens']:,}"
        )
    console.print(table)
    for place in PLACES:
        for row in one["shown"][place]:
            text = visible(row["text"].replace("\n", " ⏎ "))
            line = f"  {place:>14}  {row['score']:>8.4g}  {row['source']}  {row['id'][:12]}  ({because(row)})  {text}"
            console.print(Text(line), soft_wrap=True)
    console.print()


def because(row: Mapping[str, Any]) -> str:
    """Return why a row is kept or not, and the numbers behind its score."""
    numbers = (f"{name} {value:.4g}" for name, value in row.items() if name not in KNOWN and value is not None)
    return ", ".join([visible(row["reason"]), *numbers])


def print_unselected(names: Sequence[str], recipe: Path) -> None:
    """Say which selections are still to be made."""
    console = make_console()
    for name in names:
        text = f"{name}: not chosen yet, as it needs a model; `cuvee select {recipe}` does it"
        console.print(Text(text, style="yellow"), soft_wrap=True)
