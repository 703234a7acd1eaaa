"""Random choices that hang on (seed, purpose, example id, occurrence) and on nothing else.

The same row gets the same rank on any number of workers, in any file order, under any source name.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction


def rank(seed: int, purpose: str, row: bytes, occurrence: int = 0) -> int:
    """Return a uniform 64-bit integer for one row and one purpose.

    Args:
        seed: the recipe's seed.
        purpose: what the choice is for, such as ``subset`` or ``order``.
        row: the example id or prompt key, raw bytes.
        occurrence: number of the copy among equal rows.
    """
    head = f"{seed}\x00{purpose}\x00{occurrence}\x00".encode()
    return int.from_bytes(hashlib.blake2b(head + row, digest_size=8).digest(), "big")


def below(seed: int, purpose: str, row: bytes, fraction: Fraction) -> bool:
    """Return whether the row's uniform draw is below `fraction`; growing the fraction only adds rows."""
    return rank(seed, purpose, row) * fraction.denominator < fraction.numerator << 64


def stream(seed: int, purpose: str) -> int:
    """Return a 63-bit seed for a library's own generator (torch, numpy)."""
    return rank(seed, purpose, b"") >> 1
