"""IFD, perplexity bands, length, random rows and stored scores, on numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cuvee.protocols import Judged

from .conftest import candidates, losses, refused

Judge = Callable[..., Judged]


def test_ifd_of_losses_and_of_perplexities(judge: Judge) -> None:
    rows = candidates(1, {"conditioned": losses([1.2]), "alone": losses([1.5])})
    assert judge("ifd", rows).scores == pytest.approx([0.8])
    assert judge("ifd", rows, ratio="perplexity").scores == pytest.approx([0.740818], abs=1e-6)


def test_the_two_ratios_do_not_order_rows_alike(judge: Judge) -> None:
    rows = candidates(2, {"conditioned": losses([0.4, 2.7]), "alone": losses([0.5, 3.0])})
    assert judge("ifd", rows).scores == pytest.approx([0.8, 0.9])
    assert judge("ifd", rows, ratio="perplexity").scores == pytest.approx([0.905, 0.741], abs=1e-3)


def test_an_instruction_that_misleads_is_refused_unless_asked_otherwise(judge: Judge) -> None:
    rows = candidates(3, {"conditioned": losses([1.2, 0.5, 1.0]), "alone": losses([1.0, 1.0, 0.0])})
    assert refused(judge("ifd", rows)) == {0: "IFD above 1.0", 2: "loss without the instruction is 0"}
    assert refused(judge("ifd", rows, largest=None)) == {2: "loss without the instruction is 0"}


def test_bands_of_perplexity(judge: Judge) -> None:
    rows = candidates(8, {"base": losses([5, 1, 8, 3, 2, 7, 4, 6])})

    def best(band: str, count: int) -> set[float]:
        order = np.argsort(-judge("perplexity", rows, band=band).scores, kind="stable")[:count]
        return set(np.asarray([5, 1, 8, 3, 2, 7, 4, 6])[order].tolist())

    assert best("low", 3) == {1, 2, 3}
    assert best("high", 3) == {6, 7, 8}
    assert best("middle", 4) == {3, 4, 5, 6}
    assert judge("perplexity", rows, band=None).scores[1] == pytest.approx(np.e)


def test_entropy_a_token_whatever_the_answer_says(judge: Judge) -> None:
    found = {"nll": np.array([9.0, 1, 2, 0]), "tokens": np.array([2, 2, 4, 0]), "entropy": np.log(2) * np.arange(1, 5)}
    rows = candidates(4, {"base": found})
    judged = judge("entropy", rows)
    assert judged.scores[:3] == pytest.approx([0.346574, 0.693147, 0.519860], abs=1e-6)
    assert refused(judged) == {3: "no supervised token"}
    assert np.nanargmax(judge("entropy", rows, band="low").scores) == 0
    assert np.nanargmax(judge("entropy", rows, band="middle").scores) == 2


def test_length_of_the_answer_or_of_the_row(judge: Judge) -> None:
    rows = candidates(3, tokens=[5, 2, 9])
    assert judge("length", rows).scores.tolist() == [5, 2, 9]
    assert judge("length", rows, of="row").scores.tolist() == [10, 4, 18]


def test_random_hangs_on_seed_and_row_alone(judge: Judge) -> None:
    rows = candidates(2000)
    first, again, other = judge("random", rows), judge("random", rows), judge("random", rows, seed=1)
    turned = judge("random", rows.take(np.arange(1999, -1, -1), None))
    assert (first.scores == again.scores).all()
    assert (turned.scores[::-1] == first.scores).all()
    assert abs(np.corrcoef(first.scores, other.scores)[0, 1]) < 0.1
    assert ((first.scores >= 0) & (first.scores < 1)).all()
    assert np.histogram(first.scores, 10, (0, 1))[0].min() > 140


def test_stored_scores_are_taken_as_they_are(judge: Judge) -> None:
    rows = candidates(3, {"stored": {"value": np.array([2.0, np.nan, -1.0])}})
    judged = judge("stored", rows, path="x.parquet")
    assert refused(judged) == {1: "no score in the file"}
    assert judged.scores[[0, 2]].tolist() == [2, -1]
