"""The tensors of a model folder as they lie on disk: mapped, never unpickled, checked for damage when opened.

weights = Weights(Path("models/a"))
weights.read("model.norm.weight", 0, 64)  # (64,), the file's own dtype
"""

from __future__ import annotations

import json
import math
import mmap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuvee.errors import ModelError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Dtypes of safetensors files that a merge can read."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""Those that are averaged; the others are copied."""

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

LONGEST_HEADER = 100_000_000
"""Bytes; the limit that safetensors itself sets, so that a damaged length does not fill the memory."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies.

    Args:
        name: its name in the file.
        dtype: as safetensors calls it.
        shape: its shape.
        file: number of its file.
        start: offset of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    start: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize

    @property
    def is_float(self) -> bool:
        """Whether it is averaged rather than copied."""
        return self.dtype in FLOATS


class Weights:
    """The tensors of one folder.

    Args:
        folder: a Hugging Face folder, or any folder with one safetensors file.

    Raises:
        ModelError: no safetensors, pickled weights only, quantised, a missing, truncated or damaged shard, a dtype that
            cannot be merged; names the file and the tensor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files(folder)
        self.entries: dict[str, Entry] = {}
        self._maps: list[mmap.mmap | None] = []
        self._bytes: list[Tensor] = []
        for number, path in enumerate(self.files):
            for entry in _header(path, number):
                if entry.name in self.entries:
                    other = self.files[self.entries[entry.name].file].name
                    raise ModelError(f"{path}: tensor {entry.name} is in {other} as well; copy the model again")
                self.entries[entry.name] = entry
        if not self.entries:
            raise ModelError(f"{folder}: its safetensors hold no tensor")
        self._check_index()
        for path in self.files:
            mapped, view = _map(path)
            self._maps.append(mapped)
            self._bytes.append(view)

    def _check_index(self) -> None:
        """Refuse shards that lack what the index says they hold."""
        if self.files[0].name == WHOLE or not (self.folder / INDEX).is_file():
            return
        for name, file in _listed(self.folder).items():
            if name not in self.entries or self.files[self.entries[name].file].name != file:
                raise ModelError(
                    f"{self.folder / file}: lacks tensor {name}, which {INDEX} says is there; copy the model again"
                )

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Return the elements [start, stop) of a tensor, flat, without copying; not to be written to."""
        entry = self.entries[name]
        first = entry.start + start * entry.width
        raw = self._bytes[entry.file][first : entry.start + stop * entry.width]
        if raw.data_ptr() % entry.width:  # a file need not be aligned
            raw = raw.clone()
        return raw.view(DTYPES[entry.dtype])

    def ahead(self, name: str, start: int, stop: int) -> None:
        """Ask the system to fetch elements from the disk while others are worked on."""
        entry = self.entries[name]
        mapped = self._maps[entry.file]
        first = (entry.start + start * entry.width) // mmap.PAGESIZE * mmap.PAGESIZE
        length = entry.start + min(stop, entry.size) * entry.width - first
        if mapped is not None and length > 0:
            mapped.madvise(mmap.MADV_WILLNEED, first, length)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give a Hugging Face folder with config.json and safetensors")
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        return _shards(folder)
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise ModelError(f"{folder}: {len(found)} safetensors files and no {INDEX} that says how they belong together")
    if any(path for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind)):
        raise ModelError(
            f"{folder}: holds pickled weights only, which cuvee never opens; convert them to safetensors "
            "(most hubs offer the same model in safetensors)"
        )
    raise ModelError(f"{folder}: holds no *.safetensors")


def _listed(folder: Path) -> dict[str, str]:
    """Return which file of a folder holds each tensor, as its index says."""
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / INDEX}: cannot be read ({error}); copy the model again") from None


def _shards(folder: Path) -> list[Path]:
    listed = _listed(folder)
    names = sorted(set(listed.values()))
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{folder / INDEX}: names {name}, which lies outside the folder")
        if not (folder / name).is_file():
            tensor = next(key for key, file in listed.items() if file == name)
            raise ModelError(f"{folder}: shard {name} is missing, with {tensor}; copy the model again")
    return [folder / name for name in names]


def _header(path: Path, number: int) -> Iterator[Entry]:
    """Yield the tensors of one file, after checking that all their bytes are there."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ModelError(f"{path}: is cut short or no safetensors file; copy the model again")
        try:
            header = json.loads(stream.read(length))
            listed = {name: facts for name, facts in header.items() if name != "__metadata__"}
            found = [
                (name, str(f["dtype"]), tuple(map(int, f["shape"])), *map(int, f["data_offsets"]))
                for name, f in listed.items()
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path}: its header cannot be read ({error}); copy the model again") from None
    for name, dtype, shape, first, last in sorted(found, key=lambda one: one[3]):
        if dtype not in DTYPES:
            raise ModelError(f"{path}: tensor {name} is {dtype}; merging needs full-precision weights")
        if last - first != math.prod(shape) * DTYPES[dtype].itemsize or first < 0:
            raise ModelError(f"{path}: tensor {name} has {last - first} bytes, not those of {dtype} {list(shape)}")
        if 8 + length + last > size:
            raise ModelError(f"{path}: is cut short within tensor {name}; copy the model again")
        yield Entry(name, dtype, shape, number, 8 + length + first)


def _map(path: Path) -> tuple[mmap.mmap | None, Tensor]:
    with path.open("rb") as stream:
        if path.stat().st_size == 0:
            return None, torch.empty(0, dtype=torch.uint8)
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():  # torch warns that the mapping cannot be written, which is meant
        warnings.simplefilter("ignore", UserWarning)
        return mapped, torch.frombuffer(mapped, dtype=torch.uint8)


def config(folder: Path) -> dict[str, Any]:
    """Return a model's config.json.

    Raises:
        ModelError: there is none, it cannot be read, or the model is quantised.
    """
    path = folder / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{folder}: {_no_model(folder)}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); copy the model again") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path}: holds no settings; copy the model again")
    if data.get("quantization_config"):
        raise ModelError(
            f"{folder}: is quantised; merging needs full-precision weights: take the unquantised model, or dequantise "
            "it once and save it"
        )
    return data


def _no_model(folder: Path) -> str:
    """Return why a folder without config.json cannot be taken for a model, and what to do."""
    if not folder.is_dir():
        return (
            "no such folder; name a Hugging Face folder, builtin:tiny, or a stage such as train-3f9a1c20; a model of a "
            "hub is fetched first (`hf download NAME --local-dir DIR`)"
        )
    if (folder / "adapter_config.json").is_file():
        return (
            "is a LoRA adapter and no whole model; adapters are merged with lora_mean_of_products or "
            "lora_product_of_means, folded into --base BASE where that is given"
        )
    return "has no config.json, so it is no Hugging Face model folder"
