from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cuvee import canonical
from cuvee.errors import DataError
from cuvee.protocols import Source
from cuvee.sources import inline, tiny
from cuvee.values import BadRow, Example

ROWS = [{"question": "2 + 2?", "answer": "4"}, {"question": "3 + 3?", "answer": ""}]


def test_both_modules_are_sources() -> None:
    modules: list[Source] = [inline, tiny]
    assert all(module.VERSION >= 1 for module in modules)


def test_inline_rows_are_their_own_identity(cache: Any, tmp_path: Path) -> None:
    identity, where = inline.pin(inline.Params(rows=ROWS), tmp_path, cache)
    assert where == {}
    assert identity == {"rows": ROWS, "format": "question_answer"}
    again, _ = inline.pin(inline.Params(rows=ROWS), tmp_path / "x", cache)
    assert canonical.digest(identity) == canonical.digest(again)
    good, bad = inline.examples(identity, where)
    assert isinstance(good, Example)
    assert bad == BadRow("(recipe)", 2, "an empty assistant turn", str(ROWS[1]))
    found = inline.estimate(identity, where)
    assert (found.rows, len(found.sample)) == (2, 1)


def test_inline_formats_are_checked(cache: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no format fits"):
        inline.pin(inline.Params(rows=[{"x": 1}]), tmp_path, cache)
    with pytest.raises(DataError, match="there is no format 'qa'"):
        inline.pin(inline.Params(rows=ROWS, format="qa"), tmp_path, cache)
    with pytest.raises(DataError, match="the format question has no answers to train on"):
        inline.pin(inline.Params(rows=ROWS, format="question"), tmp_path, cache)


@pytest.mark.parametrize("name", ["math", "code", "general"])
def test_the_tiny_world_gives_the_rows_it_promises(name: str, cache: Any, tmp_path: Path) -> None:
    identity, where = tiny.pin(tiny.Params(name=name), tmp_path, cache)  # type: ignore[arg-type]
    rows = list(tiny.examples(identity, where))
    found = tiny.estimate(identity, where)
    assert len(rows) == found.rows == identity["rows"]
    assert found.sample == tuple(rows[: len(found.sample)])
    assert len({row.id for row in rows if isinstance(row, Example)}) == len(rows)


def test_the_tiny_world_has_three_abilities() -> None:
    with pytest.raises(ValidationError):
        tiny.Params(name="poetry")  # type: ignore[arg-type]
