from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cuvee.analyses import scores
from cuvee.analyses._results import Measure
from cuvee.analyses._verdict import primary
from cuvee.analyses.scores import Params
from cuvee.errors import UsageError
from cuvee.protocols import Portion, TrainingInfo

FAST = Params(resamples=2000)


def verdict(results, params=FAST):
    return scores.table(results, params)[0]


def line(ability, level, n=200):
    """n items of which the first `level` are right: runs differ on the items between their levels."""
    return "1" * level + "0" * (n - level)


def test_the_best_mean_over_abilities_leads_and_beats_what_it_clearly_beats(result):
    found = verdict(
        [
            result("dmt k=1/4", "math", line("math", 120)),
            result("dmt k=1/4", "code", line("code", 110)),
            result("sequential", "math", line("math", 40)),
            result("sequential", "code", line("code", 108)),
        ]
    )
    assert found.notes[0].startswith("dmt k=1/4 leads (overall 57.5 points); better than sequential")
    assert [row["run"] for row in found.rows] == ["dmt k=1/4", "sequential"]
    assert found.rows[1]["difference: leader minus run (points)"] == pytest.approx(20.5)
    assert found.rows[1]["reading"] == "leader is better"


def test_a_lead_that_may_be_chance_is_not_separable(result):
    found = verdict(
        [
            result("dmt", "math", line("math", 102)),
            result("dmt", "code", line("code", 101)),
            result("multi_task", "math", line("math", 101)),
            result("multi_task", "code", line("code", 100)),
        ]
    )
    assert "not separable from multi_task (difference +0.5 points, 95 % " in found.notes[0]
    assert found.rows[1]["reading"] == "not separable"
    assert any("would be missed more than one time in five" in note for note in found.notes)


def test_what_the_leader_costs_is_said_against_the_best_run_for_the_ability(result):
    tables = scores.table(
        [
            result("dmt", "math", line("math", 100)),
            result("dmt", "code", line("code", 180)),
            result("math_only", "math", line("math", 130)),
            result("math_only", "code", line("code", 20)),
        ],
        FAST,
    )
    assert "costs: math -15.0 points, 95 % " in tables[0].notes[0]
    assert "against math_only, the best run for math" in tables[0].notes[0]
    assert [row["reading"] for row in tables[1].rows] == ["a cost", "is the best run"]


def test_one_run_alone_has_nothing_to_be_compared_with(result):
    found = verdict([result("dmt", "math", "1100")])
    assert found.notes[0] == (
        "dmt is the only run that can be judged (overall 50.0 points), so there is nothing to compare it with."
    )


def test_the_base_takes_part_and_can_lead(result):
    results = [result("dmt", "math", line("math", 20)), result("dmt", "math", line("math", 90), stage=0)]
    found = verdict(results)
    assert found.notes[0].startswith("base (untrained) leads")
    assert [row["run"] for row in found.rows] == ["base (untrained)", "dmt"]


def test_with_one_ability_the_verdict_is_the_exact_mcnemar_test(result):
    found = verdict([result("a", "math", line("math", 110)), result("b", "math", line("math", 100))])
    assert found.rows[1]["p (Holm)"] == pytest.approx(2 / 2**10)
    assert any("exact McNemar" in note for note in found.notes)


def test_accuracy_judges_where_there_is_one_and_a_loss_still_shows_among_the_costs(result):
    rng = np.random.default_rng(0).random(80)
    results = [
        result("a", "math", line("math", 120)),
        result("b", "math", line("math", 60)),
        result("a", "general", rng + 1.0, evaluator="heldout_loss"),
        result("b", "general", rng + 0.5, evaluator="heldout_loss"),
    ]
    found = verdict(results)
    assert found.notes[0].startswith("a leads (overall 60.0 points)")
    assert "costs: general +0.500 nats/token" in found.notes[0]
    assert any("general (heldout_loss, loss)" in note for note in found.notes)


def test_without_accuracy_the_lower_loss_leads(result):
    rng = np.random.default_rng(0).random(80)
    low = result("low", "math", rng + 1.0, evaluator="heldout_loss")
    high = result("high", "math", rng + 1.2, evaluator="heldout_loss")
    found = verdict([high, low])
    assert found.notes[0].startswith("low leads")
    assert found.rows[1]["difference: leader minus run (nats/token)"] == pytest.approx(-0.2)


def test_the_metric_of_the_verdict_can_be_asked_for(result):
    rng = np.random.default_rng(0).random(20)
    results = [
        result("a", "math", "1100"),
        result("b", "math", "1110"),
        result("a", "math", rng, evaluator="heldout_loss"),
        result("b", "math", rng + 1, evaluator="heldout_loss"),
    ]
    assert verdict(results).notes[0].startswith("b leads")
    assert verdict(results, Params(metric="loss", resamples=2000)).notes[0].startswith("a leads")


def test_a_run_with_a_missing_evaluation_is_left_out_and_named(result):
    found = verdict(
        [
            result("a", "math", "1100"),
            result("a", "code", "1100"),
            result("b", "math", "1000"),
            result("b", "code", "1000"),
            result("c", "math", "1111"),
        ]
    )
    assert "c is not in the verdict: it has no exact_answer on code." in found.notes
    assert [row["run"] for row in found.rows] == ["a", "b"]


def test_a_run_measured_on_other_items_is_left_out_and_named(result):
    found = verdict([result("a", "x", "1100"), result("b", "x", "1000"), result("c", "x", "11111")])
    assert any(note.startswith("c is not in the verdict: it was measured on other items") for note in found.notes)


def test_no_results_give_no_verdict_and_say_so():
    (only,) = scores.table([], FAST)
    assert only.notes == ["No verdict: no final model has been evaluated."]


def test_every_base_model_has_its_own_verdict(result):
    tables = scores.table(
        [
            result("a", "x", "1100", base="small"),
            result("b", "x", "1000", base="small"),
            result("a", "x", "0000", base="large"),
            result("b", "x", "1111", base="large"),
        ],
        FAST,
    )
    titles = [table.title for table in tables]
    assert "Verdict, base model small" in titles
    assert "Verdict, base model large" in titles
    assert tables[0].notes[0].startswith("a leads")


def test_a_difference_that_one_seed_contradicts_is_not_separable(result):
    results = []
    for seed, (a, b) in enumerate([(150, 50), (150, 50), (90, 100)]):
        results += [result("a", "x", line("x", a), seed=seed), result("b", "x", line("x", b), seed=seed)]
    found = verdict(results)
    assert found.rows[1]["p (Holm)"] < 0.05
    assert found.rows[1]["reading"] == "not separable"
    assert "SD between seeds (points)" in found.columns
    assert any(note.startswith("3 seeds a run") for note in found.notes)


def test_equal_runs_are_seldom_separated_though_the_best_is_picked_first(result):
    """The leader among six equal runs: correcting its own five pairs alone would err more often."""
    rng = np.random.default_rng(6)
    wrong = 0
    for _ in range(40):
        runs = [result(f"r{i}", "x", rng.integers(0, 2, 60).astype(float)) for i in range(6)]
        wrong += any(row["reading"] == "leader is better" for row in verdict(runs).rows)
    assert wrong <= 5


def test_the_scores_table_is_as_it_was(result):
    """Golden: value, standard error, m/n, star for the best."""
    found = scores.table(
        [
            result("multi_task", "math", "1110"),
            result("dmt", "math", "1100"),
            result("dmt", "math", "0000", stage=0),
            result("multi_task", "code", "10000", full_size=164),
            result("dmt", "code", "11000", full_size=164),
        ],
        FAST,
    )
    panel = next(table for table in found if table.title.startswith("Scores"))
    assert [tuple(row.values()) for row in panel.rows] == [
        ("base (untrained)", "0.0 (0/4)", "not measured"),
        ("multi_task", "75.0 ± 21.7 (3/4) ★", "20.0 ± 17.9 (1/5)"),
        ("dmt", "50.0 ± 25.0 (2/4)", "40.0 ± 21.9 (2/5) ★"),
    ]
    assert panel.columns == ["run", "math (points ↑)", "code (points ↑)"]
    assert any(note.startswith("exact_answer on code: 5 of the benchmark's 164 items") for note in panel.notes)


def test_evaluators_of_one_ability_each_stand_side_by_side_like_the_papers_table(result):
    found = scores.table(
        [
            result("a", "math", "1100", evaluator="gsm8k"),
            result("a", "code", "1100", evaluator="humaneval"),
        ],
        FAST,
    )
    panel = next(table for table in found if table.title.startswith("Scores"))
    assert panel.columns == ["run", "math (gsm8k) (points ↑)", "code (humaneval) (points ↑)"]


def test_replies_without_an_answer_are_counted(result):
    from dataclasses import replace

    given = replace(result("a", "math", "1100"), extra={"extracted": [True, True, False, True]})
    numbers = scores.table([given], FAST)[-1]
    assert numbers.rows[0]["without an answer"] == 1


def discordant(result, moves, sizes):
    """Two runs that differ on a few items of each ability: `moves` holds +1 where the first alone is right."""
    results = []
    for ability, (own, n) in enumerate(zip(moves, sizes, strict=True)):
        shared = [float(i % 2) for i in range(n - len(own))]
        results += [
            result("first", f"ability {ability}", [*(float(m > 0) for m in own), *shared]),
            result("second", f"ability {ability}", [*(float(m < 0) for m in own), *shared]),
        ]
    return results


def test_the_p_over_several_abilities_is_exact_for_a_few_discordant_items(result):
    """Eight items, all in favour of one run: fair coins do that once in 128."""
    (row,) = verdict(discordant(result, [[1, 1, 1], [1, 1, 1], [1, 1]], [150, 150, 150])).rows[1:]
    assert row["p (Holm)"] == pytest.approx(2 / 2**8)


@pytest.mark.parametrize("number", [4, 8])
def test_few_discordant_items_give_no_more_false_claims_than_the_level_says(result, number):
    """Equal models that differ on a few items by chance; a percentile bootstrap claimed twice as often."""
    rng = np.random.default_rng(number)
    wrong = 0
    for _ in range(200):
        moves = [rng.choice([-1, 1], size) for size in rng.multinomial(number, [1 / 3] * 3)]
        found = _verdict_of(discordant(result, moves, [80, 50, 40]))
        wrong += found.others[0].comparison.p < 0.05
    assert wrong / 200 <= 0.065


def _verdict_of(results):
    from cuvee.analyses import _results, _verdict

    return _verdict.judge(results, _results.final_samples(results), metric="auto", resamples=2000, seed=0)


def test_without_a_discordant_item_the_smallest_visible_difference_is_not_zero(result):
    (row,) = verdict(discordant(result, [[], [], []], [100, 100, 100])).rows[1:]
    assert row["smallest visible (points)"] == pytest.approx(100 * 6 / 300)


def test_a_metric_that_does_not_exist_is_refused_when_it_is_written():
    with pytest.raises(ValueError, match="accuracy"):
        Params(metric="acuracy")


def test_a_metric_that_nothing_was_measured_by_is_an_error_that_names_what_is_possible(result):
    results = [result("a", "math", [1.0, 2.0], evaluator="heldout_loss")]
    with pytest.raises(UsageError, match="go by accuracy, and the results have loss; set metric: auto or loss"):
        scores.table(results, Params(metric="accuracy", resamples=2000))


def test_a_base_model_without_the_metric_has_no_verdict_and_says_why(result):
    results = [
        result("a", "math", "1100", base="one"),
        result("a", "math", [1.0, 2.0], base="two", evaluator="heldout_loss"),
    ]
    second = next(t for t in scores.table(results, Params(metric="accuracy", resamples=2000)) if "two" in t.title)
    assert second.notes == ["No verdict: no final model has been measured by accuracy, which the verdict was to go by."]


def test_the_verdict_goes_by_what_covers_most_abilities() -> None:
    def measure(metric: str, ability: str) -> Measure:
        return Measure(f"{metric} of it", ability, metric, metric == "accuracy")

    losses = [measure("loss", ability) for ability in ("math", "code")]
    assert primary([*losses, measure("accuracy", "math")]) == tuple(losses)
    both = [measure("accuracy", ability) for ability in ("math", "code")]
    assert primary([*losses, *both]) == tuple(both)
    assert primary([]) == ()


def test_when_all_runs_score_the_same_nobody_leads(result):
    found = verdict([result(run, "math", line("math", 0)) for run in ("multi_task", "dmt k=1/4")])
    assert found.title
    assert any("No run leads: all have the same overall" in note for note in (found.title, *found.notes))


def test_runs_with_the_same_models_are_compared_once_and_named(result):
    """The graph gave two runs one model: they have one grade stage, and are no tie."""
    from dataclasses import replace

    levels = {"all": "1" * 30 + "0" * 10, "all again": "1" * 30 + "0" * 10, "none": "0" * 40}
    ids = {"all": "grade-1", "all again": "grade-1", "none": "grade-2"}
    results = [replace(result(run, "math", right), stage_id=ids[run]) for run, right in levels.items()]
    verdict, *_ = scores.table(results, scores.Params())
    assert verdict.notes[0].startswith("all leads (overall 75.0 points); better than none")
    assert "all again: the same model as all, compared once." in verdict.notes
    assert [row["run"] for row in verdict.rows] == ["all", "all again", "none"]
    twin = verdict.rows[1]
    assert (twin["overall (points ↑)"], twin["p (Holm)"], twin["reading"]) == (75.0, None, "the same model as all")
    apart = [replace(each, stage_id="") for each in results]
    assert (
        "all leads (overall 75.0 points); not separable from all again"
        in scores.table(apart, scores.Params())[0].notes[0]
    )


def test_a_column_of_equal_scores_has_no_best(result):
    results = [
        result("a", "math", "1100"),
        result("b", "math", "0011"),
        result("a", "code", "1"),
        result("b", "code", "0"),
    ]
    panels = [table for table in scores.table(results, FAST) if table.title.startswith("Scores")]
    cells = {
        name: str(cell) for table in panels for row in table.rows for name, cell in row.items() if "★" in str(cell)
    }
    assert all("code" in name for name in cells)
    assert cells


def test_where_nothing_is_solved_no_run_leads_and_no_error_is_called_zero(result):
    tables = scores.table([result(name, "math", "0" * 30) for name in ("a", "b")], FAST)
    assert [row["reading"] for row in tables[0].rows] == ["as good as the others", "not separable"]
    assert tables[0].rows[0]["standard error (points)"] is None
    assert not any(table.title == "What the leading run costs" for table in tables)
    assert "±" not in str(tables[1].rows)


def test_an_ability_that_was_trained_on_and_is_not_measured_is_named(result):
    portions = (Portion("sums", "math", 10, 100, 10), Portion("chat", "general", 10, 100, 10))
    training = TrainingInfo("t", 1, 5, 200, 400, 1.0, portions)
    made = result("multi_task", "math", "1100")
    (first, *_) = scores.table([replace(made, run=replace(made.run, trainings=(training,)))], FAST)
    assert any(note.startswith("Trained on and measured by nothing: general.") for note in first.notes)


def test_a_leader_that_trained_on_more_says_so(result):
    from dataclasses import replace

    from cuvee.protocols import TrainingInfo

    def trained(run, tokens, right):
        made = result(run, "math", right)
        info = replace(made.run, trainings=(TrainingInfo(f"train-{run}", 1, 10, tokens, 2 * tokens, 1.0, ()),))
        return replace(made, run=info)

    more = scores.table([trained("a", 3000, "1" * 40), trained("b", 2000, "0" * 40)], scores.Params())
    assert "; it trained on 1.5 times the tokens of b; " in more[0].notes[0]
    equal = scores.table([trained("a", 2050, "1" * 40), trained("b", 2000, "0" * 40)], scores.Params())
    assert "times the tokens" not in equal[0].notes[0]
