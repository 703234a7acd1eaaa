"""Attention of all segments of a flat row in one call, on a GPU: torch's flash attention over variable lengths.

It needs CUDA, bfloat16 or float16 and torch's `varlen_attn`; where a check finds that it differs or fails, it
is left for the rest of the process.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

_left = False

WANTED = ("window_size", "scale", "enable_gqa")
"""Arguments that torch's function has had only since it is past being a prototype."""


@cache
def function() -> Any:
    """Return torch's function, or None where torch has none that we can call."""
    try:
        found = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    return found if set(WANTED) <= set(inspect.signature(found).parameters) else None


def leave() -> bool:
    """Use it no more in this process; return whether it was in use."""
    global _left
    before, _left = not _left and function() is not None and torch.cuda.is_available(), True
    return before


def fits(query: Tensor, value: Tensor, dropout: float, softcap: float | None) -> bool:
    """Return whether the kernel can do what a layer asks for; shapes as in `attention.segment_attention`."""
    size = query.shape[-1]
    return (
        query.device.type == "cuda"
        and not _left
        and query.dtype in (torch.bfloat16, torch.float16)
        and not dropout
        and softcap is None
        and size == value.shape[-1]
        and size % 8 == 0
        and size <= 256
        and function() is not None
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
    """Return causal attention inside each segment, (1, T, heads, size); arguments as in `segment_attention`.

    `softcap` is always None, see `fits`.
    """
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    ends, longest = _ends(tuple(lengths), query.device), max(lengths)
    found: Tensor = function()(
        q,
        k,
        v,
        ends,
        ends,
        longest,
        longest,
        scale=scaling,
        # A token sees itself besides those to its left.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found[None]


@lru_cache(maxsize=8)
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return where the segments end, from 0, (n + 1,) int32: all layers of a pass ask for the same."""
    counts = torch.tensor((0, *lengths), dtype=torch.int32)
    return counts.cumsum(0, dtype=torch.int32).to(device)
