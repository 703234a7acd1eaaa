"""Ranks of many rows at once: `seeds.rank` and `seeds.below` for arrays of keys.

ranks(0, "subset", keys, occurrences)  # (n,) uint64, the same numbers as seeds.rank, row by row
"""

from __future__ import annotations

from fractions import Fraction
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint8]
"""Example ids or prompt keys as raw bytes, (n, 16)."""


def ranks(seed: int, purpose: str, keys: Keys, numbers: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
    """Return `seeds.rank` of every row.

    Args:
        seed: the recipe's seed.
        purpose: what the choice is for.
        keys: (n, 16).
        numbers: occurrence or copy number of each row, (n,); zeros when None.
    """
    rows = _as_bytes(keys)
    if numbers is None or not numbers.any():
        head = _head(seed, purpose, 0)
        packed = b"".join([blake2b(head + row, digest_size=8).digest() for row in rows])
    else:
        heads = {int(number): _head(seed, purpose, int(number)) for number in np.unique(numbers)}
        pairs = zip(rows, numbers.tolist(), strict=True)
        packed = b"".join([blake2b(heads[number] + row, digest_size=8).digest() for row, number in pairs])
    return np.frombuffer(packed, dtype=">u8").astype(np.uint64)


def below(seed: int, purpose: str, keys: Keys, fraction: Fraction) -> NDArray[np.bool_]:
    """Return `seeds.below` of every row, (n,)."""
    limit = -((-fraction.numerator << 64) // fraction.denominator)  # the least integer that is not below
    if limit >= 1 << 64:
        return np.ones(len(keys), dtype=np.bool_)
    if limit <= 0:
        return np.zeros(len(keys), dtype=np.bool_)
    return ranks(seed, purpose, keys) < np.uint64(limit)


def order(found: NDArray[np.uint64], keys: Keys, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions in ascending rank; ties go by key and number, never by position."""
    plain = np.argsort(found, kind="stable")
    ordered = found[plain]
    if not (ordered[1:] == ordered[:-1]).any():
        return plain.astype(np.int64)
    halves = np.ascontiguousarray(keys).view(">u8").reshape(len(keys), 2) if len(keys) else np.zeros((0, 2))
    return np.lexsort((numbers, halves[:, 1], halves[:, 0], found)).astype(np.int64)


def _head(seed: int, purpose: str, number: int) -> bytes:
    return f"{seed}\x00{purpose}\x00{number}\x00".encode()


def _as_bytes(keys: Keys) -> list[bytes]:
    packed, width = np.ascontiguousarray(keys).tobytes(), keys.shape[1]
    return [packed[at : at + width] for at in range(0, len(packed), width)]
