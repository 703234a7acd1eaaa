"""Selectors by vectors: turns, near rows, covers; on vectors small enough to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee.data import vectors
from cuvee.errors import DataError
from cuvee.protocols import Candidates, Judged
from cuvee.selectors import _nearest

from .conftest import candidates, refused

Judge = Callable[..., Judged]


def unit(*angles: float) -> Any:
    """Return vectors of length 1 at angles in degrees."""
    turned = np.deg2rad(np.array(angles))
    return np.stack([np.cos(turned), np.sin(turned)], 1).astype(np.float32)


def with_vectors(vectors: Any, targets: dict[str, Any] | None = None, **more: Any) -> Candidates:
    evidence = {"rows": {"vector": vectors}, **{name: {"value": np.asarray(v)} for name, v in more.items()}}
    found = {name: {"vector": vector} for name, vector in (targets or {}).items()}
    return replace(candidates(len(vectors), evidence), targets=found)


def taken(judged: Judged) -> list[int]:
    assert judged.order is not None
    return judged.order.tolist()


def test_target_examples_take_turns(judge: Judge) -> None:
    rows = with_vectors(unit(0, 2, 5, 80, 90, 45), {"t": unit(1, 89)})
    order = taken(judge("rds", rows, target={"path": "x"}))
    # 0 and 2 degrees are as near to the first example; 90 then 80 are the second's.
    assert set(order[:2]) in ({0, 4}, {1, 4})
    assert set(order[2:4]) in ({1, 3}, {0, 3})
    assert set(order[4:]) == {2, 5}
    scores = judge("rds", rows, target={"path": "x"}).scores
    assert scores == pytest.approx(np.cos(np.deg2rad([1, 1, 4, 9, 1, 44])), abs=1e-6)
    assert judge("rds", rows, target={"path": "x"}, choose="highest").order is None


def test_tasks_take_turns_by_their_nearest_example(judge: Judge) -> None:
    rows = with_vectors(unit(0, 10, 20, 90, 100, 110), {"a": unit(0, 4), "b": unit(90)})
    order = taken(judge("rds", rows, targets={"a": {"path": "x"}, "b": {"path": "y"}}))
    assert order == [0, 3, *order[2:]]
    assert set(order[2:4]) == {1, 4}


def test_one_target_row_takes_its_nearest_and_turns_end_when_all_are_taken(judge: Judge) -> None:
    rows = with_vectors(unit(50, 10, 30), {"t": unit(0)})
    assert taken(judge("rds", rows, target={"path": "x"})) == [1, 2, 0]
    assert len(taken(judge("rds", replace(rows, wanted=2), target={"path": "x"}))) == 2


def test_turns_equal_the_plain_rule_on_random_vectors(judge: Judge) -> None:
    draw = np.random.default_rng(0)
    items, queries = (draw.normal(size=(n, 5)).astype(np.float32) for n in (300, 7))
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = taken(judge("rds", replace(with_vectors(items, {"t": queries}), wanted=120), target={"path": "x"}))
    cosines, plain = items @ queries.T, list[int]()
    while len(plain) < 120:
        for query in range(7):
            if len(plain) < 120:
                free = [i for i in range(300) if i not in plain]
                plain.append(max(free, key=lambda i: cosines[i, query]))
    assert found == plain


def test_vectors_of_another_width_are_refused(judge: Judge) -> None:
    rows = with_vectors(unit(0, 1), {"dev": np.ones((1, 3), np.float32)})
    with pytest.raises(DataError, match="vectors of the rows have 2 numbers, those of 'dev' 3"):
        judge("rds", rows, target={"path": "x"})


def test_a_target_that_is_no_number_is_refused(judge: Judge) -> None:
    rows = with_vectors(unit(0, 1), {"dev": np.array([[1, 0], [np.nan, 0]], np.float32)})
    with pytest.raises(DataError, match="1 of 2 vectors of 'dev' are no numbers"):
        judge("rds", rows, target={"path": "x"})


@pytest.mark.parametrize("name", ["rds", "k_center", "clusters"])
def test_a_row_without_a_vector_is_said(name: str, judge: Judge) -> None:
    vectors = unit(0, 40, 80, 120)
    vectors[1] = np.nan
    given = {"rds": {"target": {"path": "x"}}, "clusters": {"clusters": 2}}.get(name, {})
    assert refused(judge(name, with_vectors(vectors, {"t": unit(0)}), **given)) == {1: "no vector"}


def test_a_row_without_a_vector_is_never_taken(judge: Judge) -> None:
    vectors = unit(0, 1, 2)
    vectors[1] = np.nan
    judged = judge("rds", with_vectors(vectors, {"t": unit(0)}), target={"path": "x"})
    assert taken(judged) == [0, 2]
    assert np.isnan(judged.scores[1])


def test_blocks_change_no_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    items, queries = (draw.normal(size=(n, 4)).astype(np.float32) for n in (100, 3))
    whole, values = _nearest.best(items, queries, 10)
    monkeypatch.setattr(_nearest, "BLOCK", 7)
    parts, _ = _nearest.best(items, queries, 10)
    assert (whole == parts).all()
    assert (np.argsort(-(items @ queries.T).T, axis=1, kind="stable")[:, :10] == whole).all()
    assert (np.diff(values, axis=1) <= 0).all()


def test_equal_items_go_by_their_place_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    items = unit(*[0, 30, 60] * 20)
    for size in (4, 7, 1000):
        monkeypatch.setattr(_nearest, "BLOCK", size)
        places, _ = _nearest.best(items, unit(1), 25)
        assert places[0].tolist() == [*range(0, 60, 3), 1, 4, 7, 10, 13]


def test_vectors_on_disk_are_read_in_blocks_and_choose_alike(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(4).normal(size=(90, 5)).astype(np.float32)
    draw /= np.linalg.norm(draw, axis=1, keepdims=True)
    draw[17] = np.nan
    np.save(tmp_path / "a.npy", draw[:40])
    np.save(tmp_path / "b.npy", draw[40:])
    stacked = vectors.Stacked([np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab"])
    monkeypatch.setattr(vectors.Stacked, "__array__", lambda *given, **more: pytest.fail("read as a whole"))
    monkeypatch.setattr(_nearest, "BLOCK", 16)
    rows = replace(with_vectors(draw, {"t": draw[:3]}), wanted=20)
    asked = [("rds", {"target": {"path": "x"}}), ("k_center", {"largest": 0.6}), ("k_center", {"method": "farthest"})]
    for name, params in asked:
        orders = []
        for found in (draw, stacked):
            lying = replace(rows, evidence={"rows": {"vector": found}})
            orders.append(taken(judge(name, lying, **params)))
        assert orders[0] == orders[1]
        assert 17 not in orders[0]


def test_deita_takes_the_best_that_are_not_near_one_another(judge: Judge) -> None:
    rows = with_vectors(unit(0, 5, 60, 61, 120), score0=[5, 4, 3, 2, 1], score1=[1, 1, 1, 2, 1])
    judged = judge("k_center", rows, scores=[{"path": "a"}, {"path": "b"}])
    assert judged.scores.tolist() == [5, 4, 3, 4, 1]
    assert taken(judged) == [0, 3, 4]
    assert refused(judged) == {1: "near a row that is taken", 2: "near a row that is taken"}
    assert taken(judge("k_center", replace(rows, wanted=1), scores=[{"path": "a"}, {"path": "b"}])) == [0]


def test_planted_duplicates_are_taken_once(judge: Judge) -> None:
    draw = np.random.default_rng(2)
    own = draw.normal(size=(60, 16)).astype(np.float32)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    vectors = np.concatenate([own, own[:20], own[:20]])
    order = taken(judge("k_center", with_vectors(vectors)))
    groups = [at if at < 60 else (at - 60) % 20 for at in order]
    assert sorted(groups) == list(range(60))


def test_the_cover_takes_what_is_farthest(judge: Judge) -> None:
    rows = with_vectors(unit(0, 10, 90, 180, 175), score0=[9, 1, 1, 1, 1])
    order = taken(judge("k_center", rows, method="farthest", scores=[{"path": "a"}]))
    assert order[:3] == [0, 3, 2]
    draw = np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32)
    draw /= np.linalg.norm(draw, axis=1, keepdims=True)
    order = taken(judge("k_center", replace(with_vectors(draw), wanted=20), method="farthest"))
    cover = (draw @ draw[order].T).max(1).min()
    random = (draw @ draw[:20].T).max(1).min()
    assert cover > random
