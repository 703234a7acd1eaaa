"""LESS: influences by hand on given features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cuvee.data.vectors import Stacked
from cuvee.errors import DataError
from cuvee.selectors import less

from .conftest import candidates


def judged(epochs: list[tuple[float, Any, dict[str, Any]]]) -> Any:
    evidence: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    for number, (rate, rows, of_targets) in enumerate(epochs, 1):
        evidence[f"epoch{number}"] = {"vector": rows, "weight": np.full(len(rows), rate)}
        targets |= {f"epoch{number}.{name}": {"vector": np.asarray(v)} for name, v in of_targets.items()}
    found = replace(candidates(len(epochs[0][1])), evidence=evidence, targets=targets)
    return less.judge(found, {}).scores


def test_mean_over_the_examples_of_a_subtask_then_the_largest_subtask() -> None:
    rows = np.eye(4, dtype=np.float16)
    first = [[1, 0.5, 0, 0], [0, 0.5, 0, 0]]
    second = [[0, 0, 0.2, 0.9], [0, 0, 0.2, 0.3], [0, 0, 0.2, 0]]
    assert judged([(1e-5, rows, {"a": first, "b": second})]) == pytest.approx([0.5, 0.5, 0.2, 0.4])


def test_epochs_weigh_by_their_learning_rate() -> None:
    rows, target = np.eye(2, dtype=np.float16), {"t": [[1.0, 0.0]]}
    other = {"t": [[0.0, 1.0]]}
    assert judged([(3e-5, rows, target), (1e-5, rows, other)]) == pytest.approx([0.75, 0.25])


def test_features_may_lie_in_several_files() -> None:
    draw = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float16)
    stacked = Stacked([draw[:3], draw[3:]])
    assert (np.asarray(stacked) == draw).all()
    assert (stacked[1:6] == draw[1:6]).all()
    assert (stacked[np.array([6, 0, 3])] == draw[[6, 0, 3]]).all()
    target = {"t": [[1.0, 0.0, 0.0]]}
    assert judged([(1.0, stacked, target)]) == pytest.approx(draw[:, 0].astype(float), abs=1e-6)


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(DataError, match="vectors of the rows have 2 numbers, those of 't' 3"):
        judged([(1.0, np.eye(2), {"t": [[1.0, 0.0, 0.0]]})])


def test_the_warm_up_is_a_lora_training_with_adam() -> None:
    for reference in ({"method": "full"}, {"optimiser": "sgd"}):
        with pytest.raises(ValidationError, match="leave method and optimiser out"):
            less.Params(target={"path": "x"}, reference=reference)
