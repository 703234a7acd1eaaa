"""Small model folders made of random numbers: no transformers, no architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cuvee import components
from cuvee.merging import merge
from cuvee.recipe import validate

SHAPES = {
    "embed.weight": (12, 4),
    "layers.0.mlp.weight": (6, 4),
    "layers.1.mlp.weight": (6, 4),
    "layers.1.norm.weight": (4,),
    "norm.weight": (4,),
}
CONFIG = {"model_type": "toy", "architectures": ["Toy"], "vocab_size": 12, "tie_word_embeddings": True}


def tensors(seed: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES, dtype: Any = torch.float32) -> dict[str, Tensor]:
    """Return random tensors."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def near(base: Mapping[str, Tensor], seed: int, size: float = 0.01) -> dict[str, Tensor]:
    """Return tensors a little away from a base's."""
    moved = tensors(seed, {name: tuple(value.shape) for name, value in base.items()})
    return {name: (value.float() + size * moved[name]).to(value.dtype) for name, value in base.items()}


def folder(path: Path, content: Mapping[str, Tensor], vocabulary: list[str] | None = None, **config: Any) -> Path:
    """Write a model folder."""
    path.mkdir(parents=True, exist_ok=True)
    save_file(dict(content), path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    if vocabulary:
        data = {"model": {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(vocabulary)}}}
        (path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder."""
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def method(name: str, **params: Any) -> merge.Method:
    """Return a merger with its parameters."""
    module = components.find("mergers", name)
    return merge.Method(name, module, validate(module.Params, params))


def merged(
    models: list[Path],
    out: Path,
    name: str,
    *,
    base: Path | None = None,
    extras: tuple[Path, ...] = (),
    threads: int = 1,
    shard_bytes: int = merge.SHARD,
    **params: Any,
) -> dict[str, Tensor]:
    """Merge and return the result's tensors."""
    prepared = merge.prepare(merge.Inputs(tuple(models), base, extras), method(name, **params), threads)
    merge.write(prepared, out, shard_bytes=shard_bytes)
    return read(out)
