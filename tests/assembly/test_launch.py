"""Several processes are one training to whoever started it: one summary, one cause of failure, nobody left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuvee import api, joined, launch, preemption, runner
from cuvee.errors import StageFailed, UsageError
from cuvee.job import Job
from cuvee.runner import _check_gpus, decided
from cuvee.runtime import Runtime
from cuvee.store import Store
from cuvee.worker import Worker

JOB = Job("a" * 64, "train-aaaa", "train", "full", "math", {}, {}, {}, {}, {})
STUB = """\
import json, os, signal, sys, time
rank = int(os.environ["RANK"])
task = json.loads(sys.stdin.readline())
def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)
def for_ever():
    time.sleep(600)
open(task["work"] + f"/{rank}-{os.getpid()}", "w").close()
"""
Launch = Callable[..., dict[str, Any]]


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Launch processes that do what a few lines say, and see that none is left afterwards."""
    work = tmp_path / "work"
    work.mkdir()

    def call(lines: str, processes: int = 2, told: Any = lambda facts: None) -> dict[str, Any]:
        (tmp_path / "stub.py").write_text(STUB + lines)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
        monkeypatch.setattr(launch, "MODULE", "stub")
        monkeypatch.setattr(launch, "GRACE_SECONDS", 0.5)
        monkeypatch.setattr(preemption, "_asked", False)
        try:
            return launch.train(JOB, work, Runtime(processes=processes, threads=1), told)
        finally:
            for path in work.iterdir():
                assert not Path(f"/proc/{path.name.split('-')[1]}").exists(), f"process {path.name} is left"

    return call


def test_the_first_process_speaks_for_all(launched: Launch) -> None:
    told: list[Any] = []
    lines = 'if not rank: tell("progress", step=1, steps=2)\ntell("done", summary={"rank": rank})'
    assert launched(lines, 3, told.append) == {"rank": 0}
    assert told == [{"step": 1, "steps": 2}]


def test_a_process_that_dies_ends_those_that_wait_for_it(launched: Launch) -> None:
    started = time.monotonic()
    with pytest.raises(StageFailed, match=r"process 1 of 3 .* died \(SIGKILL"):
        launched("os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else for_ever()", 3)
    assert time.monotonic() - started < 30


def test_the_first_cause_is_told_not_what_followed(launched: Launch) -> None:
    lines = """
if rank == 1:
    tell("failed", error="a row has 900 tokens", user=True, at=1.0)
else:
    time.sleep(0.2)
    tell("failed", error="RuntimeError: connection closed by peer", user=False, trace="...", at=2.0)
sys.exit(1)
"""
    with pytest.raises(StageFailed, match=r"^a row has 900 tokens$"):
        launched(lines)


def test_what_follows_another_s_end_is_no_cause_even_if_it_is_noticed_first(launched: Launch) -> None:
    lines = """
if rank == 1:
    time.sleep(0.2)
    tell("failed", error="a row has 900 tokens", user=True, at=2.0, follows=False)
elif rank == 2:
    os.kill(os.getpid(), signal.SIGABRT)
else:
    tell("failed", error="DistBackendError: NCCL error", user=False, trace="...", at=1.0, follows=True)
sys.exit(1)
"""
    with pytest.raises(StageFailed, match=r"^a row has 900 tokens$"):
        launched(lines, 3)


def test_errors_of_the_talk_between_processes_follow() -> None:
    from cuvee.rank import follows

    assert follows(RuntimeError("[/pytorch/third_party/gloo/x.cc:81] Connection closed by peer [127.0.0.1]:3"))
    assert follows(RuntimeError("NCCL communicator was aborted on rank 1"))
    assert not follows(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not follows(StageFailed("step 2: the loss is not finite"))


def test_a_fault_of_the_program_comes_with_its_place(launched: Launch) -> None:
    with pytest.raises(StageFailed, match=r"(?s)process 1 of 2.*KeyError: 'x'.*line 7"):
        launched('tell("failed", error="KeyError: \'x\'", user=False, trace="line 7", at=1.0) if rank else for_ever()')


def test_a_process_that_was_stopped_stops_all(launched: Launch) -> None:
    with pytest.raises(preemption.Stopped):
        launched('tell("stopped") if rank else for_ever()')


def test_a_request_to_stop_reaches_all(launched: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = """
def stop(*_):
    tell("stopped")
    os._exit(143)
signal.signal(signal.SIGTERM, stop)
open(task["work"] + f"/ready{rank}-0", "w").close()
for_ever()
"""
    work = tmp_path / "work"

    def ask() -> None:
        while len(list(work.glob("ready*"))) < 2:
            time.sleep(0.02)
        for path in work.glob("ready*"):
            path.unlink()
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    preemption.listen()
    threading.Thread(target=ask, daemon=True).start()
    try:
        with pytest.raises(preemption.Stopped):
            launched(lines)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_too_little_memory_starts_all_again(launched: Launch, tmp_path: Path) -> None:
    lines = """
flag = task["work"] + "/short-0"
if os.path.exists(flag):
    tell("done", summary={"again": True})
elif rank:
    open(flag, "w").close()
    tell("restart")
else:
    for_ever()
"""
    assert launched(lines) == {"again": True}


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "gpus", lambda: ["0", "1", "2", "3"])
    assert decided(Runtime(device="cuda", processes=2), 10).workers == 2
    assert decided(Runtime(device="cuda", processes=4), 10).workers == 1
    with pytest.raises(UsageError, match="there are 4 GPUs"):
        _check_gpus(Runtime(device="cuda", processes=8))


def test_what_a_runtime_cannot_be_is_said() -> None:
    with pytest.raises(UsageError, match="Did you mean 'fsdp'"):
        Runtime(shard="fsd")
    with pytest.raises(UsageError, match="at least 1"):
        Runtime(processes=0)
    with pytest.raises(UsageError, match="checkpoint_seconds nan is not possible; it is 0 or more"):
        Runtime(checkpoint_seconds=float("nan"))
    with pytest.raises(UsageError, match="at least 1 token"):
        Runtime(micro_tokens=0)


# ------------------------------------------------------------------------------------------ a real training

RECIPE = """\
base: builtin:micro
sources: {math: {path: "builtin:math", ability: math, amount: {count: 96}}}
training: {epochs: 1, learning_rate: 3e-3, batch_size: 4, max_length: 256}
runs: [{strategy: multi_task}]
evaluation: []
"""


def start(place: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cuvee", "run", "r.yaml", "--no-report", "--json", "--workers", "1", "--device"]
    return subprocess.Popen([*command, "cpu", *more], cwd=place, stdout=subprocess.PIPE, text=True)


def manifest(place: Path) -> dict[str, Any]:
    (found,) = (m for m in Store(place / ".cuvee").stages() if m["kind"] == "train")
    return found


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and theirs."""
    found = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [deeper for child in found for deeper in children(child)]


def ranks(pid: int) -> list[int]:
    return [one for one in children(pid) if b"cuvee.rank" in Path(f"/proc/{one}/cmdline").read_bytes()]


def test_a_training_that_loses_a_process_fails_at_once_and_goes_on_with_another_number(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    running = start(tmp_path, "--processes", "2", "--checkpoint-steps", "1")
    deadline = time.monotonic() + 500
    while not (logs := list(tmp_path.glob(".cuvee/work/train-*/checkpoint-*"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert logs
    os.kill(ranks(running.pid)[1], signal.SIGKILL)
    killed = time.monotonic()
    out, _ = running.communicate(timeout=300)
    assert running.returncode == 1
    assert time.monotonic() - killed < 60
    (error,) = json.loads(out)["failed"].values()
    assert "process 1 of 2" in error
    last = start(tmp_path)
    last.communicate(timeout=500)
    assert last.returncode == 0
    found = manifest(tmp_path)
    assert found["summary"]["resumed_from"][0] >= 1
    assert [attempt["runtime"]["processes"] for attempt in found["attempts"]] == [2, 1]
    assert found["id"] == next(s.id for s in api.plan(tmp_path / "r.yaml").stages if s.kind == "train")


def test_torchrun_may_start_the_processes(tmp_path: Path) -> None:
    """As on several machines, with one: what torchrun trains, `cuvee run` finds."""
    pytest.importorskip("torch")
    (tmp_path / "r.yaml").write_text(RECIPE.replace("count: 96", "count: 16"), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "cuvee.joined", "r.yaml"]
    done = subprocess.run([*command, "--device", "cpu"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loss" in done.stdout
    assert manifest(tmp_path)["summary"]["processes"] == 2
    assert manifest(tmp_path)["preflight"]["stages"]
    assert_rows_losses_add_up(Store(tmp_path / ".cuvee").path("train", manifest(tmp_path)["id"]))
    again = start(tmp_path)
    told, _ = again.communicate(timeout=500)
    assert again.returncode == 0
    assert not any(name.startswith("train-") for name in json.loads(told)["executed"])


PATIENT = """\
import os, time
from datetime import timedelta
from cuvee.engine import devices
from cuvee.runtime import Runtime
devices.TIMEOUT = timedelta(seconds=2)
world = devices.join(Runtime(device="cpu"))
wait = devices.patience(world)
if world.is_writer:
    time.sleep(5)
wait()
os._exit(0)
"""


def test_who_waits_for_the_first_process_s_own_work_waits_longer_than_for_talk(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "patient.py").write_text(PATIENT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "patient.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("fault", "code"), [(preemption.Stopped, 143), (UsageError("no"), 2), (StageFailed("no", stage="train-a"), 1)]
)
def test_the_exit_code_is_the_fault_s(fault: Any, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise fault

    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    codes: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(joined, "load", fail)
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(preemption, "listen", lambda: None)
    assert joined.main.callback
    joined.main.callback(tmp_path / "r.yaml", ())
    assert codes == [code]


def test_a_request_to_stop_while_data_is_prepared_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    plan = api.plan(tmp_path / "r.yaml", Runtime(store=tmp_path / ".cuvee"))
    stage = next(one for one in plan.stages if one.kind == "train")
    monkeypatch.setattr(runner, "execute", lambda *given, **more: runner.Outcome(stopped=True))
    with pytest.raises(preemption.Stopped):
        joined._prepare(plan, Runtime(store=tmp_path / ".cuvee"), stage)


def test_a_damaged_list_of_attempts_is_told_and_begun_anew(tmp_path: Path) -> None:
    told = io.StringIO()
    one = Worker(Runtime(store=tmp_path / ".cuvee"), told)
    for damaged in ("{", "[1]", "7"):
        (tmp_path / "attempts.json").write_text(damaged)
        assert len(one._attempts(tmp_path)) == 1
        assert "attempts.json is damaged" in told.getvalue().splitlines()[-1]
    assert len(one._attempts(tmp_path)) == 2


def assert_rows_losses_add_up(folder: Path) -> None:
    """The ledger's losses are those of the log, row by row."""
    from cuvee.data import ledger

    sums: dict[int, float] = {}
    for row in ledger.read(folder).to_pylist():
        for step, loss in zip(row["steps"], row["losses"], strict=True):
            sums[step] = sums.get(step, 0.0) + loss * row["supervised_tokens"] / row["times"]
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert sums == pytest.approx({r["step"]: r["loss"] * r["supervised_tokens"] for r in records}, rel=1e-5)
    assert not (folder / "losses.f32").exists(), "the ledger has taken them over"


def test_it_says_how_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "cuvee.joined", "r.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cuvee run --processes" in done.stderr
