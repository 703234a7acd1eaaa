"""Half an experiment: every analysis still makes its tables, and none draws an interval it has no right to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.analyses import planted

from cuvee import components
from cuvee.protocols import Result

OF_RESULTS = [name for name in components.names("analyses") if not hasattr(components.find("analyses", name), "OF")]
SHARES = (10, 40, 160, 640)


def experiment(level: float = 0.4, items: int = 40) -> list[Result]:
    """Single, mixed, ratio, two-stage runs on two abilities, and the base; one seed."""
    made: list[tuple[Any, dict[str, float]]] = []
    both = {"math": level, "general": level}
    general = {"general": "general"}
    for rows in SHARES:
        made += [
            (planted.run(f"single math {rows}", {"math": rows}, params={"source": "math"}), both),
            (planted.run(f"single general {rows}", {"general": rows}, params={"source": "general"}), both),
            (planted.run(f"multi {rows}", {"math": rows, "general": rows}, strategy="multi_task"), both),
            (planted.run(f"ratio {rows}", {"math": rows, "general": 640}, strategy="ratio", params=general), both),
        ]
    for name, strategy, params in (
        ("mixed_sequential", "mixed_sequential", general),
        ("dmt k=1/4", "dmt", {**general, "k": "1/4"}),
        ("dmt k=1", "dmt", {**general, "k": "1"}),
    ):
        made.append((planted.run(name, {"math": 640, "general": 640}, strategy=strategy, params=params), both))
    found = planted.results(made, items)
    bases = {result.ability: replace(result, stage=0, stage_label="base", final=False) for result in found}
    return [*bases.values(), *found]


def constant() -> list[Result]:
    return [replace(result, scores=[1.0] * len(result.items)) for result in experiment()]


def missing_runs() -> list[Result]:
    return [result for number, result in enumerate(experiment()) if number % 3]


def unmeasured_ability() -> list[Result]:
    return [result for result in experiment() if result.ability == "math"]


def failed_branch() -> list[Result]:
    return [result for result in experiment() if result.run.strategy not in ("dmt", "mixed_sequential")]


def three_items() -> list[Result]:
    return experiment(items=3)


def no_description() -> list[Result]:
    return [replace(result, run=replace(result.run, trainings=())) for result in experiment()]


BAD = {
    made.__name__: made
    for made in (experiment, constant, missing_runs, unmeasured_ability, failed_branch, three_items, no_description)
}


@pytest.mark.parametrize("name", OF_RESULTS)
@pytest.mark.parametrize("bad", BAD)
def test_it_makes_its_tables_and_draws_only_numbers(name: str, bad: str) -> None:
    module = components.find("analyses", name)
    tables = module.table(BAD[bad](), module.Params())
    # The report says it itself where nothing was judged, and where no file of questions was looked at.
    assert tables or name in ("judged", "leakage")
    for table in tables:
        assert table.rows or table.notes
        json.dumps([dict(row) for row in table.rows], default=str)
        for figure in table.figures:
            for point in (point for points in figure.series.values() for point in points):
                assert math.isfinite(point["y"])
                assert (point.get("low") is None) == (point.get("high") is None)


@pytest.mark.parametrize("name", ["scaling", "conflicts", "k_sweep", "ratio_effect"])
def test_constant_scores_have_no_interval_of_a_law_or_a_crossing(name: str) -> None:
    module = components.find("analyses", name)
    said = " ".join(map(str, _cells(module.table(constant(), module.Params()))))
    assert not re.search(r"\bnan\b|\binf\b", said)
    for table in module.table(constant(), module.Params()):
        bands = [points for points in (p for f in table.figures for p in f.series.values()) if points[0].get("band")]
        assert all(point.get("low") is None for points in bands for point in points)


def _cells(tables: Any) -> Iterator[Any]:
    for table in tables:
        for row in table.rows:
            yield from row.values()
