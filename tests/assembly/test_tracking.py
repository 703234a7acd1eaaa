"""Curves beside the log: every step once, resumed or not, and no training lost to a tracker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cuvee import api, components, tracking
from cuvee.errors import UsageError
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import SMALL

RECORD = {
    "step": 3,
    "epoch": 1,
    "loss": 2.0,
    "grad_norm": 0.5,
    "lr": 1e-3,
    "seconds": 0.5,
    "total_tokens": 100,
    "parts": {"0": {"nll": 30.0, "tokens": 10}, "1": {"nll": 5.0, "tokens": 10}, "2": {"nll": 10.0, "tokens": 10}},
}


class Steps:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Mapping[str, float]]] = []
        self.closed = False

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        if step == 13:
            raise OSError("no space left")
        self.told.append((step, values))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Steps]:
    """The trackers that were started."""
    made: list[Steps] = []

    def start(folder: Path, title: str) -> Steps:
        made.append(Steps())
        return made[-1]

    monkeypatch.setattr(
        components, "find", lambda folder, name: SimpleNamespace(start=start, PACKAGE="json", EXTRA="x")
    )
    return made


def test_a_record_becomes_the_loss_of_each_source_and_the_speed() -> None:
    assert tracking.scalars(RECORD, ["math", "math", "code"]) == {
        "loss": 2.0,
        "epoch": 1,
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
        "tokens_per_second": 200.0,
        "loss/code": 1.0,
        "loss/math": 35.0 / 20,
    }


def test_a_tracker_that_fails_is_told_of_once_and_left(kept: list[Steps], tmp_path: Path) -> None:
    said: list[Any] = []
    with tracking.follow(["x"], tmp_path, "math train-1", ["a", "b", "c"], said.append) as track:
        for step in (12, 13, 14):
            track({**RECORD, "step": step})
    assert [step for step, _ in kept[0].told] == [12]
    assert [fact["note"] for fact in said] == ["--track x: OSError: no space left; the training goes on without it"]


def test_an_unknown_tracker_and_a_missing_package_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="Did you mean 'tensorboard'"):
        tracking.check(["tensorbord"])
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[tensorboard\]'"):
        tracking.check(["tensorboard"])


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard reads."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_every_step_once_also_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    records = [{**RECORD, "step": step, "loss": 1.0 / step} for step in range(1, 8)]
    for again in (records[:5], records[:3] + [{**r, "loss": 9.0} for r in records[3:]]):
        with tracking.follow(["tensorboard"], tmp_path, "math + code train-1", ["a", "b", "c"], print) as track:
            for record in again:
                track(record)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    assert folder.name == "math_+_code_train-1"
    found = events(folder)
    assert sorted(found) == sorted(tracking.scalars(RECORD, ["a", "b", "c"]))
    assert [step for step, _ in found["loss"]] == list(range(1, 8))
    assert [value for _, value in found["loss"]] == pytest.approx([1.0, 1 / 2, 1 / 3, 9, 9, 9, 9])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_tracks_its_trainings(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "r.yaml").write_text(SMALL.replace("\n  - {strategy: mixed_sequential, general: general}", ""))
    api.run(tmp_path / "r.yaml", Runtime(tmp_path / "store", workers=1, track=("tensorboard",)))
    found = {path.name for path in (tmp_path / "store" / "tracking" / "tensorboard").iterdir()}
    trained = [m for m in Store(tmp_path / "store").stages() if m["kind"] == "train"]
    assert len(found) == len(trained)
    (one,) = [m for m in trained if m["label"] == "math + code + general"]
    (name,) = [n for n in found if one["id"][:16] in n]
    log = (Store(tmp_path / "store").path("train", one["id"]) / "log.jsonl").read_text().splitlines()
    curves = events(tmp_path / "store" / "tracking" / "tensorboard" / name)
    assert {"loss/math", "loss/code", "loss/general"} <= curves.keys()
    assert [value for _, value in curves["loss"]] == pytest.approx([json.loads(line)["loss"] for line in log])
