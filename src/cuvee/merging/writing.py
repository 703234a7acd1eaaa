"""Shards of a safetensors model, written in place: headers first, then any elements in any order from any thread."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuvee.errors import ModelError
from cuvee.merging.matching import Slot
from cuvee.merging.weights import DTYPES, INDEX, WHOLE


class Shards:
    """The files of a model that is being written.

    Args:
        folder: where they are made; not complete before `close` has returned.
        slots: the tensors in order.
        limit: bytes of a shard; a larger tensor has one of its own.
        name: of the file where there is one only.
    """

    def __init__(self, folder: Path, slots: Sequence[Slot], limit: int, name: str = WHOLE) -> None:
        self.folder = folder
        parts = _parts(slots, limit)
        many = len(parts) > 1
        self.names = [
            f"model-{i:05}-of-{len(parts):05}.safetensors" if many else name for i in range(1, len(parts) + 1)
        ]
        self._at: dict[str, tuple[int, int]] = {}
        self._open: list[int] = []
        for name, part in zip(self.names, parts, strict=True):
            header, offsets = _header(part)
            handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self._open.append(handle)
            os.ftruncate(handle, len(header) + sum(slot.bytes for slot in part))
            os.pwrite(handle, header, 0)
            self._at |= {slot.name: (handle, len(header) + offsets[slot.name]) for slot in part}
        if many:
            listed = {slot.name: name for name, part in zip(self.names, parts, strict=True) for slot in part}
            self._write_index(listed, sum(slot.bytes for slot in slots))

    def _write_index(self, listed: dict[str, str], total: int) -> None:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": listed}, indent=2, sort_keys=True)
        (self.folder / INDEX).write_text(text, encoding="utf-8")

    def put(self, slot: Slot, start: int, values: Tensor) -> None:
        """Write elements of a tensor from `start` on, rounded once to its dtype.

        Args:
            slot: the tensor.
            start: number of the first element.
            values: (n,).

        Raises:
            ModelError: float16 cannot hold one of them.
        """
        kind = DTYPES[slot.dtype]
        handle, offset = self._at[slot.name]
        rounded = values.to(kind).contiguous()
        if kind == torch.float16 and not bool(torch.isfinite(rounded).all()):
            raise ModelError(
                f"tensor {slot.name}: holds a number beyond float16, whose largest is 65,504; say dtype bfloat16 or "
                "float32"
            )
        data = memoryview(rounded.view(torch.uint8).numpy().data)
        at = offset + start * kind.itemsize
        while len(data):  # a write may be cut short
            written = os.pwrite(handle, data, at)
            data, at = data[written:], at + written

    def close(self) -> None:
        """Flush and close; what was never written reads as zeros, so callers write every tensor first."""
        for handle in self._open:
            os.fsync(handle)
        self.abandon()

    def abandon(self) -> None:
        """Close without flushing."""
        while self._open:
            os.close(self._open.pop())


def _parts(slots: Sequence[Slot], limit: int) -> list[list[Slot]]:
    parts: list[list[Slot]] = [[]]
    held = 0
    for slot in slots:
        if parts[-1] and held + slot.bytes > limit:
            parts.append([])
            held = 0
        parts[-1].append(slot)
        held += slot.bytes
    return parts


def _header(part: Sequence[Slot]) -> tuple[bytes, dict[str, int]]:
    """Return a file's head and where each tensor begins after it; wide dtypes first keep every tensor aligned."""
    listed: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets, at = {}, 0
    for slot in sorted(part, key=lambda one: -DTYPES[one.dtype].itemsize):
        offsets[slot.name] = at
        listed[slot.name] = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [at, at + slot.bytes]}
        at += slot.bytes
    text = json.dumps(listed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets
