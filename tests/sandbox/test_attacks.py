"""What model-written code can reach, use up and forge: nothing of the host, no more than its limits, no verdict."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cuvee import sandbox
from cuvee.sandbox import Limits, Program, bubblewrap
from tests.sandbox.attacks import ANSWER, CONTAINED, FORGERS, GLUTTONS, HONEST, Attack

TIGHT = Limits(cpu_seconds=1, memory=128 << 20, processes=6, disk=4 << 20, output=100_000)


@dataclass(frozen=True)
class Host:
    """What of the host is put within reach of a program that would get out."""

    marker: Path
    port: int
    abstract: str

    def into(self, code: str) -> str:
        names = {"<MARKER>": self.marker, "<HOME>": Path.home(), "<PORT>": self.port, "<ABSTRACT>": self.abstract}
        for name, value in names.items():
            code = code.replace(name, str(value))
        return code


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that looks afterwards whether it was touched."""
    token = f"cuvee-{uuid.uuid4().hex}"
    monkeypatch.setattr(bubblewrap, "START", f"{bubblewrap.START} # {token}")
    marker = tmp_path / "marker"
    marker.write_text("untouched", encoding="ascii")
    before, written = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, marker.stat().st_mtime_ns
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{token}")
        abstract.listen()
        for listener in (server, abstract):
            listener.setblocking(False)
        yield Host(marker, server.getsockname()[1], token)
        for listener in (server, abstract):
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert (marker.read_text(encoding="ascii"), marker.stat().st_mtime_ns) == ("untouched", written)
    assert list(processes(token)) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB that our own process grew by"


def processes(token: str) -> Iterator[str]:
    """Yield the processes of the host that were started with a token."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                yield folder.name
        except OSError:
            continue


def judged(attack: Attack, host: Host) -> sandbox.Verdict:
    return sandbox.run(Program(host.into(attack.code), attack.tests), replace(TIGHT, wall_seconds=attack.wall_seconds))


def check(attack: Attack, verdict: sandbox.Verdict) -> None:
    assert verdict.outcome in attack.outcomes, verdict
    assert attack.detail in verdict.detail, verdict
    assert verdict.isolated
    assert len(verdict.detail) <= 500
    assert len(verdict.stdout) + len(verdict.stderr) <= TIGHT.output


def test_programs_can_be_isolated_on_this_machine() -> None:
    assert sandbox.available() == ""


def test_an_honest_answer_passes(host: Host) -> None:
    assert sandbox.run(Program(HONEST, ANSWER), TIGHT).outcome == "passed"


@pytest.mark.parametrize("attack", CONTAINED, ids=lambda attack: attack.name)
def test_nothing_outside_is_reached_by_code_that(attack: Attack, host: Host) -> None:
    check(attack, judged(attack, host))


@pytest.mark.parametrize("attack", FORGERS, ids=lambda attack: attack.name)
def test_no_pass_is_forged_by_code_that(attack: Attack, host: Host) -> None:
    assert "passed" not in attack.outcomes
    check(attack, judged(attack, host))


@pytest.mark.parametrize("attack", GLUTTONS, ids=lambda attack: attack.name)
def test_a_limit_holds_against_code_that(attack: Attack, host: Host) -> None:
    check(attack, judged(attack, host))


ABANDONED = """
import sys
from cuvee import sandbox
from cuvee.sandbox import bubblewrap
sandbox.available()
bubblewrap.START += " # " + sys.argv[1]
sandbox.run("import os, time\\nos.fork()\\ntime.sleep(600)", sandbox.Limits(wall_seconds=600))
"""


def test_nothing_is_left_when_we_are_killed_ourselves() -> None:
    token = f"cuvee-{uuid.uuid4().hex}"
    parent = subprocess.Popen([sys.executable, "-c", ABANDONED, token])
    wait_until(lambda: len(set(processes(token)) - {str(parent.pid)}) >= 4)
    parent.kill()
    parent.wait()
    wait_until(lambda: not list(processes(token)))


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
