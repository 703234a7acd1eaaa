"""The page of `cuvee inspect --html`: one file that opens from disk, without scripts; text of the data is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cuvee.errors import UsageError
from cuvee.inspection import Inspection, SourceView, visible
from cuvee.report.page import environment
from cuvee.terminal_inspect import MIXTURE_COLUMNS, choice, left_out, mixture_rows, row_facts, source_facts, tag_facts
from cuvee.terminal_select import because


def write(inspection: Inspection, path: Path, selections: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write the page.

    Args:
        inspection: what was gathered.
        path: the file.
        selections: finished ones, as `selections.view` has them.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html(inspection, selections), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}; name another file") from None


def html(inspection: Inspection, selections: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the page."""
    return (
        environment(autoescape=True)
        .get_template("inspect.html")
        .render(
            inspection=_without_folders(inspection),
            selections=selections,
            because=because,
            title=f"What {inspection.recipe or 'the recipe'} trains on",
            columns=MIXTURE_COLUMNS,
            choice=choice,
            facts=source_facts,
            left_out=left_out,
            mixture_rows=mixture_rows,
            row_facts=row_facts,
            statuses=_statuses,
            tag_facts=tag_facts,
            visible=visible,
            width=_width,
        )
    )


def _without_folders(inspection: Inspection) -> Inspection:
    """Return the same with file names in place of this machine's folders: a page is passed on."""
    sources = (
        replace(
            source,
            files=tuple(Path(path).name for path in source.files),
            examples=tuple(replace(row, path=Path(row.path).name) for row in source.examples),
        )
        for source in inspection.sources
    )
    return replace(inspection, sources=tuple(sources))


def _statuses(source: SourceView) -> list[str]:
    return [status for status in source.statuses if any(bin.rows.get(status) for bin in source.lengths)]


def _width(source: SourceView, rows: int) -> str:
    """Return a bar's length as per cent of the longest."""
    return f"{100 * rows / max(sum(bin.rows.values()) for bin in source.lengths):.2f}"
