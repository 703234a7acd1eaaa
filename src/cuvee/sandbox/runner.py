"""Running programs: one sandbox each, several at a time, those that ran out of time once more and alone."""

from __future__ import annotations

import functools
import json
import os
import platform
import selectors
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace

from cuvee.errors import UsageError, WorkFailed
from cuvee.sandbox import seccomp
from cuvee.sandbox.bubblewrap import Cell, Started, binaries
from cuvee.sandbox.verdicts import Limits, Program, Verdict

REMEDY = (
    "Install `pip install 'cuvee[sandbox]'` (or the system's bubblewrap), and let users make namespaces: "
    "sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that allows unshare and mount."
)
ENDING_SECONDS = 5.0
LONGEST_VERDICT = 1 << 16


class SandboxUnavailable(UsageError):
    """Programs cannot be isolated here; says why and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no sandbox for model-written code: {reason}. {REMEDY}")


def available() -> str:
    """Return an empty string when programs can be isolated here, otherwise the reason why not.

    Found out by running a program that tries to get out; once in a process.
    """
    return _found()[1]


def run(program: Program | str, limits: Limits | None = None, *, unsafe: bool = False) -> Verdict:
    """Run one program.

    Args:
        program: code and its tests; a string is code without tests.
        limits: what it may use.
        unsafe: run it as a plain process with limits, without isolation; the verdict says so.

    Raises:
        SandboxUnavailable: not unsafe, and there is no isolation here.
        UsageError: the tests themselves do not compile.
        WorkFailed: the sandbox did not start.
    """
    return run_many([program], limits, workers=1, unsafe=unsafe)[0]


def run_many(
    programs: Sequence[Program | str],
    limits: Limits | None = None,
    *,
    workers: int | None = None,
    unsafe: bool = False,
) -> list[Verdict]:
    """Run programs and return their verdicts in the same order.

    A program that runs out of time is run once more after all others, alone, and the second verdict counts: verdicts
    hang on the program, not on its neighbours.

    Args:
        programs: code and tests; a string is code without tests.
        limits: what each may use.
        workers: how many at a time; one for each processor when None.
        unsafe: as in `run`.

    Raises:
        SandboxUnavailable: not unsafe, and there is no isolation here.
        UsageError: the tests of a program do not compile.
        WorkFailed: the sandbox did not start.
    """
    cell, limits = _cell(unsafe), limits or Limits()
    given = [Program(program) if isinstance(program, str) else program for program in programs]
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        verdicts = list(pool.map(lambda index: _numbered(cell, given, index, limits), range(len(given))))
    for index, verdict in enumerate(verdicts):
        if verdict.outcome == "timeout":
            verdicts[index] = replace(_run(cell, given[index], limits), attempts=2)
    return verdicts


def _numbered(cell: Cell, programs: Sequence[Program], index: int, limits: Limits) -> Verdict:
    try:
        return _run(cell, programs[index], limits)
    except UsageError as error:
        raise UsageError(f"program {index + 1} of {len(programs)}: {error}") from None


def _cell(unsafe: bool) -> Cell:
    if unsafe:
        return Cell("")
    cell, reason = _found()
    if cell is None:
        raise SandboxUnavailable(reason)
    return cell


PROBE = """
import os, socket
def escapes():
    found = []
    if os.path.exists(%r) or os.path.exists("/proc") or os.path.exists("/sys"):
        found.append("files of the system are visible")
    try:
        open("/usr/lib/cuvee-probe", "w")
        found.append("the system can be written")
    except OSError:
        pass
    try:
        socket.socket()
        found.append("sockets can be made")
    except OSError:
        pass
    try:
        for child in range(%d):
            if os.fork() == 0:
                import time
                time.sleep(60)
        found.append("the number of processes has no limit")
    except OSError:
        pass
    return found
"""


@functools.cache
def _found() -> tuple[Cell | None, str]:
    """Return (the first binary that holds, why none does)."""
    if sys.platform != "linux":
        return None, f"it needs Linux, this is {sys.platform}"
    if platform.machine() not in seccomp.AUDIT:
        return None, f"the system call filter knows {' and '.join(seccomp.AUDIT)}, this is {platform.machine()}"
    found = binaries()
    if not found:
        return None, "bwrap is not installed"
    reasons = []
    for binary in found:
        reason = _probe(Cell(binary))
        if not reason:
            return Cell(binary), ""
        reasons.append(f"{binary}: {reason}")
    return None, "; ".join(reasons)


def _probe(cell: Cell) -> str:
    """Return why a cell does not hold; empty when it does."""
    limits = Limits(processes=4)
    code = PROBE % (os.path.abspath(__file__), limits.processes + 1)
    tests = "found = escapes()\nassert found == [], ', '.join(found)"
    try:
        verdict = _run(cell, Program(code, tests), limits)
    except (OSError, WorkFailed) as error:
        return str(error)
    return "" if verdict.passed else verdict.detail


@dataclass(slots=True)
class _Streams:
    """What comes out of a running program, with bounds."""

    limit: int
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    report: bytearray = field(default_factory=bytearray)

    @property
    def full(self) -> bool:
        return len(self.stdout) + len(self.stderr) > self.limit

    def texts(self) -> tuple[str, str]:
        """Return what was printed, together within the limit."""
        out = self.stdout[: self.limit]
        err = self.stderr[: self.limit - len(out)]
        return out.decode(errors="replace"), err.decode(errors="replace")


def _run(cell: Cell, program: Program, limits: Limits) -> Verdict:
    """Run one program once."""
    job = os.memfd_create("job")
    stdin = os.memfd_create("stdin")
    report, report_write = os.pipe()
    begin = time.monotonic()
    try:
        _fill(job, json.dumps(asdict(program)))
        _fill(stdin, program.stdin)
        told = {
            "job": job,
            "verdict": report_write,
            "stdin": stdin,
            "limits": {**asdict(limits), "tasks": cell.tasks(limits)},
        }
        started = cell.start(told, limits.disk, (job, report_write, stdin))
        os.close(report_write)
        report_write = -1
        streams = _Streams(limits.output)
        reason = _listen(started, report, streams, begin + limits.wall_seconds)
        _reap(started, 0 if reason else ENDING_SECONDS)
    finally:
        for descriptor in (job, stdin, report, report_write):
            if descriptor >= 0:
                os.close(descriptor)
    stdout, stderr = streams.texts()
    verdict = _verdict(bytes(streams.report), reason, limits, streams)
    return replace(
        verdict,
        seconds=time.monotonic() - begin,
        isolated=bool(cell.bwrap),
        stdout=stdout,
        stderr=stderr,
    )


def _fill(descriptor: int, text: str) -> None:
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(text.encode(errors="surrogatepass"))
    os.lseek(descriptor, 0, os.SEEK_SET)


def _listen(started: Started, report: int, streams: _Streams, deadline: float) -> str:
    """Read until the judge is done; return ``wall`` or ``output`` when it was stopped for that, else nothing."""
    assert started.process.stdout is not None
    assert started.process.stderr is not None
    reason = ""
    with selectors.DefaultSelector() as waiting:
        waiting.register(report, selectors.EVENT_READ, streams.report)
        waiting.register(started.process.stdout, selectors.EVENT_READ, streams.stdout)
        waiting.register(started.process.stderr, selectors.EVENT_READ, streams.stderr)
        while waiting.get_map():
            left = deadline - time.monotonic()
            if streams.full or left <= 0:
                if not reason:
                    reason = "output" if streams.full else "wall"
                break
            for key, _ in waiting.select(left):
                part = os.read(key.fd, 1 << 16)
                key.data.extend(part)
                if not part:
                    waiting.unregister(key.fileobj)
                    if key.fd == report:
                        deadline = min(deadline, time.monotonic() + ENDING_SECONDS)
    return reason


def _reap(started: Started, patience: float) -> None:
    """End what has not ended by itself in `patience` seconds, and wait until nothing of it is left."""
    started.end(patience)
    process = started.process
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _verdict(report: bytes, reason: str, limits: Limits, streams: _Streams) -> Verdict:
    head, _, told = report[:LONGEST_VERDICT].partition(b"\n")
    if head != b"started":
        message = bytes(streams.stderr).decode(errors="replace").strip()[-500:]
        raise WorkFailed(f"the sandbox did not start: {message or 'no message'}")
    if told:
        facts = json.loads(told)
        if facts["outcome"] == "broken":
            raise UsageError(f"its tests do not compile or load: {facts['detail']}")
        verdict = Verdict(facts["outcome"], facts["detail"], cpu_seconds=facts["cpu_seconds"])
        return Verdict("output", _output(limits)) if streams.full else verdict
    if reason == "output":
        return Verdict("output", _output(limits))
    if reason == "wall":
        return Verdict("timeout", f"{limits.wall_seconds:g} s from start to end")
    return Verdict("crashed", "the judge was killed by the program, or used up its own time or memory")


def _output(limits: Limits) -> str:
    return f"more than {limits.output:,} bytes printed"
