"""Kills, requests to stop, too little memory and slow disks change no bit of what is trained."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cuvee.engine import loop, loss, shortage  # noqa: E402
from cuvee.engine.disk import Background, Checkpoints  # noqa: E402
from cuvee.errors import StageFailed  # noqa: E402

from .conftest import RUNTIME  # noqa: E402
from .test_loop import EVERY, METHODS, ROWS, Breaks, Stop, log, losses, run, weights, without_times  # noqa: E402

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.append({tests!r})
from tests.engine import test_loop as t
from cuvee import preemption
folder, place, wanted, method = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
more = t.METHODS[method]
if method == "lora":
    import peft
class Slow(t.Breaks):
    def __getitem__(self, index):
        time.sleep(0.03)
        return super().__getitem__(index)
def train(where):
    # A process of its own: torch is imported here and has done nothing yet.
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        preemption.listen()
        t.run(folder, where, t.EVERY, rows=Slow(-1, 0), **more)
        os._exit(0)
    except preemption.Stopped:
        os._exit(143)
    except BaseException:
        os._exit(1)
draw, kills, rounds = random.Random(3), [], 0
while len(kills) < wanted:
    rounds += 1
    while True:
        child = train(place / str(rounds))
        limit = time.monotonic() + draw.uniform(0.02, 1.2)
        ended, status = 0, 0
        while not ended and time.monotonic() < limit:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.005)
        if not ended and len(kills) >= wanted:
            ended, status = os.waitpid(child, 0)
        if not ended:
            number = draw.choice([signal.SIGKILL, signal.SIGTERM])
            os.kill(child, number)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            # Either may come when it has just ended by itself, a request to stop before it listens.
            assert status in ((-9, 0) if number == signal.SIGKILL else (143, 0, -15)), status
            kills.append(status)
            continue
        assert os.waitstatus_to_exitcode(status) == 0
        break
print(rounds, *kills)
"""


@pytest.mark.parametrize(
    ("kills", "method"),
    [(4, "full"), (4, "lora"), *(pytest.param(100, method, marks=pytest.mark.real) for method in METHODS)],
)
def test_kills_and_requests_to_stop_at_random_moments_change_no_bit(
    method: str, kills: int, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    if method == "lora":
        pytest.importorskip("peft")
    run(model_folder("llama"), tmp_path / "whole", **METHODS[method])
    script = KILLS.format(tests=str(Path(__file__).parents[2]))
    found = subprocess.run(
        [sys.executable, "-c", script, str(model_folder("llama")), str(tmp_path), str(kills), method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60 + 12 * kills,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    rounds, *codes = map(int, found.stdout.split())
    assert len(codes) >= kills
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    for place in (tmp_path / str(number) for number in range(1, rounds + 1)):
        assert (place / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()
        assert without_times(log(place)) == without_times(log(tmp_path / "whole"))
        assert losses(place) == losses(tmp_path / "whole")


# ------------------------------------------------------------------------------------------- out of memory


class Scarce:
    """Forward passes of more than `most` tokens find no memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        real = loss.token_losses

        def losses(model: Any, flat: Any, *, segments: bool) -> Any:
            if flat.ids.shape[1] > most and torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return real(model, flat, segments=segments)

        monkeypatch.setattr(loss, "token_losses", losses)


WIDE = replace(RUNTIME, micro_tokens=200)


def test_too_little_memory_takes_smaller_passes_of_the_same_steps(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model_folder("llama"), tmp_path / "whole", WIDE)
    Scarce(monkeypatch, 45)
    said: list[Any] = []
    summary = run(model_folder("llama"), tmp_path / "scarce", WIDE, said.append)
    assert summary["out_of_memory"]
    assert summary["out_of_memory"][0]["from"] == 200
    assert summary["out_of_memory"][-1]["to"] <= 45
    assert any("out of memory at step 1; micro_tokens 200 ->" in fact.get("note", "") for fact in said)
    pairs = zip(log(tmp_path / "scarce"), log(tmp_path / "whole"), strict=True)
    for scarce, whole in pairs:
        assert scarce["supervised_tokens"] == whole["supervised_tokens"]
        assert scarce["loss"] == pytest.approx(whole["loss"], rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_was_gathered_before_the_memory_ran_out_is_dropped(
    precision: str, model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later passes of a step fail at first; the weights are those of a training with small passes from the start."""
    Scarce(monkeypatch, 45)
    summary = run(model_folder("llama"), tmp_path / "scarce", WIDE, precision=precision)
    small = replace(RUNTIME, micro_tokens=summary["out_of_memory"][-1]["to"])
    assert {event["step"] for event in summary["out_of_memory"]} == {1}
    run(model_folder("llama"), tmp_path / "small", small, precision=precision)
    assert weights(tmp_path / "scarce") == weights(tmp_path / "small")


def test_a_resumed_training_keeps_the_smaller_passes(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scarce(monkeypatch, 45)
    every = replace(WIDE, checkpoint_steps=1)
    run(model_folder("llama"), tmp_path / "whole", WIDE)
    with pytest.raises(Stop):
        run(model_folder("llama"), tmp_path / "broken", every, rows=Breaks(13, 2))
    said: list[Any] = []
    summary = run(model_folder("llama"), tmp_path / "broken", every, said.append)
    assert summary["resumed_from"]
    assert not any("out of memory" in fact.get("note", "") for fact in said)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_one_example_that_is_too_much_is_told_with_remedies(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scarce(monkeypatch, 10)
    with pytest.raises(StageFailed, match=r"out of memory with one example .* use --checkpoint-activations"):
        run(model_folder("llama"), tmp_path, WIDE)


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not shortage.is_out_of_memory(RuntimeError("shape mismatch"))
    for said in (
        "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):
        assert shortage.is_out_of_memory(RuntimeError(said))


# ------------------------------------------------------------------------------------ checkpoints beside training


def test_a_slow_disk_does_not_hold_the_training_up(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = Checkpoints.write, []

    def slow(self: Any, step: int, *rest: Any) -> None:
        time.sleep(1.5)
        real(self, step, *rest)
        written.append(step)

    run(model_folder("llama"), tmp_path / "whole")
    monkeypatch.setattr(Checkpoints, "write", slow)
    ends: list[float] = []
    monkeypatch.setattr(loop.Journal, "append", _timed(loop.Journal.append, ends))
    run(model_folder("llama"), tmp_path / "slow", EVERY)
    assert ends[-1] - ends[0] < 1.4, "eight steps are done while the first checkpoint is written"
    assert written == [1], "the next ones wait for it, and none is begun after the last step"
    assert weights(tmp_path / "slow") == weights(tmp_path / "whole")


def _timed(append: Any, ends: list[float]) -> Any:
    def timed(self: Any, record: Any) -> None:
        append(self, record)
        ends.append(time.monotonic())

    return timed


def test_a_checkpoint_holds_the_step_it_is_of_though_training_went_on(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that begins only after four more steps still stores the weights of its own step."""
    held: list[Any] = []
    monkeypatch.setattr(Background, "start", lambda self, write: held.append(write) if not held else None)
    with pytest.raises(Stop):
        run(model_folder("llama"), tmp_path / "broken", EVERY, rows=Breaks(6, 2))
    monkeypatch.undo()
    held[0]()
    summary = run(model_folder("llama"), tmp_path / "broken", EVERY)
    assert summary["resumed_from"] == [1]
    run(model_folder("llama"), tmp_path / "whole")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_a_write_that_fails_ends_the_training(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *rest: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run(model_folder("llama"), tmp_path, EVERY)


def test_writes_take_turns() -> None:
    writer, running, most = Background(), [0], [0]

    def write() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1

    for _ in range(5):
        writer.start(write)
    writer.wait()
    assert most == [1]
    assert not writer.busy


def test_eight_passes_of_one_example_equal_one_pass_of_eight(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from .test_gradients import TOLERANCE, furthest, one_step

    eight = [ROWS[i] for i in range(8)]
    one = one_step(model_folder("llama"), eight, tmp_path / "one", replace(RUNTIME, micro_tokens=10_000))
    many = one_step(model_folder("llama"), eight, tmp_path / "many", replace(RUNTIME, micro_tokens=1))
    assert many[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-6)
    assert furthest(many[1], one[1]) < TOLERANCE
