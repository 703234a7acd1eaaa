"""Sign flips over several abilities: is the mean over abilities of two models' differences zero?

    T = sum_a D_a / A       D_a the weighted mean difference on ability a of A
    V = sum_a V_a / A^2     V_a the squared standard error of D_a, from deviations about D_a itself
    p = chance of |T*| / sqrt(V*) >= |T| / sqrt(V), T* and V* of the same items, each with either sign by chance 1/2

Without V the flips would hold large differences that cancel (far ahead on one ability, far behind on another) for
noise, and see next to nothing. With it the p is exact where each item's difference could as easily have had the other
sign, and right for many items where the overall difference alone is zero (Chung and Romano 2013 for permutations of
groups). On one ability whose items weigh the same it is the p of `_flips`: |T*| / sqrt(V*) grows with |T*|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuvee.analyses._chance import CELLS, MOST_DRAWS, RESAMPLES, Floats, special
from cuvee.analyses._flips import ENUMERATED, fair_coins, pieces, random_signs, signs_of, too_rough

_EQUAL = 1e-9
"""Relative difference below which two statistics are one: rounding must not part what is equal."""

_ENOUGH = 400
"""Draws as far out as what was seen, after which no more are needed: they give p to a twentieth."""

_HOPELESS = 1e-5
"""A p by Student's t of which `MOST_DRAWS` would not show one draw."""

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Stratum:
    """One ability: the models' scores on the same items.

    Args:
        scores: (items, models).
        weights: of each item in the mean, (items,).
        seed: of the items, from `stream`.
    """

    scores: Floats
    weights: Floats
    seed: Sequence[int]


@dataclass(frozen=True, eq=False)
class _Part:
    """What each item of one ability adds to the overall mean of each model, and its share of the ability's weight."""

    adds: Floats
    shares: Floats
    seed: Sequence[int]

    def moves(self, pairs: Sequence[Pair]) -> Floats:
        """Return what each item adds to each pair's difference, (items, pairs)."""
        news, olds = np.transpose(pairs)
        return np.asarray(self.adds[:, news] - self.adds[:, olds], dtype=np.float64)

    def variance(self, squares: Floats, total: Floats, cross: Floats) -> Floats:
        """Return this ability's part of V, for moves m and shares u of n items: n / (n - 1) sum (m - u sum m)^2.

        Args:
            squares: sum of m^2; signs do not change it.
            total: sum of m under the signs.
            cross: sum of m u under the signs.
        """
        n = len(self.shares)
        if n < 2:  # a single item has no deviation: its own size stands for it
            return np.broadcast_to(squares, total.shape)
        spread = squares - 2 * total * cross + total**2 * float(self.shares @ self.shares)
        return np.where(spread > 1e-12 * squares, n / (n - 1) * spread, 0.0)

    def seen(self, moves: Floats) -> tuple[Floats, Floats]:
        """Return T and V of this ability as they are."""
        total = moves.sum(axis=0)
        return total, self.variance((moves**2).sum(axis=0), total, self.shares @ moves)


def studentised_flips(strata: Sequence[Stratum], pairs: Sequence[Pair], draws: int) -> list[float]:
    """Return the two-sided p of each pair of models.

    Exact where all signs can be enumerated, else (count + 1) / (drawn + 1) over random signs, the same for every pair;
    what the most draws cannot tell from 0 is Student's t with Welch's and Satterthwaite's degrees of freedom.

    Args:
        strata: one an ability, all of the same models; each counts as one of all.
        pairs: columns of the two models.
        draws: random signs, `RESAMPLES` at least, see `draws_for`; fewer for a pair once `_ENOUGH` were as far out.
    """
    parts = []
    for each in strata:
        shares = each.weights / each.weights.sum()
        parts.append(_Part(shares[:, None] * each.scores / len(strata), shares, each.seed))
    found = {index: exact for index, pair in enumerate(pairs) if (exact := _enumerated(parts, pair)) is not None}
    draws = max(draws, RESAMPLES)
    left = [index for index in range(len(pairs)) if index not in found]
    if left:
        seen = _as_they_are(parts, [pairs[index] for index in left])
        tails = dict(zip(left, _student(parts, seen), strict=True))
        if draws >= MOST_DRAWS:
            found.update({index: tail for index, tail in tails.items() if tail < _HOPELESS})
        places = [place for place, index in enumerate(left) if index not in found]
        drawn = [left[place] for place in places]
        found.update(zip(drawn, _drawn(parts, seen.some(places), draws), strict=True))
        found.update({index: tails[index] for index in too_rough(found, drawn, draws)})
    return [found[index] for index in range(len(pairs))]


@dataclass(frozen=True, eq=False)
class _Seen:
    """Pairs as they are, before any sign is flipped.

    Args:
        pairs: columns of the two models, (pairs, 2).
        totals, variances, squares: T, V and the sum of m^2 of each ability, (abilities, pairs).
        moving: items on which the two models differ, (pairs,).
    """

    pairs: NDArray[np.int64]
    totals: Floats
    variances: Floats
    squares: Floats
    moving: NDArray[np.int64]

    def some(self, places: Sequence[int]) -> _Seen:
        """Return the pairs at some places."""
        at = np.asarray(places, dtype=np.int64)
        return _Seen(self.pairs[at], self.totals[:, at], self.variances[:, at], self.squares[:, at], self.moving[at])


def _as_they_are(parts: Sequence[_Part], pairs: Sequence[Pair]) -> _Seen:
    """Return what is seen of pairs, with the moves of as many of them at once as `CELLS` holds."""
    size = (len(parts), len(pairs))
    totals, variances, squares = np.zeros((3, *size))
    moving = np.zeros(size, dtype=np.int64)
    for row, part in enumerate(parts):
        step = max(1, CELLS // len(part.shares))
        for start in range(0, len(pairs), step):
            some = slice(start, start + step)
            moves = part.moves(pairs[some])
            totals[row, some], variances[row, some] = part.seen(moves)
            squares[row, some] = (moves**2).sum(axis=0)
            moving[row, some] = np.count_nonzero(moves, axis=0)
    return _Seen(np.asarray(pairs, dtype=np.int64), totals, variances, squares, moving.sum(axis=0))


def _as_far(total: Floats, variance: Floats, seen: Floats, seen_variance: Floats) -> NDArray[np.bool_]:
    """Return where |T*| / sqrt(V*) >= |T| / sqrt(V); by products, since a variance may be 0."""
    return np.asarray(total**2 * seen_variance >= (1 - _EQUAL) * seen**2 * variance)


# ----------------------------------------------------------------------------------------------- all signs


def _enumerated(parts: Sequence[_Part], pair: Pair) -> float | None:
    """Return the exact p of one pair; None where there are too many sums."""
    moves = [part.moves([pair])[:, 0] for part in parts]
    if any(map(_too_many_sizes, moves)):
        return None
    groups = [_groups(own, part.shares) for own, part in zip(moves, parts, strict=True)]
    if sum(float(np.log2(counts + 1.0).sum()) for _, _, counts in groups) > ENUMERATED:
        return None
    total, variance, chances = np.zeros(1), np.zeros(1), np.ones(1)
    for part, own, group in zip(parts, moves, groups, strict=True):
        sums, crosses, own_chances = _all_sums(*group)
        total = np.add.outer(total, sums).ravel()
        variance = np.add.outer(variance, part.variance(np.asarray(own @ own), sums, crosses)).ravel()
        chances = np.outer(chances, own_chances).ravel()
    seen, seen_variance = np.sum([part.seen(own) for part, own in zip(parts, moves, strict=True)], axis=0)
    return min(1.0, float(chances[_as_far(total, variance, seen, seen_variance)].sum()))


def _too_many_sizes(moves: Floats) -> bool:
    """Return whether the first items alone have more sizes than can be enumerated; sorting all of them takes longer."""
    sizes = np.abs(moves)
    largest = sizes.max(initial=0.0)
    first = sizes[sizes > 1e-12 * largest][: 2 * ENUMERATED]
    return len(set(np.round(first / largest, 12).tolist())) > ENUMERATED


def _groups(moves: Floats, shares: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return size, share and count of items that move alike; items that do not move change nothing."""
    kept = np.abs(moves) > 1e-12 * np.abs(moves).max(initial=0.0)
    both = np.column_stack([np.abs(moves[kept]), shares[kept]])
    alike = np.round(both / both.max(axis=0, initial=np.finfo(float).tiny), 12)  # equal sizes that rounding parted
    _, first, counts = np.unique(alike, axis=0, return_index=True, return_counts=True)
    return both[first, 0], both[first, 1], counts


def _all_sums(sizes: Floats, shares: Floats, counts: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Return sum of m, sum of m u and chance of every outcome of the signs of one ability."""
    sums, crosses, chances = np.zeros(1), np.zeros(1), np.ones(1)
    for size, share, count in zip(sizes, shares, counts.tolist(), strict=True):
        steps = size * (2.0 * np.arange(count + 1) - count)
        sums = np.add.outer(sums, steps).ravel()
        crosses = np.add.outer(crosses, share * steps).ravel()
        chances = np.outer(chances, fair_coins(count)).ravel()
    return sums, crosses, chances


# -------------------------------------------------------------------------------------- random signs, tails


def _drawn(parts: Sequence[_Part], seen: _Seen, draws: int) -> list[float]:
    """Return the p of each pair over random signs of items."""
    sizes = pieces(draws, max(len(part.shares) for part in parts))
    width, number = max(1, CELLS // sizes[0]), len(seen.pairs)
    blocks = [_Block(parts, seen.some(range(number)[start : start + width])) for start in range(0, number, width)]
    generators = [signs_of(part.seed) for part in parts]
    for size in sizes:
        still = [block for block in blocks if (block.beyond < _ENOUGH).any()]
        if not still:
            break
        sums = []
        for part, generator in zip(parts, generators, strict=True):
            signs = random_signs(generator, size, len(part.shares))
            sums.append((signs @ part.adds, signs @ (part.shares[:, None] * part.adds)))
        for block in still:
            block.count(sums, size)
    return [float(p) for block in blocks for p in (block.beyond + 1) / (block.drawn + 1)]


class _Block:
    """Pairs that are counted at once, those still open."""

    def __init__(self, parts: Sequence[_Part], seen: _Seen) -> None:
        self.parts, self.squares = parts, seen.squares
        self.news, self.olds = seen.pairs.T
        self.seen, self.seen_variance = seen.totals.sum(axis=0), seen.variances.sum(axis=0)
        self.beyond, self.drawn = np.zeros((2, len(seen.pairs)), dtype=np.int64)

    def count(self, sums: Sequence[tuple[Floats, Floats]], draws: int) -> None:
        """Count the draws that are as far out, from every part's sums of m and of m u by model, (draws, models)."""
        at = np.flatnonzero(self.beyond < _ENOUGH)
        news, olds = self.news[at], self.olds[at]
        total, variance = np.zeros((2, draws, len(at)))
        for part, squares, (adds, crosses) in zip(self.parts, self.squares, sums, strict=True):
            own = adds[:, news] - adds[:, olds]
            total += own
            variance += part.variance(squares[at], own, crosses[:, news] - crosses[:, olds])
        self.beyond[at] += _as_far(total, variance, self.seen[at], self.seen_variance[at]).sum(axis=0)
        self.drawn[at] += draws


def _student(parts: Sequence[_Part], seen: _Seen) -> list[float]:
    """Return the p of each pair's T / sqrt(V) by Student's t, at least the chance that all signs are alike.

    Sums of items with random signs, divided by their own size, have tails no heavier than the normal distribution's
    (Hoeffding 1963), however a few large items stand out.
    """
    freedom = np.array([[max(1, len(part.shares) - 1)] for part in parts])
    total, variance = seen.totals.sum(axis=0), seen.variances.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = np.nan_to_num(variance**2 / (seen.variances**2 / freedom).sum(axis=0), nan=float(freedom.sum()))
        p = 2 * special().stdtr(degrees, -np.abs(total) / np.sqrt(variance))
    alike = 2.0 ** (1 - np.minimum(seen.moving, 1000))
    return [float(each) for each in np.maximum(np.nan_to_num(p, nan=1.0), alike)]
