"""A selection is set against as many random rows and against all rows, on the same items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cuvee.analyses import against_random
from cuvee.protocols import NOTHING_SELECTED, Portion, Result, RunInfo, TrainingInfo

Make = Callable[..., Result]
PARAMS = against_random.Params()


def training(rows: int) -> TrainingInfo:
    return TrainingInfo("t", 1, 1, rows, rows, 1.0, (Portion("a", "math", rows, rows, 1000),))


@pytest.fixture
def run(result: Make) -> Callable[..., list[Result]]:
    """Return the maker of a run's results: math right in the first `right` of 60 items, at each seed."""

    def make(name: str, select: str, rows: int, right: int, seeds: tuple[int, ...] = (0,), **more: Any) -> list[Result]:
        found = []
        for seed in seeds:
            one = result(name, "math", "1" * right + "0" * (60 - right), strategy="multi_task", seed=seed, **more)
            info: RunInfo = replace(one.run, select=select, trainings=(training(rows),) if rows else ())
            found.append(replace(one, run=info))
        return found

    return make


def rows_of(results: list[Result]) -> list[dict[str, Any]]:
    (table,) = against_random.table(results, PARAMS)
    return [dict(row) for row in table.rows]


def test_a_selection_is_set_against_random_rows_of_its_number_and_against_all(run: Callable[..., Any]) -> None:
    whole, small = run("all", NOTHING_SELECTED, 1000, 50), run("r6", "random 3/50", 60, 20)
    large, chosen = run("r16", "random 1/6", 166, 30), run("l6", "lobass 3/50", 60, 40)
    found = rows_of([*whole, *small, *large, *chosen])
    assert [(row["run"], row["against"], row["that run"]) for row in found] == [
        ("l6", "as many random rows", "r6"),
        ("l6", "all rows", "all"),
    ]
    assert [row["difference"] for row in found] == ["+33.3", "-16.7"]
    assert [row["reading"] for row in found] == ["better", "worse"]
    assert found[0]["rows"] == found[0]["its rows"] == "60"


def test_rounded_shares_of_each_source_are_of_the_same_number(run: Callable[..., Any]) -> None:
    chosen = run("l", "lobass 1/6 of each source", 750, 40)
    assert len(rows_of([*chosen, *run("r", "random 1/6", 752, 20)])) == 1
    assert rows_of([*chosen, *run("r", "random 1/6", 760, 20)]) == []


def test_a_selection_without_random_rows_is_told_what_to_add(run: Callable[..., Any]) -> None:
    (table,) = against_random.table([*run("all", "", 1000, 50), *run("l", "lobass 3/50", 60, 40)], PARAMS)
    assert "l has no twin on as many random rows; add one with select: {by: random, count: 60}." in table.notes
    assert [row["against"] for row in table.rows] == ["all rows"]


def test_runs_that_differ_in_more_than_their_selection_are_no_twins(run: Callable[..., Any]) -> None:
    other = run("r", "random 3/50", 60, 20, training={"epochs": 3})
    assert rows_of([*run("l", "lobass 3/50", 60, 40), *other]) == []


def test_seeds_that_contradict_one_another_are_no_difference(run: Callable[..., Any]) -> None:
    chosen = [*run("l", "lobass 3/50", 60, 40, (0,)), *run("l", "lobass 3/50", 60, 18, (1,))]
    (row,) = rows_of([*chosen, *run("r", "random 3/50", 60, 20, (0, 1))])
    assert row["reading"] == "seeds disagree"


def test_random_rows_of_every_source_are_random_rows(run: Callable[..., Any]) -> None:
    both = run("r", "random 1/2; random 1/4", 60, 20)
    (row,) = rows_of([*run("l", "lobass 3/50", 60, 40), *both])
    assert row["that run"] == "r"


def test_no_results_and_no_selection_are_said() -> None:
    (table,) = against_random.table([], PARAMS)
    assert table.notes[0].startswith("Nothing to compare")


def test_the_run_on_all_rows_can_be_named(run: Callable[..., Any]) -> None:
    """Where selections have a pool of their own, the run on all of it differs from theirs in its amounts too."""
    whole = [replace(one, run=replace(one.run, sources={"math": {"amount": 1000}})) for one in run("all", "", 1000, 50)]
    results = [*whole, *run("l", "lobass 3/50", 60, 40)]
    assert rows_of(results) == []
    (table,) = against_random.table(results, against_random.Params(all_rows="all"))
    assert [(row["against"], row["that run"]) for row in table.rows] == [("all rows", "all")]
    (table,) = against_random.table(results, against_random.Params(all_rows="whole"))
    assert "all_rows: there is no finished run 'whole'; there are all, l." in table.notes
