"""An ensemble's loss is that of the mean of its members' distributions, from their stored token losses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuvee import api, ensembles, judging
from cuvee.errors import StageFailed
from cuvee.plan import Plan
from cuvee.recipe import load
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import Cuvee

RUNS = "runs=[{strategy: multi_task}, {strategy: disperse_then_merge, portions: 2}]"
ASKED = (RUNS, "evaluation=[{heldout_loss: {items: 10}}, {ensemble_loss: {items: 10}}]", "keep_models=all")


def scored(folder: Path, losses: list[list[float]]) -> Path:
    folder.mkdir()
    columns: dict[str, Any] = {"item": [str(i) for i in range(len(losses))], "nll": [sum(one) for one in losses]}
    judging.write_table(folder / "scores.parquet", columns | {"tokens": list(map(len, losses)), "losses": losses})
    return folder


def test_probabilities_are_averaged_token_by_token(tmp_path: Path) -> None:
    halves = [-math.log(one) for one in (0.5, 0.5)]
    tenths = [-math.log(one) for one in (0.1, 0.9)]
    members = [scored(tmp_path / "a", [halves, [1.0]]), scored(tmp_path / "b", [tenths, [1.0]])]
    (tmp_path / "out").mkdir()
    assert ensembles.write(members, tmp_path / "out") == {"items": 2, "members": 2, "supervised_tokens": 3}
    first, second = judging.read_table(tmp_path / "out" / "scores.parquet")
    assert first["nll"] == pytest.approx(-math.log(0.3) - math.log(0.7))
    assert second["nll"] == pytest.approx(1.0), "equal members are that model"


def test_improbable_tokens_do_not_overflow() -> None:
    assert ensembles.joined([[2000.0], [1000.0]]) == pytest.approx([1000.0 + math.log(2)])


def test_other_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="different rows"):
        ensembles.write([scored(tmp_path / "a", [[1.0]]), scored(tmp_path / "b", [[1.0, 2.0]])], tmp_path)


def plan(place: Path) -> Plan:
    return api.plan(load(place / "r.yaml", list(ASKED)), Runtime(store=place / ".cuvee", workers=2, threads=1))


def test_a_merged_models_members_are_asked_and_what_is_no_merge_is_an_ensemble_of_one(
    place: Path, cuvee: Cuvee
) -> None:
    done = cuvee("run", "r.yaml", *ASKED, "--json")
    assert json.loads(done.stdout)["failed"] == {}
    store = Store(place / ".cuvee")
    answers = {
        (item.run.strategy, item.evaluator): item.grade.one("answers") for item in plan(place).evaluated if item.final
    }
    assert answers["multi_task", "ensemble_loss"].id == answers["multi_task", "heldout_loss"].id
    ensemble = answers["disperse_then_merge", "ensemble_loss"]
    members = [judging.read_table(store.path("score", one.id) / "scores.parquet") for one in ensemble.inputs["members"]]
    rows = judging.read_table(store.path("score", ensemble.id) / "scores.parquet")
    for row, *single in zip(rows, *members, strict=True):
        for one in single:
            assert sum(one["losses"]) == pytest.approx(one["nll"], rel=1e-5)
            assert len(one["losses"]) == one["tokens"] == row["tokens"]
        probabilities = np.exp(-np.array([one["losses"] for one in single])).mean(axis=0)
        assert row["nll"] == pytest.approx(float(-np.log(probabilities).sum()))
        assert row["nll"] <= np.mean([one["nll"] for one in single]) + 1e-6, "Jensen"
