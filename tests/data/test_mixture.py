from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee.data import examples, mixture, rendered
from cuvee.data.batches import plan_steps
from cuvee.data.chat import Chat
from cuvee.data.mixture import MixtureRows
from cuvee.data.rendered import Rendered
from cuvee.errors import DataError
from cuvee.values import Example

Make = Callable[..., Path]
Talk = Callable[..., Example]
HALF = {"amounts": [{"share": "1/2"}]}


@pytest.fixture
def source(tmp_path: Path, model: Make, talk: Talk) -> Callable[..., Rendered]:
    """Return a function that renders rows ``NAME 0``, ``NAME 1`` ...; every 7th is too long."""
    chat = Chat(model(), "plain", max_length=40)

    def make(name: str, n: int, order: int = 1) -> Rendered:
        rows = [talk(f"{name} {i}", f"{i}" if i % 7 else "9" * 99) for i in range(n)][::order]
        folder = tmp_path / f"{name}{n}{order}"
        (folder / "load").mkdir(parents=True)
        examples.write(folder / "load", rows, Fraction(0))
        rendered.write(folder, folder / "load", chat)
        return Rendered(folder)

    return make


def mix(folder: Path, sources: list[Rendered], *hows: dict[str, Any]) -> tuple[MixtureRows, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    given = {"heldout": "1/10", "split_seed": 0, "seed": 0, "parts": list(hows)}
    summary = mixture.write(folder, sources, given)
    return MixtureRows(folder, sources), summary


def test_a_mixture_holds_the_rows_that_have_tokens_and_reports_the_lost(
    tmp_path: Path, source: Callable[..., Rendered]
) -> None:
    rows, summary = mix(tmp_path / "m", [source("a", 60), source("b", 40)], {}, HALF)
    assert len(rows) == summary["rows"] == sum(part["rows"] for part in summary["parts"])
    for part in summary["parts"]:
        assert part["rows"] + part["lost"] == part["chosen"]
        assert part["lost"] > 0
        assert part["heldout"] > 0
    found = [rows[index] for index in range(len(rows))]
    assert summary["total_tokens"] == sum(len(row.ids) for row in found) == rows.lengths.sum()
    assert summary["longest"] == max(len(row.ids) for row in found)
    assert summary["supervised_tokens"] == sum(end - start for row in found for start, end in row.spans)
    assert [row.part for row in found] == rows.parts.tolist()
    assert np.bincount(rows.parts).tolist() == [part["rows"] for part in summary["parts"]]


def test_a_source_is_the_same_whatever_stands_beside_it(tmp_path: Path, source: Callable[..., Rendered]) -> None:
    a, b, c = source("a", 60), source("b", 40), source("c", 30)
    alone, _ = mix(tmp_path / "1", [b], HALF)
    beside, _ = mix(tmp_path / "2", [a, b, c], HALF, HALF, {})
    assert sorted(map(bytes, alone.keys)) == sorted(map(bytes, beside.keys[beside.parts == 1]))


def test_the_order_of_parts_and_of_files_moves_no_row_in_training(
    tmp_path: Path, source: Callable[..., Rendered]
) -> None:
    def trained(rows: MixtureRows) -> list[list[list[int]]]:
        steps = plan_steps(rows.keys, rows.copies, 2, 8, 3)
        return [[list(rows[int(index)].ids) for index in step] for step in steps]

    a, b = source("a", 60), source("b", 40)
    straight, _ = mix(tmp_path / "1", [a, b], HALF, {"amounts": [{"share": "3/2"}]})
    turned, _ = mix(tmp_path / "2", [source("b", 40, -1), source("a", 60, -1)], {"amounts": [{"share": "3/2"}]}, HALF)
    assert trained(straight) == trained(turned)


def test_an_impossible_part_is_named(tmp_path: Path, source: Callable[..., Rendered]) -> None:
    both = [source("a", 60), source("b", 40)]
    with pytest.raises(DataError, match=r"part 1 of the mixture: count: 99 asked"):
        mix(tmp_path / "m", both, {}, {"amounts": [{"count": 99}]})
    with pytest.raises(ValueError, match="1 parts for 2 rendered"):
        mix(tmp_path / "m", both, {})
