"""What pins outside data: content hashes of files, remembered by size and times, and hub revisions.

Hashes are kept in the store (`pins.json`) and looked up by path, size, times and inode, so that a second plan reads
no data. The time of change counts too, which no program can set back: a file that was replaced by one of equal size
and modification time is seen as another. Hub revisions are kept in `recipe.lock` beside the recipe, to be committed
with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTLED_NS = 50_000_000
"""How long a file must have lain unchanged when it was looked at: a second change within one tick of the file
system's clock (at most 10 ms on Linux) leaves its times as they were."""


class Pins:
    """Remembered hashes and revisions.

    Args:
        cache: file of the hashes, in the store.
        lock: file of the revisions, beside the recipe.
    """

    def __init__(self, cache: Path, lock: Path) -> None:
        self._cache, self._lock = cache, lock
        self.store = cache.parent
        self._facts: dict[str, dict[str, Any]] = _read(cache)
        self._revisions: dict[str, str] = _read(lock)
        self._changed = False

    def file_hash(self, path: Path, compute: Callable[[Path], str] | None = None) -> str:
        """Return the sha256 of a file's bytes, from memory when the file is unchanged."""
        return str(self.fact(path, "sha256", compute or sha256))

    def fact(self, path: Path, name: str, compute: Callable[[Path], str]) -> str:
        """Return something that hangs on a file's content alone, from memory when the file is unchanged."""
        try:
            looked = time.time_ns()
            status = path.stat()
        except OSError:
            return compute(path)  # It knows how to say what is wrong.
        seen = self._facts.get(str(path))
        now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if not seen or seen.get("status") != now or seen.get("looked", 0) - status.st_ctime_ns < SETTLED_NS:
            seen = self._facts[str(path)] = {"status": now, "looked": looked}
        if name not in seen:
            seen[name] = compute(path)
            self._changed = True
        return str(seen[name])

    def forget(self, path: Path) -> None:
        """Forget what is remembered of a file, so that it is read again."""
        for name in {str(path), str(path.resolve())}:
            if self._facts.pop(name, None) is not None:
                self._changed = True

    def revision(self, repo: str, requested: str, compute: Callable[[], str]) -> str:
        """Return the commit of a hub repository: as locked, else resolved once and written to the lock."""
        key = f"{repo}@{requested or 'main'}"
        if key not in self._revisions:
            self._revisions[key] = compute()
            _write(self._lock, self._revisions)
        return self._revisions[key]

    def save(self) -> None:
        """Keep the hashes for the next plan; a store that cannot be written only costs time."""
        if self._changed:
            try:
                _write(self._cache, self._facts)
            except OSError:
                return
            self._changed = False


def sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(temporary, path)
