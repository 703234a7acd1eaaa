"""LoBaSS by the numbers of the paper's formula, and its invariants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cuvee import components
from cuvee.protocols import Judged
from cuvee.selectors import lobass

from .conftest import candidates, losses, refused

BASE, REFERENCE = [2, 1, 4, 0.5], [1, 0.8, 3, 0.6]
Judge = Callable[..., Judged]


def test_the_golden_example(judge: Judge) -> None:
    rows = candidates(4, {"base": losses(BASE), "reference": losses(REFERENCE)})
    assert judge("lobass", rows).scores == pytest.approx([0.5, 0.2, 0.25, -0.2])
    assert judge("lobass", rows, score="difference").scores == pytest.approx([1, 0.2, 1, -0.1])
    assert np.argsort(-judge("lobass", rows).scores).tolist() == [0, 2, 1, 3]


positive = st.floats(0.01, 20)


@given(st.lists(st.tuples(positive, positive, st.integers(1, 500)), min_size=1, max_size=30))
def test_sums_and_means_the_base_or_the_reference_below_give_one_order(rows: list[tuple[float, float, int]]) -> None:
    base, reference, tokens = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    evidence = {"base": losses(base, tokens.tolist()), "reference": losses(reference, tokens.tolist())}
    module = components.find("selectors", "lobass")
    scores = module.judge(candidates(len(rows), evidence), {"score": "relative"}).scores
    sums = (base * tokens - reference * tokens) / (base * tokens)
    assert scores == pytest.approx(sums, abs=1e-9)
    assert (scores <= 1).all()
    assert ((scores < -1e-9) <= (reference > base)).all()
    below_reference = (base - reference) / reference
    for a in range(len(rows)):
        for b in range(len(rows)):
            if scores[a] > scores[b] + 1e-9:
                assert below_reference[a] > below_reference[b]


def test_the_difference_hangs_on_sum_or_mean(judge: Judge) -> None:
    tokens = [1, 100]
    rows = candidates(2, {"base": losses([3, 2], tokens), "reference": losses([1, 1], tokens)}, tokens)
    assert judge("lobass", rows, score="difference").scores == pytest.approx([2, 1])
    assert judge("lobass", rows, score="sum").scores == pytest.approx([2, 100])


def test_known_noisy_learnable_and_worsened_rows_rank_as_the_theory_says(judge: Judge) -> None:
    known, noise, learnable, worse = range(5), range(5, 10), range(10, 15), range(15, 20)
    base = [0.05] * 5 + [6.0] * 5 + [2.0] * 5 + [1.0] * 5
    reference = [0.045] * 5 + [5.7] * 5 + [0.4] * 5 + [1.2] * 5
    found = judge("lobass", candidates(20, {"base": losses(base), "reference": losses(reference)})).scores
    assert found[list(learnable)].min() > max(found[list(known)].max(), found[list(noise)].max())
    assert found[list(worse)].max() < 0 < min(found[list(known)].min(), found[list(noise)].min())


def test_rows_without_a_loss_are_refused_with_the_reason(judge: Judge) -> None:
    base = {"nll": np.array([8, 0, 0, np.nan, 8, np.inf]), "tokens": np.array([4, 4, 0, 4, np.nan, 4])}
    reference = losses([1, 1, 1, 1, 1, 1])
    judged = judge("lobass", candidates(6, {"base": base, "reference": reference}))
    assert refused(judged) == {
        1: "base loss is 0",
        2: "no supervised token",
        3: "loss is no number",
        4: "lost in the scorer's rendering",
        5: "loss is no number",
    }
    assert judged.scores[0] == 0.5


def test_thresholds_refuse_what_is_too_hard_or_known(judge: Judge) -> None:
    rows = candidates(4, {"base": losses(BASE), "reference": losses(REFERENCE)})
    judged = judge("lobass", rows, largest_base=3, largest_reference=0.9, smallest_base=0.6)
    assert refused(judged) == {0: "largest_reference 0.9", 2: "largest_base 3.0", 3: "smallest_base 0.6"}


@pytest.mark.parametrize("asked", [{"prior": "heldout", "share": 0.5}, {"folds": 3}])
def test_a_parameter_of_the_other_prior_is_refused_not_ignored(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"prior: (seen|heldout)"):
        lobass.Params(**asked)


def test_a_held_out_prior_takes_each_row_from_the_reference_that_has_not_seen_it(judge: Judge) -> None:
    nan = np.nan
    first = {"nll": np.array([4, nan, 12, nan]), "tokens": np.array([4, nan, 4, nan])}
    second = {"nll": np.array([nan, 3.2, nan, 2.4]), "tokens": np.array([nan, 4, nan, 4])}
    rows = candidates(4, {"base": losses(BASE), "reference0": first, "reference1": second})
    assert judge("lobass", rows, prior="heldout").scores == pytest.approx([0.5, 0.2, 0.25, -0.2])
