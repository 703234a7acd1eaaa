"""The tree of errors; user faults apart from failed work.

    CuveeError
    ├── UsageError          wrong use: message without traceback, exit code 2
    │   ├── RecipeError     names the recipe key and its line
    │   ├── DataError       names the file and the line
    │   ├── ModelError      a base model that is absent, damaged or unsuitable
    │   └── StoreError      a store that cannot be used as it is
    ├── WorkFailed          work that was started and failed: exit code 1
    │   └── StageFailed     names the stage; the others went on
    └── WorkStopped         a run was asked to stop (SIGTERM): exit code 143, the same command goes on

Every message says what was asked, what is possible and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CuveeError(Exception):
    """Base of all errors that are printed without a traceback."""

    exit_code = 1


class UsageError(CuveeError):
    """The request itself is wrong; nothing was executed."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe key is unknown, of the wrong type or impossible.

    Args:
        message: what was asked, what is possible, the remedy.
        key: dotted path of the key, such as ``sources.math.amount``.
        where: ``file:line`` when the recipe came from a file.
    """

    def __init__(self, message: str, *, key: str = "", where: str = "") -> None:
        self.message, self.key, self.where = message, key, where
        head = ": ".join(part for part in (where, key) if part)
        super().__init__(f"{head}: {message}" if head else message)


class DataError(UsageError):
    """A data file cannot be used.

    Args:
        message: what is wrong and the remedy.
        path: the file.
        line: 1-based line, 0 when the whole file is meant.
    """

    def __init__(self, message: str, *, path: str = "", line: int = 0) -> None:
        self.message, self.path, self.line = message, path, line
        head = f"{path}:{line}" if line else path
        super().__init__(f"{head}: {message}" if head else message)


class ModelError(UsageError):
    """A base model is absent, damaged or cannot serve the recipe."""


class StoreError(UsageError):
    """The store cannot be used: newer version, not a store, not writable."""


class WorkFailed(CuveeError):
    """Work was started and did not end well."""


class StageFailed(WorkFailed):
    """One stage failed; `stage` is its short name."""

    def __init__(self, message: str, *, stage: str = "") -> None:
        self.stage = stage
        super().__init__(f"{stage}: {message}" if stage else message)


class WorkStopped(CuveeError):
    """A run was stopped by SIGTERM; what it did is kept, and the same command goes on."""

    exit_code = 143


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, else the list of what is possible."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Possible: {', '.join(names)}." if names else ""
