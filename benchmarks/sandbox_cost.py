"""CPU seconds of grading a program: in the sandbox, by the same judge in a plain process, and of a bare interpreter.

    python benchmarks/sandbox_cost.py [HUMANEVAL.jsonl.gz]

With a file the canonical solutions of HumanEval are graded, otherwise 100 small programs. The ways take turns, twice;
CPU time is user and system time of all processes, which are waited for here even where their parents are gone.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

from cuvee import sandbox
from cuvee.evaluators import _code
from cuvee.sandbox import Program
from cuvee.sandbox.bubblewrap import PYTHON_FLAGS, interpreter

PR_SET_CHILD_SUBREAPER = 36


def programs(path: str | None) -> list[Program]:
    """Return what is graded."""
    if path is None:
        return [Program(f"def f(x):\n    return x + {n}\n", f"assert f(1) == {n + 1}") for n in range(100)]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [_code.humaneval(row["prompt"], row["test"], row["entry_point"], row["canonical_solution"]) for row in rows]


def cpu_seconds() -> float:
    """Return user and system seconds of this process and of all children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def bare(given: list[Program]) -> None:
    """Start an interpreter that does nothing for each program."""
    for _ in given:
        subprocess.run([interpreter(), *PYTHON_FLAGS, "-c", "pass"], check=True)


def graded(given: list[Program], unsafe: bool) -> None:
    """Grade all programs."""
    verdicts = sandbox.run_many(given, unsafe=unsafe)
    assert all(verdict.passed for verdict in verdicts), [verdict for verdict in verdicts if not verdict.passed]


def main() -> None:
    """Measure and print."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    given = programs(sys.argv[1] if len(sys.argv) > 1 else None)
    sandbox.available()
    ways: dict[str, Callable[[], None]] = {
        "bare interpreter": lambda: bare(given),
        "plain process": lambda: graded(given, unsafe=True),
        "sandbox": lambda: graded(given, unsafe=False),
    }
    print(f"{len(given)} programs, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    for turn in (1, 2):
        for name, way in ways.items():
            before, begin = cpu_seconds(), time.monotonic()
            way()
            spent, wall = cpu_seconds() - before, time.monotonic() - begin
            each = f"{spent / len(given) * 1000:.1f} ms each"
            print(f"turn {turn}  {name:16}  {spent:6.2f} CPU s, {each}, {wall:.1f} s from start to end")


if __name__ == "__main__":
    main()
