"""What is run, within which limits, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cuvee.errors import UsageError

MiB = 1 << 20

Outcome = Literal["passed", "failed", "timeout", "memory", "output", "crashed"]
"""How a program ended.

passed    every test ran and held
failed    a test did not hold, the program raised, does not compile, or ended itself early
timeout   CPU or wall time was used up, also when tried again alone
memory    `MemoryError`
output    more was printed than the limit
crashed   killed by a signal, or it took its judge along
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Args:
        cpu_seconds: CPU time of each process of the program; decides what a timeout is.
        wall_seconds: time from start to end, for programs that sleep; generous, since it hangs on the machine's load.
        memory: bytes of address space of each process.
        processes: processes and threads at a time, the program itself included. The bound on memory is
            `memory` times `processes` plus `disk`.
        disk: bytes in /tmp, which is memory too.
        output: bytes of standard output and error together.
        open_files: file descriptors of each process.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 15.0
    memory: int = 512 * MiB
    processes: int = 8
    disk: int = 16 * MiB
    output: int = 1 * MiB
    open_files: int = 64

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise UsageError(f"the sandbox's limit {name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True, slots=True)
class Program:
    """Code that is judged, and what it is judged by.

    Args:
        code: the untrusted source. Without `tests` it passes when it runs to its end, which is then its own word.
        tests: trusted source that the judge runs in a process of its own; it passes when it raises nothing.
        names: what the tests take from the code, such as the entry point. Empty: every global name of the code that
            the tests use and that is no builtin.
        given: trusted source that the judge runs before the tests, such as a prompt with helper functions. What it
            defines cannot be replaced by the code, `names` apart.
        stdin: what the code may read.
    """

    code: str
    tests: str = ""
    names: tuple[str, ...] = ()
    given: str = ""
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a program ended.

    Args:
        outcome: see `Outcome`.
        detail: the error as ``Type: message`` or the limit that was met; empty when passed.
        seconds: from start to end.
        cpu_seconds: CPU time of the code, without its judge and its start; 0 where the judge was ended.
        stdout: what the code printed, cut at the limit.
        stderr: what the code printed to standard error, cut at the limit.
        isolated: False when the program ran as a plain process.
        attempts: 2 when it ran out of time first and was tried again alone.
    """

    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stdout: str = ""
    stderr: str = ""
    isolated: bool = True
    attempts: int = 1

    @property
    def passed(self) -> bool:
        """Return whether every test held."""
        return self.outcome == "passed"
