"""One training by several processes: started, watched and ended together.

Each is a `cuvee.rank`. When one of them dies or fails, the others would wait for it for ever, so they are ended too,
and the first cause is told. A training whose weights are divided and whose memory ran out in one process is started
again from its last checkpoint with smaller passes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cuvee import preemption
from cuvee.errors import StageFailed
from cuvee.job import Job
from cuvee.protocols import Progress
from cuvee.runtime import Runtime

GRACE_SECONDS = 5.0
"""How long the others have to end by themselves after one has ended badly."""

MODULE = "cuvee.rank"


def train(job: Job, work: Path, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Train by `runtime.processes` processes of this machine.

    Args:
        job: the training.
        work: its work folder.
        runtime: how; `threads` are divided among the processes.
        progress: told what the first process tells.

    Returns:
        The first process's summary.

    Raises:
        StageFailed: a process failed or died; says which and why.
        Stopped: SIGTERM came; a checkpoint is written.
    """
    alone = replace(runtime, threads=max(1, runtime.threads // runtime.processes))
    while True:
        with tempfile.TemporaryDirectory(prefix="cuvee-") as folder, preemption.patient():
            ranks = [_Rank(number, job, work, alone, Path(folder)) for number in range(runtime.processes)]
            try:
                _watch(ranks, progress)
            finally:
                for rank in ranks:
                    rank.end()
            if (summary := _verdict(ranks, job.short)) is not None:
                return summary


class _Rank:
    """One process and the last word it said."""

    def __init__(self, number: int, job: Job, work: Path, runtime: Runtime, folder: Path) -> None:
        self.number = number
        self.word: dict[str, Any] = {}
        self.killed = False
        self.open = True
        self.ended = float("inf")
        self._buffer = b""
        environment = {
            **os.environ,
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(runtime.processes),
            "CUVEE_RENDEZVOUS": str(folder / "rendezvous"),
            "OMP_NUM_THREADS": str(runtime.threads),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", MODULE, json.dumps(runtime.as_dict())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin is not None
        # When it died meanwhile, the end of its output tells.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"job": job.as_dict(), "work": str(work)}).encode() + b"\n")
            self.process.stdin.flush()

    @property
    def said(self) -> str:
        """What it came to: ``done``, ``failed``, ``stopped``, ``restart``; empty while it works or if it just died."""
        return str(self.word.get("event", ""))

    def listen(self, progress: Progress) -> None:
        """Take what has come through its pipe."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for event in map(json.loads, lines):
            if event["event"] == "progress":
                progress({name: value for name, value in event.items() if name != "event"})
            else:
                self.word = event
        if not data:
            self.open = False
            self.ended = time.time()
            self.process.wait()

    def end(self) -> None:
        """End the process if it still works."""
        if self.process.poll() is None:
            self.killed = self.open
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _watch(ranks: Sequence[_Rank], progress: Progress) -> None:
    """Return when all have ended, or some time after one has ended badly; pass a request to stop on to all."""
    selector = selectors.DefaultSelector()
    for rank in ranks:
        assert rank.process.stdout is not None
        selector.register(rank.process.stdout, selectors.EVENT_READ, rank)
    passed_on, deadline = False, float("inf")
    with selector:
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(timeout=0.2):
                key.data.listen(progress)
                if not key.data.open:
                    selector.unregister(key.fileobj)
            if preemption.asked() and not passed_on:
                passed_on = True
                for rank in ranks:
                    rank.process.send_signal(signal.SIGTERM)
            if deadline == float("inf") and any(not rank.open and rank.said != "done" for rank in ranks):
                deadline = time.monotonic() + GRACE_SECONDS


def _verdict(ranks: Sequence[_Rank], stage: str) -> dict[str, Any] | None:
    """Return the first process's summary, or None when all must start again; raise the first cause of a failure."""
    if all(rank.said == "done" for rank in ranks):
        summary: dict[str, Any] = ranks[0].word["summary"]
        return summary
    if preemption.asked() or any(rank.said == "stopped" for rank in ranks):
        raise preemption.Stopped
    bad = [rank for rank in ranks if rank.said == "failed" or (not rank.said and not rank.killed)]
    first = min(bad, key=_cause, default=None)
    if any(rank.said == "restart" for rank in ranks) and (first is None or first.said or _cause(first)[0]):
        return None
    assert first is not None
    if not first.said:
        raise StageFailed(f"{_who(first, ranks)} died ({_code(first)}), so the others were ended", stage=stage)
    raise StageFailed(_told(first.word) if first.word["user"] else f"{_who(first, ranks)}: {_told(first.word)}")


def _cause(rank: _Rank) -> tuple[bool, float]:
    """Return what sorts the first cause first: what follows another's end comes last, whenever it was noticed.

    A communication library ends a process by SIGABRT when another one is silent.
    """
    if rank.said:
        return bool(rank.word.get("follows")), float(rank.word["at"])
    return rank.process.returncode == -signal.SIGABRT, rank.ended


def _who(rank: _Rank, ranks: Sequence[_Rank]) -> str:
    return f"process {rank.number} of {len(ranks)} (numbered from 0)"


def _code(rank: _Rank) -> str:
    code = rank.process.returncode
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, which a machine without memory left sends" if name == "SIGKILL" else name


def _told(word: Mapping[str, Any]) -> str:
    return str(word["error"]) + (f"\n{word['trace']}" if word.get("trace") else "")
