"""Exact search for similar sets without comparing all pairs: the prefix filter.

Two sets with Jaccard similarity >= t share an element among the rarest |x| - ceil(t |x|) + 1 of each, whatever the
order that says what is rare, as long as it is one order for all sets (Chaudhuri, Ganti and Kaushik, "A Primitive
Operator for Similarity Joins", ICDE 2006; Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity Search", WWW
2007). Only sets that meet in such a prefix, and whose sizes allow t, are compared; none is missed, which hashing into
bands (MinHash, LSH) cannot promise.

An element's key is (rough frequency, 44 bits of its hash). Elements with equal keys count as one here, which can add
a comparison and never loses one.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee.data.shingles import BITS, Bags, Hashes

_HASH_BITS = 44
_COUNTERS = 1 << 25


class Frequencies:
    """Roughly how often each element was seen: one row of a count-min sketch, 128 MiB."""

    def __init__(self) -> None:
        self.counts = np.zeros(_COUNTERS, dtype=np.uint32)

    def add(self, hashes: Hashes) -> None:
        """Count elements."""
        np.add.at(self.counts, self._places(hashes), np.uint32(1))

    def of(self, hashes: Hashes) -> NDArray[np.uint32]:
        """Return counts, each at least the true one."""
        found: NDArray[np.uint32] = self.counts[self._places(hashes)]
        return found

    def _places(self, hashes: Hashes) -> NDArray[np.int64]:
        return (hashes & np.uint64(_COUNTERS - 1)).astype(np.int64)


def least(sizes: NDArray[np.int64], threshold: Fraction) -> NDArray[np.int64]:
    """Return ceil(threshold * size): how many elements a set must at least share, and its partner have."""
    return -(-sizes * threshold.numerator // threshold.denominator)


def possible(
    met: NDArray[np.int64], size: np.int64 | NDArray[np.int64], others: NDArray[np.int64], threshold: Fraction
) -> NDArray[np.bool_]:
    """Return whether pairs of sets can still have the similarity.

    A pair that has it shares at least ceil(t / (1 + t) (|x| + |y|)) elements, of which at most ceil(t s) - 1 lie behind
    the prefix that ends first, s being the size of its set (the argument of Xiao et al., "Efficient Similarity Joins
    for Near Duplicate Detection", WWW 2008).

    Args:
        met: how many keys the two prefixes share, or more.
        size: of one set.
        others: of the other.
        threshold: the Jaccard similarity t.
    """
    smaller, larger = np.minimum(size, others), np.maximum(size, others)
    both = least(size + others, threshold / (1 + threshold))
    found: NDArray[np.bool_] = (smaller >= least(larger, threshold)) & (met > both - least(larger, threshold))
    return found


def keys(bags: Bags, counts: NDArray[Any], threshold: Fraction | None) -> tuple[NDArray[np.int64], Hashes]:
    """Return (row, key) of the elements in the rows' prefixes.

    Args:
        bags: sets of at most `shingles.ROWS` rows.
        counts: how often each of ``bags.hashes`` was seen, (len(bags.hashes),); any function of the hash will do.
        threshold: in (0, 1]; None takes all elements, not the prefix only.
    """
    sizes = bags.sizes
    rough = np.minimum(8 * np.log2(counts.astype(np.float64) + 1), 255).astype(np.uint64)
    packed = (rough << np.uint64(_HASH_BITS)) | (bags.hashes >> np.uint64(BITS - _HASH_BITS))
    packed |= bags.owners().astype(np.uint64) << np.uint64(BITS)
    if threshold is not None:
        packed.sort()
        lengths = sizes - least(sizes, threshold) + 1
        place = np.arange(len(packed)) - np.repeat(bags.ends - sizes, sizes)
        packed = packed[place < np.repeat(lengths, sizes)]
    return (packed >> np.uint64(BITS)).astype(np.int64), packed & np.uint64((1 << BITS) - 1)


def shared(one: Hashes, others: Sequence[Hashes]) -> NDArray[np.int64]:
    """Return how many elements each of `others` shares with `one`; all ascending, without repeats, none empty."""
    joined = np.concatenate(others)
    at = np.searchsorted(one, joined)
    equal = one[np.minimum(at, len(one) - 1)] == joined
    starts = np.concatenate([[0], np.cumsum([len(other) for other in others])[:-1]])
    return np.add.reduceat(equal, starts, dtype=np.int64)
