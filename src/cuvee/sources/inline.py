"""Examples written in the recipe itself, for tests and tours; no paper.

mine: {rows: [{question: "2 + 2?", answer: "#### 4"}], ability: math}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cuvee.data import formats
from cuvee.protocols import Estimate
from cuvee.protocols import Params as Base
from cuvee.values import BadRow, Example

VERSION = 2
PATH = "(recipe)"
"""What stands for the file in messages about a row."""


class Params(Base):
    """The rows.

    Args:
        rows: raw rows as a file would hold them.
        format: a name of `formats.FORMATS`, or ``auto`` to find it by looking.
    """

    rows: list[dict[str, Any]]
    format: str = "auto"


def pin(params: Params, folder: Path, cache: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (identity: the rows and their format; place: none).

    Raises:
        DataError: no format fits the rows, or there is no such format.
    """
    format = formats.detect(params.rows) if params.format == "auto" else formats.known(params.format)
    return {"rows": params.rows, "format": format}, {}


def examples(params: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Example | BadRow]:
    """Yield the rows in order; the line is the row's number."""
    return formats.examples(enumerate(params["rows"], start=1), params["format"], path=PATH)


def estimate(params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
    """Return all rows."""
    rows = list(examples(params, where))
    return Estimate(len(rows), True, tuple(row for row in rows if isinstance(row, Example)))
