"""Ranks of many rows at once: `seeds.rank` and `seeds.below` for arrays of keys.

ranks(0, "subset", keys, occurrences)  # (n,) uint64, the same numbers as seeds.rank, row by row
"""

from __future__ import annotations

from fractions import Fraction
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint8]
"""Example ids or prompt keys as raw bytes, (n, 16)."""

Ints = NDArray[np.integer[Any]]
"""Whole numbers of any width: columns keep the width of their file."""

CHUNK = 1 << 16
"""Rows that are hashed at a time; memory holds the bytes objects of so many."""


def ranks(seed: int, purpose: str, keys: Keys, numbers: Ints | None = None) -> NDArray[np.uint64]:
    """Return `seeds.rank` of every row.

    Args:
        seed: the recipe's seed.
        purpose: what the choice is for.
        keys: (n, 16).
        numbers: occurrence or copy number of each row, (n,); zeros when None.
    """
    found = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = _ranks(seed, purpose, keys[part], None if numbers is None else numbers[part])
    return found


def _ranks(seed: int, purpose: str, keys: Keys, numbers: Ints | None) -> NDArray[np.uint64]:
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


def order(found: NDArray[np.uint64], keys: Keys, numbers: Ints) -> NDArray[np.int64]:
    """Return the positions in ascending rank; ties go by key and number, never by position."""
    plain = np.argsort(found, kind="stable")
    ordered = found[plain]
    if not (ordered[1:] == ordered[:-1]).any():
        return plain.astype(np.int64)
    halves = np.ascontiguousarray(keys).view(">u8").reshape(len(keys), 2) if len(keys) else np.zeros((0, 2))
    return np.lexsort((numbers, halves[:, 1], halves[:, 0], found)).astype(np.int64)


def repeated(keys: Keys) -> NDArray[np.int64]:
    """Return the positions of all rows whose key another row has too, key by key, ascending for each key."""
    if len(keys) < 2:
        return np.zeros(0, np.int64)
    heads, tails = np.ascontiguousarray(keys).view(np.uint64).T
    # Keys are uniform, so nearly all rows differ in the first half already.
    order = np.argsort(heads, kind="stable")
    same = heads[order[1:]] == heads[order[:-1]]
    shared = np.append(same, False) | np.append(False, same)
    rows = np.sort(order[shared])
    rows = rows[np.lexsort((rows, tails[rows], heads[rows]))]
    return rows.astype(np.int64)


def firsts(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which entries of sorted columns differ from the one before, (n,)."""
    changed = np.zeros(len(columns[0]), np.bool_)
    changed[:1] = True
    for column in columns:
        differ = column[1:] != column[:-1]
        changed[1:] |= differ.any(axis=1) if differ.ndim > 1 else differ
    return changed


def _head(seed: int, purpose: str, number: int) -> bytes:
    return f"{seed}\x00{purpose}\x00{number}\x00".encode()


def _as_bytes(keys: Keys) -> list[bytes]:
    packed, width = np.ascontiguousarray(keys).tobytes(), keys.shape[1]
    return [packed[at : at + width] for at in range(0, len(packed), width)]
