"""Merge model folders into one, complete or absent, within a bound on memory that is known before.

    merge(Inputs((Path("a"), Path("b"))), Path("out"), Method("linear", module, params))

The folder is made under another name, flushed, and renamed last; a kill leaves no folder that looks like a model.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cuvee.errors import UsageError
from cuvee.merging import companions, matching, parameters, patterns, weights
from cuvee.merging.matching import Matched
from cuvee.merging.streaming import PIECE, SPARE, Stream
from cuvee.merging.weights import Weights
from cuvee.merging.writing import Shards

FIXED = 300 << 20
"""Bytes that Python, its libraries and bookkeeping may take."""

SHARD = 5_000_000_000
"""Bytes of a shard unless asked otherwise."""

COMPUTE = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Inputs:
    """The folders that are merged.

    Args:
        models: those that are merged; the first gives configuration, tokenizer and the order of tensors.
        base: what they were trained from.
        extras: one folder of further tensors for each model.
        names: of the models, then of the base, then of the extras, for messages; the folders' when absent.
    """

    models: tuple[Path, ...]
    base: Path | None = None
    extras: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders in the order of `names`."""
        return (*self.models, *([self.base] if self.base else []), *self.extras)


@dataclass(frozen=True)
class Method:
    """A merger with its parameters."""

    name: str
    module: Any
    params: Any


@dataclass(frozen=True)
class Prepared:
    """A merge that was checked and can be written.

    Args:
        matched: what is merged with what.
        by_tensor: parameters for each tensor.
        threads: threads that keep the bound.
        held: bytes that pieces will take.
        bound: bytes that the merge stays below, mapped file pages not counted.
        notes: sentences for people.
    """

    inputs: Inputs
    method: Method
    matched: Matched
    by_tensor: Mapping[str, Any]
    threads: int
    held: int
    bound: int
    notes: tuple[str, ...] = field(default=())

    @property
    def bytes(self) -> int:
        """Bytes of the result's tensors."""
        return sum(slot.bytes for slot in self.matched.slots)


def prepare(inputs: Inputs, method: Method, threads: int = 1) -> Prepared:
    """Check everything that can be checked before writing, and bound the memory.

    Raises:
        ModelError: a model is absent, damaged, pickled or quantised, or the models do not fit each other.
        UsageError: the method's parameters do not fit the models.
    """
    names = inputs.names or tuple(str(folder) for folder in inputs.folders)
    check(method, len(inputs.models), has_base=inputs.base is not None, extras=len(inputs.extras))
    count = len(inputs.models)
    opened = [matching.open_model(folder, name) for folder, name in zip(inputs.models, names, strict=False)]
    base: matching.Model | None = None
    unread: tuple[str, ...] = ()
    if method.module.needs_base(method.params):
        assert inputs.base is not None
        base = matching.open_model(inputs.base, names[count])
    elif inputs.base is not None:
        weights.config(inputs.base)  # the card names it, so it must be one
        unread = (f"{method.name} looks at no base: {names[count]} is named in the card and not read",)
    extras = [
        matching.Model(name, Weights(folder), opened[i].config)
        for i, (folder, name) in enumerate(zip(inputs.extras, names[count + (inputs.base is not None) :], strict=True))
    ]
    matched = matching.match(opened, base, extras, method.params.dtype)
    floats = [slot.name for slot in matched.slots if not slot.copied]
    by_tensor = patterns.resolve(method.params, floats)
    for params in {id(one): one for one in by_tensor.values()}.values():
        parameters.check_values(method.name, params, count)
    return _bounded(Prepared(inputs, method, matched, by_tensor, threads, 0, 0, (*matched.notes, *unread)))


def check(method: Method, models: int, *, has_base: bool, extras: int) -> None:
    """Refuse a number of models, a missing base or parameters that a method cannot work with.

    Raises:
        UsageError: says what it takes.
    """
    parameters.check(method.name, method.module, method.params, models)
    if method.module.needs_base(method.params) and not has_base:
        raise UsageError(
            f"{method.name}: needs the base that the models were trained from: --base, or base in a recipe"
        )
    what = getattr(method.module, "EXTRAS", "")
    if extras and not what:
        raise UsageError(f"{method.name}: takes no folders beside the models, got {extras}; only fisher does")
    if what and extras != models:
        raise UsageError(f"{method.name}: needs {models} of {what}, one for each model, got {extras}")


def _bounded(prepared: Prepared) -> Prepared:
    """Return the merge with its memory bound, and with as many threads as keep it."""
    width = COMPUTE[prepared.method.params.compute].itemsize
    slots = [slot for slot in prepared.matched.slots if not slot.copied]
    largest = max(slot.size for slot in slots)
    count = len(prepared.inputs.models)
    bound = (count + 2) * largest * width + FIXED
    pieces = len(slots[0].models) + bool(slots[0].base) + len(slots[0].extras) + SPARE
    each = pieces * PIECE * width + getattr(prepared.method.module, "EXTRA_BYTES", 0) * count
    room = max(1, (bound - FIXED // 2) // each)
    threads = min(max(1, prepared.threads), room)
    return Prepared(
        prepared.inputs,
        prepared.method,
        prepared.matched,
        prepared.by_tensor,
        threads,
        threads * each,
        bound,
        prepared.notes,
    )


def describe(prepared: Prepared) -> list[str]:
    """Return what a merge will do and hold, as sentences to be printed first."""
    slots = prepared.matched.slots
    said = (
        f"{prepared.method.name} of {len(prepared.inputs.models)} model(s): {len(slots)} tensors, "
        f"{prepared.bytes / 1e6:,.1f} MB, {prepared.threads} thread(s)"
    )
    memory = (
        f"memory: at most {prepared.bound / 2**20:,.0f} MiB besides mapped files, which is (K + 2) of the largest "
        f"tensor and 300 MiB; {prepared.held / 2**20:,.0f} MiB of it for pieces"
    )
    return [said, memory, *prepared.notes]


def write(
    prepared: Prepared,
    out: Path,
    *,
    shard_bytes: int = SHARD,
    finish: Callable[[Path, dict[str, Any]], None] = lambda folder, summary: None,
    progress: Callable[[Mapping[str, Any]], None] = lambda facts: None,
) -> dict[str, Any]:
    """Write the merged model.

    Args:
        prepared: what `prepare` returned.
        out: the folder to make; one left half-written under this name is replaced, any other must not exist.
        shard_bytes: bytes of a file; no part of the result.
        finish: writes what else belongs into the folder, such as the model card.
        progress: told {"step", "steps"} in millions of elements.

    Returns:
        tensors, bytes, dtype, seconds, cpu_seconds, notes, bound_bytes.

    Raises:
        UsageError: the disk is too small or the folder exists.
    """
    started, cpu = time.monotonic(), time.process_time()
    told: dict[str, Any] = {}

    def fill(part: Path) -> None:
        _tensors(prepared, part, shard_bytes, progress)
        companions.copy(prepared.inputs.models[0], part)
        told.update(summary(prepared), seconds=round(time.monotonic() - started, 3))
        told.update(cpu_seconds=round(time.process_time() - cpu, 3))
        finish(part, told)
        # Without its configuration no folder is taken for a model, so this comes last.
        text = json.dumps(prepared.matched.config, indent=2, sort_keys=True)
        (part / "config.json").write_text(text + "\n", encoding="utf-8")

    place(out, prepared.bytes, fill)
    return told


def place(out: Path, wanted: int, fill: Callable[[Path], None]) -> None:
    """Make a folder, complete or absent, flushed to disk.

    Args:
        out: the folder; one left half-written under this name is replaced, any other must not exist.
        wanted: bytes it will have.
        fill: writes everything.

    Raises:
        UsageError: it exists, cannot be made, or the disk is too small.
    """
    check_absent(out)
    part = out.with_name(out.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    check_disk(out, wanted)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{part} cannot be made: {error.strerror}; name another folder") from None
    try:
        fill(part)
        _flush(part)
        os.replace(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # it may be what has filled the disk
        raise
    _flush_folder(out.parent)


def check_absent(out: Path) -> None:
    """Refuse a folder that exists.

    Raises:
        UsageError: it does.
    """
    if out.exists():
        raise UsageError(f"{out} exists; name another folder")


def check_disk(out: Path, wanted: int) -> None:
    """Refuse a disk with too little room for a folder that may not be there yet.

    Raises:
        UsageError: says how much is free.
    """
    there = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    if free < wanted + (1 << 20):
        raise UsageError(
            f"{out.parent}: {free / 1e6:,.0f} MB are free and the merged model has {wanted / 1e6:,.0f} MB; free "
            "space or name a folder elsewhere"
        )


def _tensors(prepared: Prepared, part: Path, shard_bytes: int, progress: Callable[[Mapping[str, Any]], None]) -> None:
    _keep_freed_memory()
    shards = Shards(part, prepared.matched.slots, shard_bytes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        Stream(
            prepared.matched.slots,
            prepared.method.module,
            prepared.method.params,
            prepared.by_tensor,
            shards.put,
            COMPUTE[prepared.method.params.compute],
            lambda done, of: progress({"step": done // 1_000_000, "steps": of // 1_000_000}),
        ).run(prepared.threads)
        shards.close()
    finally:
        shards.abandon()
        torch.set_num_threads(threads)


def _keep_freed_memory() -> None:
    """Let the C library keep freed pieces; otherwise it gives each back, and gets the next one page by page."""
    trim, mapped = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h; other libraries have no mallopt
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(trim, 64 << 20)
        library.mallopt(mapped, 16 << 20)


def summary(prepared: Prepared) -> dict[str, Any]:
    """Return a merge in numbers, before it is made."""
    slots = prepared.matched.slots
    return {
        "models": len(prepared.inputs.models),
        "tensors": len(slots),
        "bytes": prepared.bytes,
        "dtype": "+".join(sorted({slot.dtype for slot in slots if not slot.copied})),
        "threads": prepared.threads,
        "bound_bytes": prepared.bound,
        "notes": list(prepared.notes),
    }


def _flush(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _flush_folder(Path(root) / name)
        _flush_folder(Path(root))


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
