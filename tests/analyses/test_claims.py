"""The ledger says of a planted truth what is true of it, and never more than the items allow."""

from __future__ import annotations

import weakref
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from tests.analyses import planted

from cuvee.analyses import claims
from cuvee.analyses._results import Measure
from cuvee.errors import UsageError
from cuvee.protocols import Portion, TrainingInfo

FAST = claims.Params(resamples=2000, margin=0.03)
SHARES = (Fraction(1, 64), Fraction(1, 16), Fraction(1, 4), Fraction(1))


def verdicts(results, finding, params=FAST):
    module = claims.findings()[finding]
    (table,) = claims.table(results, params)
    return [row["verdict"] for row in table.rows if row["finding"] == module.FINDING]


def alone(source, levels, items=3000):
    runs = []
    for share, level in zip(SHARES, levels, strict=True):
        params = {"source": source, "share": share, "general": "general"}
        runs.append((planted.run(f"{source} {share}", {source: int(4096 * share)}, params=params), {source: level}))
    return planted.results(runs, items)


def test_every_finding_states_itself_its_source_and_what_it_needs():
    found = claims.findings()
    assert len(found) >= 7
    for module in found.values():
        assert module.FINDING.endswith(".")
        assert "arXiv" in module.SOURCE
        assert "strategy" in module.NEEDS


def test_what_the_recipe_does_not_have_is_not_tested_and_says_what_to_add(result):
    (table,) = claims.table([result("other", "math", "1101")], FAST)
    assert {row["verdict"] for row in table.rows} == {"not tested"}
    assert all(row["what would decide it"].startswith("add {strategy:") for row in table.rows)


def test_a_general_source_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="Did you mean 'math'"):
        claims.table(alone("math", (0.2, 0.3, 0.4, 0.5), items=40), claims.Params(general="maths"))


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ((0.2, 0.3, 0.4, 0.5), "supported"),
        ((0.2, 0.3, 0.5, 0.45), "contradicted"),
        ((0.2, 0.4, 0.5, 0.5), "contradicted"),
    ],
)
def test_a_special_ability_that_keeps_improving(levels, verdict):
    assert verdicts(alone("math", levels, items=8000), "special_keeps_improving") == [verdict]


def test_few_items_leave_it_undecided_and_say_how_many_would_do():
    results = alone("math", (0.2, 0.3, 0.40, 0.42), items=200)
    (table,) = claims.table(results, FAST)
    (row,) = [row for row in table.rows if row["on"] and row["on"].startswith("math")]
    assert row["verdict"] == "undecided"
    assert "items instead of 200; and a second seed" in row["what would decide it"]


@pytest.mark.parametrize(
    ("levels", "verdict"), [((0.2, 0.5, 0.5, 0.5), "supported"), ((0.2, 0.3, 0.4, 0.6), "contradicted")]
)
def test_general_ability_that_plateaus_near_a_thousand_rows(levels, verdict):
    assert verdicts(alone("general", levels, items=8000), "general_plateaus") == [verdict]


def staged(levels, items=2000, strategy="sequential", name="sequential"):
    """A run of code, math, general whose accuracies by stage are given by ability."""
    stages = ("code", "math", "general")
    infos = tuple(
        TrainingInfo(f"{name}-{source}", 1, 10, 10, 10, 1.0, (Portion(source, source, 100, 2000, 100),))
        for source in stages
    )
    info = replace(planted.run(name, {"math": 1}, strategy=strategy), trainings=infos, params={"general": "general"})
    found = []
    for ability, line in levels.items():
        drawn = planted.scores(line, items, np.random.default_rng([5, len(ability)]))
        found += [planted.result(info, ability, s.tolist(), stage, stage == 3) for stage, s in enumerate(drawn, 1)]
    return found


def test_sequential_training_that_forgets():
    levels = {"math": [0.1, 0.5, 0.3], "code": [0.4, 0.4, 0.4], "general": [0.1, 0.1, 0.6]}
    assert verdicts(staged(levels, items=8000), "sequential_forgets") == ["supported", "contradicted"]


def final(name, strategy, levels, **params):
    rows = {"math": 100, "general": 100}
    return planted.run(name, rows, strategy=strategy, params={"general": "general", **params}), levels


@pytest.mark.parametrize(
    ("dmt", "verdict"),
    [((0.45, 0.65), "supported"), ((0.45, 0.45), "contradicted"), ((0.45, 0.555), "undecided")],
)
def test_dmt_beats_mixed_sequential_only_where_it_does_on_both(dmt, verdict):
    results = planted.results(
        [
            final("mixed_sequential", "mixed_sequential", {"math": 0.3, "general": 0.55}),
            final("dmt k=1/256", "dmt", {"math": dmt[0], "general": dmt[1]}, k=Fraction(1, 256)),
            final("dmt k=1", "dmt", {"math": 0.9, "general": 0.9}, k=Fraction(1)),
        ],
        1000,
    )
    assert verdicts(results, "dmt_beats_mixed_sequential") == [verdict]


def test_multi_task_keeps_special_and_costs_general():
    results = planted.results(
        [
            final("mixed_sequential", "mixed_sequential", {"math": 0.3, "general": 0.6}),
            final("multi_task", "multi_task", {"math": 0.5, "general": 0.5}),
        ],
        1000,
    )
    assert verdicts(results, "multi_task_keeps_special") == ["supported"]


def ledger(results, finding):
    module = claims.findings()[finding]
    (table,) = claims.table(results, FAST)
    (row,) = [row for row in table.rows if row["finding"] == module.FINDING]
    return row


def test_a_finding_about_every_ability_is_not_supported_while_one_is_not_measured():
    """General ability is trained on and nothing measures it."""
    mixed, _ = final("mixed_sequential", "mixed_sequential", {})
    better, _ = final("dmt k=1/16", "dmt", {}, k=Fraction(1, 16))
    found = ledger(
        planted.results([(mixed, {"math": 0.3}), (better, {"math": 0.5})], 1000), "dmt_beats_mixed_sequential"
    )
    assert (found["verdict"], found["what would decide it"]) == (
        "undecided",
        "general has to be measured, on the same items in both runs",
    )
    worse = ledger(
        planted.results([(mixed, {"math": 0.5}), (better, {"math": 0.3})], 1000), "dmt_beats_mixed_sequential"
    )
    assert worse["verdict"] == "contradicted"


def test_an_ability_measured_in_one_run_alone_is_not_left_out_of_a_finding():
    runs = [
        final("mixed_sequential", "mixed_sequential", {"math": 0.3}),
        final("multi_task", "multi_task", {"math": 0.5, "general": 0.5}),
    ]
    assert ledger(planted.results(runs, 1000), "multi_task_keeps_special")["verdict"] == "undecided"


def test_an_ability_without_an_accuracy_counts_by_its_loss():
    runs = [
        final("mixed_sequential", "mixed_sequential", {"math": 0.3, "general": 0.6}),
        final("multi_task", "multi_task", {"math": 0.5, "general": 0.9}),
    ]
    found = [
        replace(one, evaluator="heldout_loss", metric="loss", higher_is_better=False)
        if one.ability == "general"
        else one
        for one in planted.results(runs, 1000)
    ]
    row = ledger(found, "multi_task_keeps_special")
    assert row["verdict"] == "supported"
    assert "points; general -" in row["effect (+ is better)"]


def test_forgetting_goes_by_a_measure_that_has_the_stages():
    """Accuracies of the final model alone come first, and losses along the stages decide."""
    levels = {"math": [0.1, 0.5, 0.3], "code": [0.4, 0.4, 0.4], "general": [0.1, 0.1, 0.6]}
    losses = [
        replace(
            one, evaluator="heldout_loss", metric="loss", higher_is_better=False, scores=[1 - s for s in one.scores]
        )
        for one in staged(levels, items=8000)
    ]
    finals = [one for one in staged(levels, items=8000) if one.final]
    assert verdicts([*finals, *losses], "sequential_forgets") == ["supported", "contradicted"]


def test_what_was_tested_comes_first():
    (table,) = claims.table(alone("math", (0.2, 0.3, 0.4, 0.5)), FAST)
    tested = [row["verdict"] != "not tested" for row in table.rows]
    assert tested == sorted(tested, reverse=True)
    assert any(tested)


def test_a_loss_is_better_when_it_is_lower(result):
    """Signs follow the metric: a lower loss is an improvement."""
    info, _ = final("mixed_sequential", "mixed_sequential", {})
    better, _ = final("dmt k=1/16", "dmt", {}, k=Fraction(1, 16))
    random = np.random.default_rng(0)
    items = random.random(500) + 1
    found = []
    for run, shift in ((info, 0.0), (better, -0.2)):
        for ability in ("math", "general"):
            made = planted.result(run, ability, (items + shift + 0.05 * random.random(500)).tolist())
            found.append(replace(made, evaluator="heldout_loss", metric="loss", higher_is_better=False))
    (table,) = claims.table(found, FAST)
    (row,) = [row for row in table.rows if row["on"] == "k = 1/16 minus mixed_sequential"]
    assert row["verdict"] == "supported"
    assert row["effect (+ is better)"].startswith("math +0.2")


def test_no_finding_is_supported_more_often_than_the_level_where_nothing_is_true():
    """300 pairs of equal models: 'rises' is supported in 2.5 % of them, give or take."""
    supported = 0
    for replicate in range(300):
        random = np.random.default_rng([11, replicate])
        old, new = planted.samples([0.5, 0.5], 300, random)
        evidence = claims.Evidence([], 0.02, None, 2000, 0)
        test = evidence.test(Measure("exact_answer", "math", "accuracy", True), new, old)
        supported += evidence.rises(test) == "supported"
    assert supported <= 16


@pytest.mark.parametrize(("ties", "verdict"), [(0.45, "supported"), (0.6, "contradicted")])
def test_the_average_suffices_where_no_merger_gains(ties, verdict):
    runs = [
        final(
            f"dtm {merger}",
            "disperse_then_merge",
            {"math": level, "general": 0.5},
            portions=4,
            merger={"name": merger, "params": {}},
        )
        for merger, level in (("linear", 0.5), ("ties", ties))
    ]
    results = planted.results(runs, 8000)
    assert verdicts(results, "average_suffices") == [verdict]


def test_merging_beats_joint_training_where_it_does():
    merged = final("dtm", "disperse_then_merge", {"math": 0.6, "general": 0.6}, portions=4, merger="linear")
    joint = final("multi_task", "multi_task", {"math": 0.5, "general": 0.5})
    assert verdicts(planted.results([merged, joint], 1000), "merging_beats_joint") == ["supported"]


@pytest.mark.parametrize(("level", "verdict"), [(0.6, "supported"), (0.4, "contradicted")])
def test_few_selected_rows_beat_all_where_they_do(level, verdict):
    whole, chosen, chance = (
        planted.run(name, {"math": n}, strategy="multi_task")
        for name, n in (("all", 1000), ("few", 60), ("chance", 60))
    )
    runs = [
        (whole, {"math": 0.5}),
        (replace(chosen, select="lobass 3/50"), {"math": level}),
        (replace(chance, select="random 3/50"), {"math": 0.9}),
    ]
    assert verdicts(planted.results(runs, 2000), "selected_beats_all") == [verdict]
    # Other selectors say nothing of learnability, and a run under the recipe's selection is not on all rows.
    for other in ("ifd 3/50", "lobass lowest 3/50", "lobass 1/4-3/4"):
        by_other = [runs[0], (replace(chosen, select=other), {"math": level})]
        assert verdicts(planted.results(by_other, 2000), "selected_beats_all") == ["not tested"]
    under = [(replace(whole, recipe_select="length 1/2"), {"math": 0.5}), runs[1]]
    assert verdicts(planted.results(under, 2000), "selected_beats_all") == ["not tested"]
    taken_away = [
        (replace(whole, select="nothing is selected"), {"math": 0.5}),
        (replace(chosen, recipe_select="lobass(folds=3) 3/50"), {"math": level}),
    ]
    assert verdicts(planted.results(taken_away, 2000), "selected_beats_all") == [verdict]


def test_seeds_that_disagree_are_asked_for_instead_of_items():
    """A clear difference on average, against which one of two seeds stands."""
    random = np.random.default_rng(0)
    first, second = (planted.samples(levels, 1000, random) for levels in ([0.5, 0.9], [0.55, 0.5]))
    old, new = (
        replace(a, by_seed=np.concatenate([a.by_seed, b.by_seed]), seeds=(0, 1))
        for a, b in zip(first, second, strict=True)
    )
    evidence = claims.Evidence([], 0.01, None, 2000, 0)
    test = evidence.test(Measure("exact_answer", "math", "accuracy", True), new, old)
    assert evidence.rises(test) == "undecided"
    assert evidence.needed(test) == "more seeds: of 2 some contradict the sign of the others"


def test_compared_samples_are_kept_so_that_none_takes_anothers_place():
    """Samples of a stage are made when they are asked for; the next one may lie where a forgotten one lay."""
    old, new = planted.samples([0.4, 0.5], 200, np.random.default_rng(0))
    evidence = claims.Evidence([], 0.01, None, 2000, 0)
    evidence.test(Measure("exact_answer", "math", "accuracy", True), new, old)
    there = weakref.ref(old)
    del old
    assert there() is not None


def test_a_test_at_its_floor_decides_nothing():
    """No item right in either of both models, in three seeds."""
    old, new = planted.samples([0.0, 0.0], 100, np.random.default_rng(0), seeds=3)
    evidence = claims.Evidence([], 0.01, None, 2000, 0)
    test = evidence.test(Measure("exact_answer", "math", "accuracy", True), new, old)
    assert {evidence.rises(test), evidence.falls(test), evidence.stays(test)} == {"undecided"}
    assert "another evaluator such as the loss: both score the same on every item" in evidence.needed(test)


def test_a_large_k_says_nothing_about_a_small_one():
    mixed = final("mixed", "mixed_sequential", {"math": 0.4, "general": 0.4}, general="general")
    large = final("dmt", "dmt", {"math": 0.6, "general": 0.6}, general="general", k="1/4")
    small = final("dmt", "dmt", {"math": 0.6, "general": 0.6}, general="general", k="1/16")
    assert verdicts(planted.results([mixed, large], 1000), "dmt_beats_mixed_sequential") == ["not tested"]
    assert verdicts(planted.results([mixed, small], 1000), "dmt_beats_mixed_sequential") == ["supported"]
