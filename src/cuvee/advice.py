"""Which precision is faster on this machine: measured, said, never chosen (precision is the recipe's)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping

from cuvee.errors import WorkFailed
from cuvee.runtime import Runtime

CLEAR = 1.15
"""Ratio of times from which a precision is called faster."""


def precision(runtime: Runtime, asked: Iterable[str]) -> str:
    """Measure and return a sentence; torch runs in a process of its own.

    Args:
        runtime: device and threads.
        asked: the precisions of the recipe's trainings.

    Raises:
        WorkFailed: the measurement failed; says why.
    """
    command = [sys.executable, "-m", "cuvee.engine.precision", json.dumps(runtime.as_dict())]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WorkFailed(f"--measure: {last}")
    return sentence(json.loads(found.stdout), sorted(set(asked)))


def sentence(seconds: Mapping[str, float], asked: Iterable[str]) -> str:
    """Return what the times say of the precisions that a recipe asks for."""
    fast, slow = sorted(seconds, key=lambda name: seconds[name])[:2]
    ratio = seconds[slow] / seconds[fast]
    shown = f"a small step takes {seconds[slow]:.3g} s in {slow} and {seconds[fast]:.3g} s in {fast} here"
    wanted = ", ".join(asked)
    if ratio < CLEAR:
        return f"{shown}: no clear difference; the recipe says {wanted}"
    if list(asked) == [fast]:
        return f"{shown}: {ratio:.1f} times as long; the recipe says {wanted}, the faster one"
    less = "less memory" if slow == "bfloat16" else "fewer digits"
    kept = f"{slow} needs {less}" if slow == "bfloat16" else f"{fast} has {less}"
    return (
        f"{shown}: {ratio:.1f} times as long; the recipe says {wanted}. training.precision={fast} would be faster; "
        f"it is another training with another id, and {kept}"
    )
