"""SIGTERM is a request to stop: work that saves its state does so first, other work stops at once.

listen()                     once, in a worker process
with patient(): ...          in here SIGTERM waits; the work looks at `asked` and raises `Stopped` when it has saved
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_asked = False
_depth = 0


class Stopped(BaseException):
    """Work was stopped on request; no error, so nothing that handles errors takes it."""


def listen() -> None:
    """Take SIGTERM as a request to stop, in this process from now on."""
    signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(number: int, frame: Any) -> None:
    global _asked
    _asked = True
    if not _depth:
        raise Stopped


def asked() -> bool:
    """Return whether this process was asked to stop."""
    return _asked


@contextmanager
def patient() -> Iterator[None]:
    """Keep SIGTERM from interrupting what is inside; it stops the process at the end.

    Raises:
        Stopped: at the end, when a request came meanwhile.
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if _asked and not _depth:
        raise Stopped
