"""Random numbers that hang on (seed, purpose, tensor, model, element) and on nothing else.

Piece size, threads and shards do not move them. The elements of a tensor are taken in blocks of 2**16; each block has
a key of its own from `seeds.rank`, and an element's number is a mix of the key and its place in the block: the
finaliser of MurmurHash3 (Appleby, public domain) twice, each time with half of the key.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuvee import seeds

BLOCK = 1 << 16
_FIRST, _SECOND = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def uniform(seed: int, purpose: str, tensor: str, model: int, start: int, count: int) -> Tensor:
    """Return uniform numbers in [0, 1) for the elements [start, start + count) of a tensor, (count,) float32.

    Args:
        seed: the merge's seed.
        purpose: what the numbers are for.
        tensor: the tensor's name.
        model: number of the model they are for; 0 where there is one draw for all.
        start: number of the first element.
        count: how many.
    """
    found = np.empty(count, np.float32)
    places, spare = np.arange(BLOCK, dtype=np.uint32), np.empty(BLOCK, np.uint32)
    for block in range(start // BLOCK, -(-(start + count) // BLOCK)):
        low, high = max(start, block * BLOCK), min(start + count, (block + 1) * BLOCK)
        key = seeds.rank(seed, f"{purpose} {model}", tensor.encode(), block)
        part = found[low - start : high - start]
        values = part.view(np.uint32)
        values[:] = places[low - block * BLOCK : high - block * BLOCK]
        _mix(values, key, spare[: len(values)])
        # The upper 24 bits are what float32 holds exactly.
        np.right_shift(values, np.uint32(8), out=values)
        np.multiply(values, np.float32(2**-24), out=part, casting="same_kind")
    return torch.from_numpy(found)


def _mix(values: NDArray[np.uint32], key: int, spare: NDArray[np.uint32]) -> None:
    """Mix in place with both halves of a 64-bit key; `spare` is scratch of the same size."""
    for half in (key & 0xFFFFFFFF, key >> 32):
        np.add(values, np.uint32(half), out=values)
        for shift, factor in ((16, _FIRST), (13, _SECOND), (16, None)):
            np.right_shift(values, np.uint32(shift), out=spare)
            np.bitwise_xor(values, spare, out=values)
            if factor is not None:
                np.multiply(values, factor, out=values)
