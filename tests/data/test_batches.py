from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cuvee.data.batches import micro_batches, plan_steps


def keys(names: list[int]) -> NDArray[np.uint8]:
    digests = [hashlib.blake2b(str(name).encode(), digest_size=16).digest() for name in names]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(names), 16)


def numbers(n: int) -> NDArray[np.int64]:
    return np.zeros(n, np.int64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 50), st.integers(0, 9))
def test_every_row_comes_once_an_epoch_and_no_step_crosses_one(
    names: list[int], epochs: int, batch_size: int, seed: int
) -> None:
    steps = plan_steps(keys(names), numbers(len(names)), epochs, batch_size, seed)
    per_epoch = -(-len(names) // batch_size)
    assert len(steps) == epochs * per_epoch
    for epoch in range(epochs):
        own = [steps[index] for index in range(epoch * per_epoch, (epoch + 1) * per_epoch)]
        assert sorted(np.concatenate(own).tolist()) == list(range(len(names)))
        assert all(len(step) == batch_size for step in own[:-1])


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(25)), st.integers(0, 3))
def test_the_order_of_rows_in_memory_changes_nothing(order: list[int], seed: int) -> None:
    names = [number % 11 for number in range(25)]
    shuffled = [names[index] for index in order]
    one = plan_steps(keys(names), numbers(25), 2, 4, seed)
    other = plan_steps(keys(shuffled), numbers(25), 2, 4, seed)
    for step, twin in zip(one, other, strict=True):
        assert [names[row] for row in step] == [shuffled[row] for row in twin]


def test_equal_rows_do_not_stand_side_by_side() -> None:
    names = [number // 2 for number in range(400)]
    (step,) = plan_steps(keys(names), numbers(400), 1, 400, 0)
    order = [names[row] for row in step]
    assert sum(a == b for a, b in itertools.pairwise(order)) < 10


def test_epochs_and_seeds_differ_and_the_same_seed_repeats() -> None:
    args = keys(list(range(50))), numbers(50)
    first, second = plan_steps(*args, 2, 50, 0)
    assert first.tolist() != second.tolist()
    assert first.tolist() != plan_steps(*args, 1, 50, 1)[0].tolist()
    assert first.tolist() == plan_steps(*args, 5, 50, 0)[0].tolist()


def test_steps_can_be_asked_for_in_any_order() -> None:
    steps = plan_steps(keys(list(range(50))), numbers(50), 3, 7, 0)
    every = [step.tolist() for step in steps]
    assert [steps[index].tolist() for index in (20, 0, 9, -1)] == [every[20], every[0], every[9], every[-1]]
    with pytest.raises(IndexError, match="step 24 of 24"):
        steps[24]
    with pytest.raises(TypeError, match="slice"):
        steps[1:2]


@pytest.mark.parametrize(("epochs", "batch_size", "n"), [(0, 1, 3), (1, 0, 3), (1, 1, 0)])
def test_a_training_needs_rows_epochs_and_a_batch(epochs: int, batch_size: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"1 or more|at least one row"):
        plan_steps(keys(list(range(n))), numbers(n), epochs, batch_size, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 100))
def test_micro_batches_hold_every_row_once_and_stay_within_the_budget(sizes: list[int], budget: int) -> None:
    lengths = np.array([0, 0, *sizes], np.int64)
    step = np.arange(2, len(lengths))[::-1].copy()
    found = micro_batches(lengths, step, budget)
    assert sorted(np.concatenate(found).tolist()) == sorted(step.tolist())
    for batch in found:
        assert lengths[batch].sum() <= budget or len(batch) == 1
    # Best fit never leaves two batches that would fit into one, apart from rows above the budget.
    totals = sorted(int(lengths[batch].sum()) for batch in found)
    if len(totals) > 1:
        assert totals[0] + totals[1] > budget


def test_micro_batches_are_filled_tightly() -> None:
    lengths = np.array([6, 4, 5, 5, 7, 3, 10], np.int64)
    found = micro_batches(lengths, np.arange(7), 10)
    assert [lengths[batch].tolist() for batch in found] == [[10], [7, 3], [6, 4], [5, 5]]
