"""What a rule keeps, against brute force, and the table that says so."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee import seeds
from cuvee.data import selection
from cuvee.errors import DataError
from cuvee.protocols import Judged
from tests.selectors.conftest import candidates

SCORES = np.array([0.5, np.nan, 0.2, 0.5, -1.0, 0.5, np.inf, 0.9])


def kept(rule: dict[str, Any], scores: Any = SCORES, **more: Any) -> list[int]:
    rows = candidates(len(scores))
    found = selection.keep(rows, Judged(np.asarray(scores, np.float64), **more), rule)
    return np.flatnonzero(found.kept).tolist()


def test_the_best_are_kept_and_ties_at_the_border_go_by_hash() -> None:
    rows = candidates(8)
    tied = sorted((0, 3, 5), key=lambda row: seeds.rank(0, "selection ties", rows.keys[row].tobytes()))
    assert kept({"count": 1}) == [7]
    assert kept({"count": 3}) == sorted([7, *tied[:2]])
    assert kept({"share": Fraction(1, 2)}) == [0, 3, 5, 7]  # of all eight rows, those without a score included
    assert kept({"threshold": 0.2}) == [0, 2, 3, 5, 7]
    assert kept({"count": 2, "lowest": True}) == [2, 4]
    assert kept({"threshold": 0.2, "lowest": True}) == [2, 4]


def test_the_order_of_the_rows_changes_nothing() -> None:
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 5, 400).astype(float)
    rows = candidates(400)
    turn = draw.permutation(400)
    for rule in ({"count": 130}, {"between": ["1/4", "3/5"]}, {"between": ["0", "1/3"], "shuffled": 3}):
        plain = selection.keep(rows, Judged(scores), rule).kept
        turned = selection.keep(rows.take(turn, None), Judged(scores[turn]), rule).kept
        assert (plain[turn] == turned).all()


def test_selections_are_nested() -> None:
    scores = np.random.default_rng(1).integers(0, 9, 300).astype(float)
    small, large = (set(kept({"share": share}, scores)) for share in ("1/10", "1/3"))
    assert small < large
    assert (len(small), len(large)) == (30, 100)


def test_bands_part_the_rows_that_have_a_score() -> None:
    scores = np.random.default_rng(2).integers(0, 9, 101).astype(float)
    ends = ["0", "1/3", "2/3", "1"]
    for more in ({}, {"shuffled": 0}):
        parts = [kept({"between": [low, high], **more}, scores) for low, high in pairwise(ends)]
        assert sorted(chain.from_iterable(parts)) == list(range(101))
        assert [len(part) for part in parts] == [33, 34, 34]
    by_score = [kept({"between": [low, high]}, scores) for low, high in pairwise(ends)]
    assert max(scores[by_score[0]]) <= min(scores[by_score[1]])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"count": 7}, "count: 7 asks for 7 rows, and 6 of 8 can be kept; say count: 6 or less"),
        ({"share": Fraction(1, 9)}, "of 8 rows is no row; the smallest share that keeps one is 1/8"),
        ({"threshold": 1.0}, "threshold: 1.0 keeps no row of 6; scores go from -1 to 0.9"),
    ],
)
def test_what_cannot_be_kept_is_said_with_numbers(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        kept(rule)


def test_bands_may_count_refused_rows_by_the_score_they_have() -> None:
    scores = np.array([0.1, 0.5, 0.9, 1.2, 1.5, 2.0, np.nan])
    refused = [("IFD above 1.0", scores > 1), ("no supervised token", np.isnan(scores))]
    ends = list(pairwise(["0", "1/3", "2/3", "1"]))
    rules = [{"between": list(pair), "refused": True} for pair in ends]
    rules[-1]["unscored"] = True
    assert [kept(rule, scores, refused=refused) for rule in rules] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [kept({"between": list(pair)}, scores, refused=refused) for pair in ends] == [[0], [1], [2]]
    found = selection.keep(candidates(7), Judged(scores, refused), rules[0])
    told = [found.reasons[number] for number in found.why]
    assert told == ["kept", "kept", *["outside the band"] * 4, "no supervised token"]


def test_a_band_of_scores_without_a_row_is_said_in_words() -> None:
    with pytest.raises(DataError, match=r"^the scores below 0\.5 hold no row of 3; scores go from 1 to 3$"):
        kept({"between": [None, 0.5], "values": True, "refused": True}, [1.0, 2.0, 3.0])


def test_a_pool_without_a_row_that_can_be_kept_is_an_error_with_the_reasons() -> None:
    scores = np.array([1.2, 1.5, 3.0, np.nan])
    refused = [("IFD above 1.0", scores > 1)]
    for rule in ({"threshold": 0.0}, {"share": "1/2"}, {"count": 2}, {"between": ["0", "1/2"]}):
        with pytest.raises(DataError, match=r"^none of 4 rows can be kept: IFD above 1.0 \(3\), no score \(1\)$"):
            kept(rule, scores, refused=refused)


def test_an_order_of_its_own_is_followed() -> None:
    order = np.array([4, 2, 0])
    assert kept({"count": 2}, np.arange(5.0), order=order) == [2, 4]
    judged = Judged(np.arange(5.0), order=order)
    assert selection.keep(candidates(5), judged, {"count": 2}).border is None, "no score decides"
    with pytest.raises(DataError, match="asks for 4 rows, and 3 of 5"):
        kept({"count": 4}, np.arange(5.0), order=order)


@pytest.mark.parametrize(
    "rule",
    [{"threshold": 1.0}, {"between": ["0", "1/2"]}, {"count": 2, "lowest": True}, {"share": "1/2", "lowest": True}],
)
def test_an_order_of_its_own_knows_no_rule_about_scores(rule: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"in an order of its own.*say share or count"):
        kept(rule, np.arange(5.0), order=np.array([4, 2, 0]))


def test_the_table_counts_every_row_with_its_reason(tmp_path: Path) -> None:
    rows = candidates(8)
    refused = [("IFD above 1", np.arange(8) == 7)]
    judged = Judged(SCORES, refused, {"loss": np.arange(8.0)})
    chosen = selection.keep(rows, judged, {"count": 3})
    summary = selection.write(tmp_path, rows, judged, chosen, [10])
    assert summary["reasons"] == {"IFD above 1": 1, "no score": 2, "kept": 3, "below the border": 2}
    assert summary["kept"] == 3
    assert summary["border"] == 0.5
    assert summary["pools"] == [{"rows": 8, "kept": 3, "supervised_tokens": 12}]
    table = selection.read(tmp_path).to_pylist()
    assert [row["reason"] for row in table if row["row"] in (1, 7)] == ["no score", "IFD above 1"]
    assert table[3]["id"] == rows.keys[3].tobytes()
    assert selection.left_out(tmp_path, 0, 10).tolist() == [1, 2, 4, 6, 7, 8, 9]
