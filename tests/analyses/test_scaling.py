"""Laws of scale are found where they were planted, and nothing is drawn that the runs do not allow."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from tests.analyses import planted

from cuvee.analyses import scaling
from cuvee.analyses._amounts import curves, seen
from cuvee.analyses._draws import cloud
from cuvee.analyses._fits import fit
from cuvee.analyses.scaling import Params

FAST = Params(resamples=2000)
SHARES = (Fraction(1, 256), Fraction(1, 64), Fraction(1, 16), Fraction(1, 4), Fraction(1))


def amounts(levels, source="math", items=400, ability="math"):
    """Runs of one source at growing shares with these accuracies."""
    runs = [
        (
            planted.run(
                f"single {source} {share}", {source: int(2560 * share)}, params={"source": source, "share": share}
            ),
            {ability: level},
        )
        for share, level in zip(SHARES, levels, strict=True)
    ]
    return planted.results(runs, items)


def test_a_logarithmic_law_is_found_where_it_was_planted():
    rows = 2560 * np.array([float(share) for share in SHARES])
    (each,) = scaling.scaled(amounts(0.1 + 0.05 * np.log2(rows), items=4000), FAST)
    found = each.fits["logarithmic"]
    assert found.parameters[1] == pytest.approx(0.05, abs=0.005)
    assert each.best is found
    assert each.plateau == 4


def test_a_power_law_is_found_where_it_was_planted():
    rows = 2560 * np.array([float(share) for share in SHARES])
    (each,) = scaling.scaled(amounts(0.8 - 1.4 * rows**-0.5, items=4000), FAST)
    found = each.fits["power"]
    assert found.determined
    assert found.parameters[2] == pytest.approx(0.5, abs=0.15)
    assert found.parameters[0] == pytest.approx(0.8, abs=0.04)
    assert each.best is found


def test_a_law_can_be_of_supervised_tokens():
    """Where rows grow longer with their number, doubling the tokens is less than doubling the rows."""
    results = amounts([0.1, 0.2, 0.3, 0.4, 0.5], items=2000)
    longer = []
    for each in results:
        trainings = [
            replace(t, portions=tuple(replace(p, supervised_tokens=p.rows**2) for p in t.portions))
            for t in each.run.trainings
        ]
        longer.append(replace(each, run=replace(each.run, trainings=tuple(trainings))))
    (rows,) = scaling.scaled(longer, FAST)
    (tokens,) = scaling.scaled(longer, Params(resamples=2000, against="tokens"))
    assert tokens.fits["logarithmic"].parameters[1] == pytest.approx(rows.fits["logarithmic"].parameters[1] / 2)
    (figure,) = scaling.table(longer, Params(resamples=2000, against="tokens"))[0].figures
    assert figure.x_label == "supervised tokens of math, one epoch"
    assert max(point["x"] for points in figure.series.values() for point in points) == pytest.approx(2560**2)


def test_the_plateau_is_the_amount_after_which_nothing_was_gained():
    (each,) = scaling.scaled(amounts([0.2, 0.4, 0.6, 0.6, 0.6], items=1000), FAST)
    assert each.plateau == 2
    (row,) = scaling.table(amounts([0.2, 0.4, 0.6, 0.6, 0.6], items=1000), FAST)[0].rows
    assert row["plateau"].startswith("from 160 rows, a gain of ")


def test_without_any_gain_it_says_so():
    (row,) = scaling.table(amounts([0.4] * 5), FAST)[0].rows
    assert row["plateau"].startswith("no amount is better than the least")


def test_constant_scores_have_no_law_and_no_band():
    tables = scaling.table(amounts([1.0] * 5), FAST)
    assert tables[0].rows[0]["per doubling"] is None
    assert "every item has the same score" in tables[0].notes[0]
    assert not any("law" in name for name in tables[0].figures[0].series)


def test_an_amount_at_which_nothing_is_solved_leaves_the_law_without_an_interval():
    """0 of 40 resampled is 0 of 40: the draws would call the point certain."""
    tables = scaling.table(amounts([0.0, 0.0, 0.1, 0.2, 0.4], items=40), FAST)
    (row,) = tables[0].rows
    assert ".." not in row["per doubling"]
    assert "law does not hold" not in row["per doubling"]
    assert "(no interval: at 10, 40 rows every item has the same score)" in tables[0].notes[0]
    bands = [points for name, points in tables[0].figures[0].series.items() if "law" in name]
    assert all(point["low"] is None for points in bands for point in points)


def test_few_items_have_no_law():
    (row,) = scaling.table(amounts([0.2, 0.4, 0.6, 0.6, 0.6], items=12), FAST)[0].rows
    assert row["per doubling"] is None


def test_two_amounts_are_compared_but_have_no_law():
    results = [r for r in amounts([0.2, 0.2, 0.2, 0.3, 0.6]) if r.run.params["share"] >= Fraction(1, 4)]
    tables = scaling.table(results, FAST)
    assert tables[0].rows[0]["exponent"] is None
    assert "2 amounts are too few" in tables[0].notes[0]
    assert tables[1].rows[1]["reading"] == "better"


def test_one_amount_says_what_to_add():
    (found,) = scaling.table(amounts([0.2] * 5)[:1], FAST)
    assert "Add {strategy: single" in found.notes[0]


def test_runs_that_do_not_say_what_they_saw_are_counted(result):
    (found,) = scaling.table([result("multi_task", "math", "1101")], FAST)
    assert "1 runs do not say" in found.notes[1]


def test_one_seed_says_that_it_is_one():
    assert any("One seed" in note for note in scaling.table(amounts([0.2, 0.3, 0.4, 0.5, 0.6]), FAST)[0].notes)


def test_a_curve_holds_only_runs_whose_sources_grow_together():
    def mixed(share, **rows):
        return planted.run(f"m {share} {rows}", rows, strategy="multi_task", params={"share": share})

    even = [mixed(Fraction(1), math=1000, code=200), mixed(Fraction(1, 4), math=250, code=50)]
    uneven = [mixed(Fraction(1), math=1000, code=200), mixed(Fraction(1, 4), math=250, code=200)]
    assert len(curves(seen(planted.results([(r, {"math": 0.5}) for r in even], 10)), "math")) == 1
    assert curves(seen(planted.results([(r, {"math": 0.5}) for r in uneven], 10)), "math") == []


def test_equal_models_under_two_names_are_one_point():
    twin = planted.run("again", {"math": 100})
    other = planted.run("first", {"math": 100})
    twin = type(twin)(**{**vars(twin), "trainings": other.trainings})
    assert [point.run for point in seen(planted.results([(other, {"math": 1.0}), (twin, {"math": 1.0})], 5))] == [
        "first"
    ]


def test_seeds_widen_the_band_by_what_they_differ():
    random = np.random.default_rng(0)
    names = [str(place) for place in range(5)]
    calm = planted.samples([0.2, 0.3, 0.4, 0.5, 0.6], 400, random, 3)
    wild = planted.samples([0.2, 0.3, 0.4, 0.5, 0.6], 400, random, 3, seed_sd=0.08)
    widths = [
        float(np.ptp(np.quantile(cloud(dict(zip(names, of, strict=True)), 2000, 0).draws["2"], [0.025, 0.975])))
        for of in (calm, wild)
    ]
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_the_planted_truth_about_as_often_as_they_say(seeds):
    """150 replicates: with 95 % true coverage 90 to 98 % is what all but one in a hundred such tests give."""
    rows = np.array([10.0, 40.0, 160.0, 640.0, 2560.0])
    names = [str(place) for place in range(5)]
    held = []
    for replicate in range(150):
        random = np.random.default_rng([3, replicate])
        of = planted.samples((0.1 + 0.05 * np.log2(rows)).tolist(), 200, random, seeds, 0.02 if seeds > 1 else 0.0)
        fitted = fit("logarithmic", rows, *cloud(dict(zip(names, of, strict=True)), 1000, replicate).take(names))
        low, high = np.quantile(fitted.draws[:, 1], [0.025, 0.975])
        held.append(low <= 0.05 <= high)
    assert 0.90 <= np.mean(held) <= 0.987


def test_a_law_that_does_not_hold_has_no_interval_and_no_band():
    """Two steps with a level between them follow neither law."""
    tables = scaling.table(amounts([0.2, 0.5, 0.5, 0.5, 0.8], items=2000), FAST)
    (row,) = tables[0].rows
    assert row["per doubling"].endswith("(law does not hold)")
    (band,) = [points for name, points in tables[0].figures[0].series.items() if "law" in name]
    assert all(point["low"] is None for point in band)
