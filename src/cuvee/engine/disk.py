"""Things on disk that a kill cannot harm: flushed folders, checkpoints with digests, a step log.

No torch here: the fake engine shares it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from cuvee.protocols import Progress


def sync_tree(folder: Path, *, files: bool = True) -> None:
    """Flush a folder to disk, with all its files unless told otherwise."""
    for path in [*(p for p in folder.rglob("*") if files), folder]:
        sync_file(path)


def sync_file(path: Path) -> None:
    """Flush what any process has written to a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace a text file: its old content or its new one is there, never a part."""
    part = path.with_name(path.name + ".partial")
    with open(part, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)


def _remove(path: Path) -> None:
    """Remove a checkpoint, or what a hand has put in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "blake2b").hexdigest()


def _digest_of(data: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode()).hexdigest()


LAYOUT = 3
"""Of a checkpoint's files: one of another layout is not resumed."""


def fingerprint(hyper: Mapping[str, Any], steps: Iterable[Iterable[int]], rows: int) -> str:
    """Return a digest of what a training is, so that the checkpoint of another one is never resumed.

    Names of parts are left out: they are for people and may change.
    """
    settings = {key: value for key, value in hyper.items() if key != "part_names"}
    digest = hashlib.blake2b(json.dumps([LAYOUT, rows, settings], sort_keys=True, default=str).encode())
    for step in steps:
        indexes = array("q", map(int, step))
        digest.update(f"{len(indexes)};".encode() + indexes.tobytes())
    return digest.hexdigest()


KEPT = 2
"""Checkpoints of a training on disk: the newest, and the one before it in case the newest is damaged."""


class Checkpoints:
    """Checkpoints of one training: ``checkpoint-<step>/`` with any files and a ``checkpoint.json``, the newest `KEPT`.

    Args:
        work: folder they lie in.
        fingerprint: what the training is; one with another fingerprint is not resumed.
        writes: whether this process writes them, and removes what a kill left half-written.
    """

    def __init__(self, work: Path, fingerprint: str, *, writes: bool = True) -> None:
        self.work, self.fingerprint = work, fingerprint
        self._useless: set[Path] = set()
        work.mkdir(parents=True, exist_ok=True)
        for left in work.glob("checkpoint-*.partial") if writes else ():
            _remove(left)

    def write(self, step: int, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint in a temporary folder, flush, rename; only then remove those before the last one."""
        final = self.work / f"checkpoint-{step}"
        part = final.with_name(final.name + ".partial")
        part.mkdir()
        fill(part)
        digests = {path.name: _digest(path) for path in sorted(part.iterdir())}
        data = {"step": step, "fingerprint": self.fingerprint, "files": digests, **facts}
        write_text(part / "checkpoint.json", json.dumps({**data, "digest": _digest_of(data)}, indent=1))
        sync_tree(part)
        if final.exists():
            _remove(final)
        os.replace(part, final)
        sync_tree(self.work, files=False)
        self._useless.discard(final)
        own = [folder for folder in self._folders() if _step_of(folder) <= step and folder not in self._useless]
        for other in self._folders():
            if other not in own[:KEPT]:
                _remove(other)

    def newest(self, note: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint that is whole and of this training; others are told to `note`."""
        damaged = False
        for folder in self._folders():
            try:
                data = self._read(folder)
                own = data["fingerprint"] == self.fingerprint
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                note(f"{folder.name} is damaged ({error!r}); the one before it is tried")
                self._useless.add(folder)
                damaged = True
                continue
            if own:
                return folder, data
            self._useless.add(folder)
            note(f"{folder.name} belongs to another training and is not used")
        if damaged:
            note("no whole checkpoint is left: the training starts at step 1")
        return None

    def at(self, step: int) -> tuple[Path, dict[str, Any]]:
        """Return the checkpoint of a step, which another process has found whole."""
        folder = self.work / f"checkpoint-{step}"
        facts: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        return folder, facts

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Note that the training is done, its model saved; then remove the checkpoints, which are large."""
        text = json.dumps({"fingerprint": self.fingerprint, "summary": summary}, indent=1)
        write_text(self.work / "finished.json", text)
        self.clear()

    def clear(self) -> None:
        """Remove all checkpoints."""
        for folder in self._folders():
            _remove(folder)

    def finished(self, out: Path) -> dict[str, Any] | None:
        """Return the summary of this very training if it was done before and its model is still there."""
        try:
            data = json.loads((self.work / "finished.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        done: dict[str, Any] | None = data.get("summary") if data.get("fingerprint") == self.fingerprint else None
        return done if out.is_dir() else None

    def _folders(self) -> list[Path]:
        whole = [p for p in self.work.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
        return sorted(whole, key=_step_of, reverse=True)

    @staticmethod
    def _read(folder: Path) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        if data.pop("digest") != _digest_of(data):
            raise ValueError("checkpoint.json has another digest")
        for name, digest in data["files"].items():
            if _digest(folder / name) != digest:
                raise ValueError(f"{name} has another digest")
        return data


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def mark_step(fraction: Fraction, steps: int) -> int:
    """Return the first step after which at least so much of a training's steps is done."""
    return math.ceil(fraction * steps)


def mark_file(work: Path, fraction: Fraction) -> Path:
    """Return where a training leaves the weights of a mark until somebody takes them."""
    return work / "marks" / f"{fraction.numerator}-{fraction.denominator}"


class Background:
    """Writes one thing at a time in a thread of its own; what fails there is raised at the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.seconds = 0.0
        """How long the last write took."""

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, write: Callable[[], None]) -> None:
        """Start a write after the one under way, if any, has ended."""
        self.wait()
        self.follow(write)

    def follow(self, write: Callable[[], None]) -> None:
        """Put a write behind the one under way without waiting for it."""
        self._thread = threading.Thread(target=self._run, args=(write, self._thread), daemon=True)
        self._thread.start()

    def _run(self, write: Callable[[], None], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        if self._error is not None:  # the one before failed, which the next call will say
            return
        start = time.monotonic()
        try:
            write()
        except BaseException as error:
            self._error = error
        self.seconds = time.monotonic() - start

    def wait(self) -> None:
        """Wait for the write under way; raise what failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


class Journal:
    """``log.jsonl``: one record a step, flushed at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: IO[str] | None = None

    def cut(self, step: int) -> None:
        """Keep the records up to `step`; those after it are done again."""
        kept = [json.dumps(record) + "\n" for record in self.records() if record["step"] <= step]
        write_text(self.path, "".join(kept))

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records; a line that a kill left unfinished ends the log."""
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", errors="replace") as handle:
            for line in handle:
                try:
                    yield json.loads(line)
                except ValueError:
                    return

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record."""
        if self._handle is None:
            self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self._handle.write(json.dumps(record) + "\n")
        self._handle.flush()

    def sync(self) -> None:
        """Flush to disk: a checkpoint must never be newer than the log it belongs to."""
        if self.path.exists():
            sync_file(self.path)

    def close(self) -> None:
        """Flush and close."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
            self.sync()


class Ticker:
    """Passes facts on to a progress callback, at most about five times a second; the last one always."""

    def __init__(self, progress: Progress, steps: int, interval: float = 0.2) -> None:
        self._progress, self._steps, self._interval = progress, steps, interval
        self._start, self._last, self._tokens, self._first = time.monotonic(), 0.0, 0, -1

    def tick(self, step: int, tokens: int, **facts: Any) -> None:
        """Report that `step` steps are done; `tokens` is this step's number of tokens."""
        if self._first < 0:
            self._first = step - 1
        self._tokens += tokens
        now = time.monotonic()
        if now - self._last < self._interval and step < self._steps:
            return
        self._last = now
        spent = max(now - self._start, 1e-9)
        left = spent / (step - self._first) * (self._steps - step)
        speed = self._tokens / spent
        data = {"step": step, "steps": self._steps, "tokens": self._tokens, "tokens_per_second": speed}
        self._progress({**data, "seconds_left": left, **facts})


def loss_by_part(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each part's mean nll a supervised token over the last epoch of a log."""
    nll: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    for record in records:
        if record["epoch"] == records[-1]["epoch"]:
            for part, sums in record["parts"].items():
                nll[part] += sums["nll"]
                tokens[part] += sums["tokens"]
    return {part: nll[part] / max(tokens[part], 1) for part in sorted(nll, key=int)}
