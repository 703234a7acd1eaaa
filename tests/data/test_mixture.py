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


# ---------------------------------------------------------------------------------------- split rows, exclusions


@pytest.fixture
def long_talks(tmp_path: Path, model: Make, talk: Talk) -> Callable[..., Rendered]:
    """Return a function that renders conversations of 1, 2 ... exchanges, a few exchanges a piece."""

    def make(name: str, n: int, order: int = 1) -> Rendered:
        chat = Chat(model(), "plain", max_length=40, too_long="split")
        rows = [talk(*[f"{name} {row}", "Yes, it is."] * (row % 9 + 1)) for row in range(n)][::order]
        folder = tmp_path / f"long {name}{n}{order}"
        (folder / "load").mkdir(parents=True)
        examples.write(folder / "load", rows, Fraction(0))
        rendered.write(folder, folder / "load", chat)
        return Rendered(folder)

    return make


def test_amounts_choose_examples_and_every_piece_of_theirs_is_a_row_of_the_training(
    tmp_path: Path, long_talks: Callable[..., Rendered]
) -> None:
    source = long_talks("a", 60)
    rows, summary = mix(tmp_path / "m", [source], {"amounts": [{"count": 20}, {"share": "3/2"}]})
    (part,) = summary["parts"]
    assert part["rows"] == part["chosen"] == summary["rows"] == 30
    assert summary["pieces"] == part["pieces"] == len(rows) > 40
    assert len(set(rows.rows.tolist())) == 20
    found = [rows[index] for index in range(len(rows))]
    assert rows.lengths.tolist() == [len(row.ids) for row in found]
    assert rows.supervised.tolist() == [sum(end - start for start, end in row.spans) for row in found]
    assert summary["longest"] == rows.lengths.max() <= 40
    assert summary["total_tokens"] == rows.lengths.sum()
    assert summary["supervised_tokens"] == rows.supervised.sum()
    names = {(bytes(key), number) for key, number in zip(rows.keys, rows.copies.tolist(), strict=True)}
    assert len(names) == len(rows)
    every = [(row, piece) for row in set(rows.rows.tolist()) for piece in range(source.num_pieces[row])]
    assert {(row, piece) for row, piece in zip(rows.rows.tolist(), rows.pieces.tolist(), strict=True)} == set(every)
    for epoch in range(2):
        steps = plan_steps(rows.keys, rows.copies, 2, 7, 0)
        seen = np.concatenate(list(steps)[epoch * steps.per_epoch : (epoch + 1) * steps.per_epoch])
        assert sorted(seen.tolist()) == list(range(len(rows)))


def test_the_order_of_the_file_moves_no_piece_in_training(tmp_path: Path, long_talks: Callable[..., Rendered]) -> None:
    def trained(rows: MixtureRows) -> list[list[int]]:
        return [list(rows[int(index)].ids) for step in plan_steps(rows.keys, rows.copies, 1, 5, 1) for index in step]

    straight, _ = mix(tmp_path / "1", [long_talks("a", 40)], HALF)
    turned, _ = mix(tmp_path / "2", [long_talks("a", 40, -1)], HALF)
    assert trained(straight) == trained(turned)


def test_exclusions_and_tags_go_to_their_own_part(tmp_path: Path, source: Callable[..., Rendered]) -> None:
    both = [source("a", 60), source("b", 40)]
    given = {"heldout": "0", "split_seed": 0, "seed": 0, "parts": [{}, {"drop": {"tags": "odd"}}]}
    tags = [("odd",) if row % 2 else () for row in range(40)]
    summary = mixture.write(tmp_path, both, given, excluded=[{"overlap": np.arange(10)}, None], tags=[None, tags])
    told = [(part["overlap"], part["filtered"], part["pool"]) for part in summary["parts"]]
    assert told == [(10, 0, 50), (0, 20, 20)]
    with pytest.raises(ValueError, match="1 exclusions or tags for 2 parts"):
        mixture.write(tmp_path, both, given, excluded=[None])


def test_a_mixture_tells_its_longest_row_and_largest_token(tmp_path: Path, source: Callable[..., Rendered]) -> None:
    rows, _ = mix(tmp_path / "m", [source("a", 60), source("b", 40)], {}, HALF)
    found = [rows[index] for index in range(len(rows))]
    assert rows.extent() == (max(len(row.ids) for row in found), max(int(max(row.ids)) for row in found))
