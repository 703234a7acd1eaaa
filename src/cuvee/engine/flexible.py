"""Attention of all segments of a flat row in one call, on a GPU: torch's flex attention under a mask of blocks.

It stands in where `varlen` cannot: float32, softcapping, large heads, a torch without `varlen_attn`. Which blocks of
keys a block of queries must look at follows from where the segments begin, so no T x T mask is made:

    first block = block of the start of the first query's segment, or of the first key in its window
    last block  = the queries' own

and inside a block the mask says: same segment, not later, inside the window.

Source: Dong et al., Flex Attention, arXiv 2412.05496; the calls are torch's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 128

_left = False


@cache
def _module() -> Any:
    """Return torch's module, or None where torch has none."""
    try:
        return importlib.import_module("torch.nn.attention.flex_attention")
    except ImportError:
        return None


@cache
def _function(kind: str) -> Any:
    """Return torch's function, compiled where the device is a GPU: otherwise it makes all scores."""
    found = _module().flex_attention
    return torch.compile(found, dynamic=True) if kind == "cuda" else found


def leave() -> bool:
    """Use it no more in this process; return whether it was in use."""
    global _left
    before, _left = not _left and _module() is not None and torch.cuda.is_available(), True
    return before


def fits(query: Tensor, value: Tensor, dropout: float, softcap: float | None) -> bool:
    """Return whether the kernel can do what a layer asks for; shapes as in `attention.segment_attention`."""
    return (
        query.device.type == "cuda"
        and not _left
        and not dropout
        and min(query.shape[-1], value.shape[-1]) >= 16
        and _module() is not None
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scaling: float | None,
    window: int | None,
    softcap: float | None = None,
) -> Tensor:
    """Return causal attention inside each segment, (1, T, heads, size); arguments as in `segment_attention`."""
    found: Tensor = _function(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=_mask(tuple(lengths), window, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found.transpose(1, 2)


@lru_cache(maxsize=8)
def _capped(softcap: float) -> Any:
    """Return what flex attention does to each score."""

    def change(score: Tensor, *place: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return change


@lru_cache(maxsize=8)
def _mask(lengths: tuple[int, ...], window: int | None, device: torch.device) -> Any:
    """Return the mask of blocks; all layers of a pass ask for the same."""
    number, low = blocks(lengths, window)
    wanted = torch.arange(number) - low + 1
    # Past the wanted ones the indexes mean nothing.
    indexes = (low[:, None] + torch.arange(number)) % number
    total = sum(lengths)
    # A last block may reach past the row; what lies there is of no segment.
    owner = torch.full((number * BLOCK,), -1, dtype=torch.int32)
    owner[:total] = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))
    owner = owner.to(device)

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        inside = (owner[query] == owner[key]) & (query >= key)
        return inside if window is None else inside & (query - key < window)

    return _module().BlockMask.from_kv_blocks(
        wanted[None, None].to(device, torch.int32),
        indexes[None, None].to(device, torch.int32),
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(total, total),
    )


def blocks(lengths: Sequence[int], window: int | None) -> tuple[int, Tensor]:
    """Return the number of blocks of a row, and of each the first block of keys it must look at, (number,)."""
    counts = torch.tensor(lengths)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    number = -(-int(counts.sum()) // BLOCK)
    first = torch.arange(number) * BLOCK
    low = starts[first]
    if window is not None:
        low = torch.maximum(low, first - window + 1)
    return number, low // BLOCK
