"""Replies without a verdict in one run are left out in all, so that what is compared is the same."""

from __future__ import annotations

from collections.abc import Sequence

from cuvee.analyses import judged, scores
from cuvee.protocols import Result, RunInfo
from cuvee.report.results import judged_everywhere

VERDICTS = {"asked": 6, "failed": {"unreadable": 1}, "fallback": 0}


def result(run: str, items: Sequence[str], ratings: Sequence[float], seed: int = 0) -> Result:
    """Items are QUESTION/TURN."""
    turns = [int(item[-1]) for item in items]
    extra = {"cluster": [item[0] for item in items], "turn": turns, "category": ["math"] * len(items)}
    info = RunInfo(run, run, {}, "base", seed)
    return Result(
        run=info, stage=1, stage_label=run, final=True, evaluator="mt_bench", metric="rating", ability="general",
        higher_is_better=True, items=items, scores=ratings, weights=[1.0] * len(items), full_size=6, extra=extra,
        stage_id=f"{run}{seed}", unjudged=6 - len(items), verdicts=VERDICTS,
    )  # fmt: skip


ITEMS = ["a/1", "a/2", "b/1", "b/2", "c/1", "c/2"]
WHOLE = result("one", ITEMS, [1, 2, 3, 4, 5, 6])
LACKING = result("two", ["a/1", *ITEMS[2:]], [2, 4, 5, 6, 7])


def test_all_runs_keep_the_replies_that_have_a_score_in_each() -> None:
    (one, two), notes = judged_everywhere([WHOLE, LACKING])
    assert list(one.items) == list(two.items) == ["a/1", *ITEMS[2:]]
    assert list(one.scores) == [1, 3, 4, 5, 6]
    assert one.extra["turn"] == [1, 1, 2, 1, 2]
    assert notes == [
        "mt_bench on general: 1 of 6 replies have no verdict in some run or seed and are left out in all, so that all "
        "are compared on the same ones."
    ]


def test_what_is_whole_or_not_judged_stays_as_it_is() -> None:
    plain = Result(
        RunInfo("x", "x", {}, "base", 0), 1, "x", True, "gsm8k", "accuracy", "math", True, ["q"], [1], [1], 1
    )
    found, notes = judged_everywhere([WHOLE, plain])
    assert found == [WHOLE, plain]
    assert notes == []


def test_scores_of_runs_and_seeds_that_lack_verdicts_are_compared_on_the_rest() -> None:
    seeds = [WHOLE, result("one", ITEMS[:4], [2, 3, 4, 5], seed=1), result("two", ITEMS, [5, 6, 7, 8, 9, 9])]
    found, _ = judged_everywhere(seeds)
    tables = scores.table(found, scores.Params(resamples=2000))
    assert not any("not measured on the same items" in note for table in tables for note in table.notes)


def test_the_analysis_tells_turns_categories_and_failures() -> None:
    parts, verdicts = judged.table([WHOLE, LACKING], judged.Params())
    assert parts.columns == ["run", "all", "turn 1", "turn 2", "math"]
    assert [row["run"] for row in parts.rows] == ["one", "two"]
    assert parts.rows[0]["turn 1"].startswith("3.00 ± ")
    assert parts.rows[0]["all"].endswith("(6)")
    assert [(row["failed"], row["why"], row["replies without a score"]) for row in verdicts.rows] == [
        (1, "1 unreadable", 0),
        (1, "1 unreadable", 1),
    ]


def test_nothing_judged_makes_no_table() -> None:
    assert judged.table([], judged.Params()) == []
