"""What cannot be trained is refused before the first step; what was damaged by hand is told and left aside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cuvee.engine import loop, loss  # noqa: E402
from cuvee.engine.disk import Background, Checkpoints  # noqa: E402
from cuvee.errors import ModelError, StageFailed  # noqa: E402
from cuvee.protocols import TokenRow  # noqa: E402

from .conftest import RUNTIME, VOCABULARY, hyper, micro_batches, silent  # noqa: E402
from .test_interruptions import WIDE  # noqa: E402
from .test_loop import EVERY, ROWS, STEPS, Breaks, Stop, log, losses, run, weights, without_times  # noqa: E402

Folder = Callable[[str], Path]


class Told(list[TokenRow]):
    """Rows that tell their extent, as a mixture's do."""

    def extent(self) -> tuple[int, int]:
        return max(len(row.ids) for row in self), max(max(row.ids) for row in self)


def late(row: TokenRow) -> Told:
    """Rows of which only the very last is odd."""
    return Told([*ROWS[:-1], row])


@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        (
            "llama",
            TokenRow([1, VOCABULARY], [(1, 2)]),
            f"token {VOCABULARY}, the model's vocabulary ends at 95; use the",
        ),
        ("gpt2", TokenRow([5] * 129, [(1, 2)]), "129 tokens, the model has positions for 128; set max_length: 128"),
    ],
)
def test_one_row_at_the_end_is_refused_before_the_first_step(
    kind: str, row: TokenRow, says: str, model_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=says):
        run(model_folder(kind), tmp_path, rows=late(row))
    assert not (tmp_path / "work" / "log.jsonl").exists()


def test_rows_beyond_the_positions_a_rotary_model_was_trained_for_are_said(
    model_folder: Folder, tmp_path: Path
) -> None:
    said: list[Any] = []
    run(model_folder("llama"), tmp_path, progress=said.append, rows=late(TokenRow([5, 6] * 70, [(1, 140)])))
    assert "rows of up to 140 tokens; the model's configuration knows 128 positions" in said[0]["note"]


@pytest.fixture
def broken(model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that stopped after a checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(Background, "start", lambda self, write: write())
        with pytest.raises(Stop):
            run(model_folder("llama"), tmp_path / "broken", EVERY, rows=Breaks(13, 2))
    return tmp_path / "broken"


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "weights cut": lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 9),
    "state gone": lambda folder: (folder / "state.safetensors").unlink(),
    "facts gone": lambda folder: (folder / "checkpoint.json").unlink(),
    "facts no JSON": lambda folder: (folder / "checkpoint.json").write_text("{"),
    "facts a list": lambda folder: (folder / "checkpoint.json").write_text("[]"),
    "a step changed by hand": lambda folder: _edit(folder / "checkpoint.json", step=2),
}


def _edit(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_taken(
    damage: str, broken: Path, model_folder: Folder, tmp_path: Path
) -> None:
    DAMAGES[damage](broken / "work" / "checkpoint-6")
    said: list[Any] = []
    summary = run(model_folder("llama"), broken, EVERY, said.append)
    assert "checkpoint-6 is damaged" in said[0]["note"]
    assert summary["resumed_from"] == [5]
    assert_equal(broken, tmp_path / "whole", model_folder)


def test_a_damaged_checkpoint_pushes_no_whole_one_out(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"w")

    first = Checkpoints(tmp_path, "this")
    for step in (1, 2):
        first.write(step, fill, {})
    (tmp_path / "checkpoint-2" / "weights").write_bytes(b"x")
    again = Checkpoints(tmp_path, "this")
    found = again.newest(lambda note: None)
    assert found
    assert found[0].name == "checkpoint-1"
    again.write(3, fill, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3"]
    again.write(4, fill, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]


def test_what_a_hand_put_beside_a_training_does_not_end_it(broken: Path, model_folder: Folder, tmp_path: Path) -> None:
    work = broken / "work"
    (work / "checks.json").write_text("{")
    shutil.rmtree(work / "checkpoint-6")
    (work / "checkpoint-6").write_text("a file")
    (work / "checkpoint-5").rename(tmp_path / "elsewhere")
    (work / "checkpoint-5").symlink_to(tmp_path / "elsewhere")
    (work / "checkpoint-7.partial").write_text("a file")
    summary = run(model_folder("llama"), broken, EVERY)
    assert summary["resumed_from"] == [5]
    assert summary["packed_against_unpacked"] is None
    assert_equal(broken, tmp_path / "whole", model_folder)


def test_a_log_that_lacks_steps_is_told(broken: Path, model_folder: Folder) -> None:
    path = broken / "work" / "log.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]) + "no line of ours\n")
    said: list[Any] = []
    run(model_folder("llama"), broken, EVERY, said.append)
    assert any("log.jsonl is damaged: it has 3 of the 6 steps" in fact.get("note", "") for fact in said)


def test_where_no_checkpoint_is_whole_the_training_starts_again(
    broken: Path, model_folder: Folder, tmp_path: Path
) -> None:
    for folder in (broken / "work").glob("checkpoint-*"):
        (folder / "model.safetensors").write_bytes(b"")
    said: list[Any] = []
    summary = run(model_folder("llama"), broken, EVERY, said.append)
    notes = [fact["note"] for fact in said if "note" in fact]
    assert ["damaged" in note for note in notes[:2]] == [True, True]
    assert "no whole checkpoint is left: the training starts at step 1" in notes[2]
    assert summary["resumed_from"] == []
    assert_equal(broken, tmp_path / "whole", model_folder)


def assert_equal(broken: Path, whole: Path, model_folder: Folder) -> None:
    run(model_folder("llama"), whole)
    assert weights(broken) == weights(whole)
    assert without_times(log(broken)) == without_times(log(whole))
    assert losses(broken) == losses(whole)


def test_memory_that_runs_out_in_the_first_check_takes_smaller_passes(
    model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loss.token_losses

    def scarce(model: Any, flat: Any, *, segments: bool) -> Any:
        if flat.ids.shape[1] > 45:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(model, flat, segments=segments)

    run(model_folder("llama"), tmp_path / "whole", WIDE)
    monkeypatch.setattr(loss, "token_losses", scarce)
    summary = run(model_folder("llama"), tmp_path / "scarce", WIDE)
    assert summary["layout"] == "flat"
    assert summary["packed_against_unpacked"] < 1e-5
    assert summary["out_of_memory"][0]["step"] == 1
    assert summary["out_of_memory"][-1]["to"] <= 45
    pairs = zip(log(tmp_path / "scarce"), log(tmp_path / "whole"), strict=True)
    assert all(scarce["loss"] == pytest.approx(whole["loss"], rel=1e-4) for scarce, whole in pairs)
    monkeypatch.setattr(loss, "token_losses", lambda *given, **more: _never())
    with pytest.raises(StageFailed, match="out of memory with one example"):
        run(model_folder("llama"), tmp_path / "none", WIDE)


def _never() -> Any:
    raise MemoryError


def test_a_target_that_is_no_linear_layer_is_refused_before_the_first_step(
    model_folder: Folder, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": ["q_prj"], "rslora": False}
    with pytest.raises(ModelError, match=r"'q_prj' is no linear layer of this llama model; its linear layers: q_proj"):
        loop.train(
            model_folder("llama"),
            ROWS,
            STEPS,
            hyper(method="lora", lora=lora),
            tmp_path / "out",
            tmp_path / "work",
            RUNTIME,
            silent,
            micro_batches=micro_batches,
        )
    assert not (tmp_path / "work" / "log.jsonl").exists()
