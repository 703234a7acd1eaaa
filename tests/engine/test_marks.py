"""Marks: the weights on the way are those of the training cut there, taken or made again; nothing waits for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from cuvee.engine import loop, mark_file, marks, state  # noqa: E402
from cuvee.engine.disk import Background, mark_step  # noqa: E402
from cuvee.errors import StageFailed  # noqa: E402

from .conftest import RUNTIME, hyper, micro_batches, silent  # noqa: E402
from .test_loop import EVERY, ROWS, STEPS, Breaks, Stop, log, weights  # noqa: E402

Folder = Callable[[str], Path]
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": "all-linear", "rslora": False}}
HALF, LATE = Fraction(1, 2), Fraction(7, 10)


def train(folder: Path, place: Path, runtime: Any = RUNTIME, rows: Any = ROWS, at: Any = (), **more: Any) -> Any:
    until = more.pop("until", None)
    return loop.train(
        folder,
        rows,
        STEPS,
        hyper(**more),
        place / "out",
        place / "work",
        runtime,
        silent,
        micro_batches=micro_batches,
        marks=at,
        until=until,
    )


def mark(folder: Path, place: Path, training: Path, at: Fraction, runtime: Any = RUNTIME, **more: Any) -> Any:
    return marks.mark(
        folder,
        ROWS,
        STEPS,
        hyper(**more),
        place / "out",
        place / "work",
        runtime,
        silent,
        fraction=at,
        written=mark_file(training / "work", at),
        log=training / "work" / "log.jsonl",
        micro_batches=micro_batches,
    )


def tensors(place: Path) -> dict[str, Any]:
    (file,) = (place / "out").glob("*.safetensors")
    return load_file(file)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_mark_is_the_first_step_that_reaches_its_share() -> None:
    assert [mark_step(Fraction(n, 4), 8) for n in (1, 2, 3)] == [2, 4, 6]
    assert mark_step(LATE, 8) == 6
    assert mark_step(Fraction(1, 1000), 8) == 1


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("llama", {}), ("llama-tied", {"precision": "bfloat16"}), ("gpt2", {}), ("llama", LORA)],
    ids=["full", "bfloat16", "gpt2", "lora"],
)
def test_a_mark_taken_equals_a_mark_made_again_and_a_training_cut_there(
    kind: str, settings: dict[str, Any], model_folder: Folder, tmp_path: Path
) -> None:
    if settings.get("method") == "lora":
        pytest.importorskip("peft")
    folder = model_folder(kind)
    train(folder, tmp_path / "plain", **settings)
    train(folder, tmp_path / "marked", at=[HALF, LATE], **settings)
    assert equal(tensors(tmp_path / "plain"), tensors(tmp_path / "marked")), "marks change nothing"
    train(folder, tmp_path / "cut", until=4, **settings)
    taken = mark(folder, tmp_path / "taken", tmp_path / "marked", HALF, **settings)
    made = mark(folder, tmp_path / "made", tmp_path / "plain", HALF, **settings)
    assert (taken["made"], made["made"]) == ("taken", "replayed")
    assert made["largest_difference"] == 0.0
    assert (taken["step"], taken["steps"]) == (4, 8)
    assert taken["supervised_tokens"] == sum(r["supervised_tokens"] for r in log(tmp_path / "plain")[:4])
    for one in ("taken", "made"):
        assert equal(tensors(tmp_path / one), tensors(tmp_path / "cut"))
    names = {p.name for p in (tmp_path / "taken" / "out").iterdir()}
    assert names == {p.name for p in (tmp_path / "cut" / "out").iterdir()}


def test_a_replay_that_differs_names_the_first_step(model_folder: Folder, tmp_path: Path) -> None:
    train(model_folder("llama"), tmp_path / "first")
    path = tmp_path / "first" / "work" / "log.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[2]["loss"] *= 1.01
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(StageFailed, match=r"step 3: done again its loss is .* under the same conditions"):
        mark(model_folder("llama"), tmp_path / "mark", tmp_path / "first", HALF)
    assert not (tmp_path / "mark" / "out").exists()


def test_a_replay_under_another_runtime_is_equal_up_to_rounding(model_folder: Folder, tmp_path: Path) -> None:
    train(model_folder("llama"), tmp_path / "first")
    other = replace(RUNTIME, micro_tokens=1)
    facts = mark(model_folder("llama"), tmp_path / "mark", tmp_path / "first", HALF, other)
    assert 0 <= facts["largest_difference"] < 1e-5


def test_a_mark_interrupted_after_it_was_taken_is_there(model_folder: Folder, tmp_path: Path) -> None:
    train(model_folder("llama"), tmp_path / "first", at=[HALF])
    first = mark(model_folder("llama"), tmp_path / "mark", tmp_path / "first", HALF)
    mark_file(tmp_path / "first" / "work", HALF).unlink()
    assert mark(model_folder("llama"), tmp_path / "mark", tmp_path / "first", HALF) == first


def test_a_damaged_mark_is_made_again(model_folder: Folder, tmp_path: Path) -> None:
    train(model_folder("llama"), tmp_path / "first", at=[HALF])
    mark_file(tmp_path / "first" / "work", HALF).write_bytes(b"\0" * 50)
    assert mark(model_folder("llama"), tmp_path / "mark", tmp_path / "first", HALF)["made"] == "replayed"


def test_an_interrupted_training_leaves_the_same_marks(model_folder: Folder, tmp_path: Path) -> None:
    train(model_folder("llama"), tmp_path / "whole", at=[HALF, LATE])
    with pytest.raises(Stop):
        train(model_folder("llama"), tmp_path / "broken", EVERY, Breaks(13, 2), at=[HALF, LATE])
    assert train(model_folder("llama"), tmp_path / "broken", EVERY, at=[HALF, LATE])["resumed_from"]
    for at in (HALF, LATE):
        one, other = (load_file(mark_file(tmp_path / name / "work", at)) for name in ("whole", "broken"))
        assert equal(one, other)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_a_slow_disk_does_not_hold_the_training_up_at_a_mark(
    model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ends = state.write_weights, []

    def slow(*given: Any) -> None:
        time.sleep(1.5)
        real(*given)

    append = loop.Journal.append
    monkeypatch.setattr(state, "write_weights", slow)
    monkeypatch.setattr(loop.Journal, "append", lambda self, r: (append(self, r), ends.append(time.monotonic())))
    train(model_folder("llama"), tmp_path, at=[Fraction(1, 4), HALF])
    assert ends[-1] - ends[0] < 2.9, "two writes take 3 s"
    assert all(mark_file(tmp_path / "work", at).is_file() for at in (Fraction(1, 4), HALF))


def test_what_follows_waits_for_its_turn_and_the_first_failure_is_told() -> None:
    writer, order = Background(), []

    def first() -> None:
        time.sleep(0.05)
        order.append("first")

    def fail() -> None:
        order.append("fail")
        raise OSError(28, "No space left on device")

    writer.follow(first)
    writer.follow(fail)
    writer.follow(lambda: order.append("never"))
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    assert order == ["first", "fail"]
