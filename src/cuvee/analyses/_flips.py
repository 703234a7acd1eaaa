"""Sign flips (Fisher 1935): p of a difference when each item's own could as easily have had the other sign.

    T = sum_i m_i     m_i what item i adds to the difference of two means
    p = chance of |sum_i e_i m_i| >= |T|, each sign e_i = -1 or +1 with chance 1/2

Exact where all sums can be enumerated, else from random signs; p that draws cannot tell from 0 from a saddlepoint.
Over several abilities see `_studentised`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cuvee.analyses._chance import CELLS, MOST_DRAWS, RESAMPLES, Floats, special

FEW_BEYOND = 20
"""Draws beyond the observed difference below which a p from `MOST_DRAWS` is too rough for a correction."""

ENUMERATED = 17
"""Binary logarithm of how many sums of signed differences are all taken: always with 16 nonzero differences, and
with far more where many are of equal size, as differences of 0/1 scores are."""


def sign_flip(columns: Floats, pairs: Sequence[tuple[int, int]], draws: int, seed: Sequence[int]) -> list[float]:
    """Return the two-sided p of each pair of models.

    Args:
        columns: what each item adds to each model's mean, (items, models).
        pairs: columns of the two models.
        draws: random signs where enumeration is too much, `RESAMPLES` at least; see `draws_for`. Their p is
            (count + 1) / (draws + 1), over the same signs for every pair.
        seed: of the items, from `stream`.
    """
    found: dict[int, float] = {}
    for index, (new, old) in enumerate(pairs):
        exact = _enumerated(columns[:, new] - columns[:, old])
        if exact is not None:
            found[index] = exact
    left = [index for index in range(len(pairs)) if index not in found]
    if left:
        draws = max(draws, RESAMPLES)
        found.update(zip(left, _drawn(columns, [pairs[index] for index in left], draws, seed), strict=True))
        rough = too_rough(found, left, draws)
        for start in range(0, len(rough), 128):
            members = rough[start : start + 128]
            moves = np.stack([columns[:, pairs[index][0]] - columns[:, pairs[index][1]] for index in members])
            found.update(zip(members, _tails(moves).tolist(), strict=True))
    return [found[index] for index in range(len(pairs))]


def too_rough(p_values: dict[int, float], drawn: Sequence[int], draws: int) -> list[int]:
    """Return which of the drawn p are too small to be told by the most draws there are."""
    return [index for index in drawn if p_values[index] <= FEW_BEYOND / (draws + 1)] if draws >= MOST_DRAWS else []


def _enumerated(moves: Floats) -> float | None:
    """Return the exact p of the sum of `moves` under random signs; None where there are too many sums.

    Moves of equal size are one group, whose sum has a binomial distribution: for 0/1 scores of one measure
    this is McNemar's test.
    """
    largest = float(np.abs(moves).max())
    if largest == 0:
        return 1.0
    units = np.round(moves / largest, 12)  # equal sizes that rounding made unequal
    units = units[units != 0]
    sizes, counts = np.unique(np.abs(units), return_counts=True)
    if float(np.log2(counts + 1.0).sum()) > ENUMERATED:
        return None
    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, counts.tolist(), strict=True):
        sums = np.add.outer(sums, size * (2.0 * np.arange(count + 1) - count)).ravel()
        chances = np.outer(chances, fair_coins(count)).ravel()
    seen = abs(float(units.sum()))
    return min(1.0, float(chances[np.abs(sums) >= seen - 1e-9].sum()))


def fair_coins(n: int) -> Floats:
    """Return the chance of 0..n heads in n throws, (n + 1,)."""
    gammaln, heads = special().gammaln, np.arange(n + 1)
    log = gammaln(n + 1) - gammaln(heads + 1) - gammaln(n - heads + 1) - n * np.log(2)
    return np.asarray(np.exp(log), dtype=np.float64)


def _drawn(columns: Floats, pairs: Sequence[tuple[int, int]], draws: int, seed: Sequence[int]) -> list[float]:
    """Return the p of each pair over random signs of items."""
    news, olds = (np.array(side) for side in zip(*pairs, strict=True))
    totals = columns.sum(axis=0)
    # Rounding must not part sums that are equal; the smallest step of 0/1 scores is far larger.
    nought = 1e-12 * float(np.abs(columns).sum(axis=0).max())
    seen = np.abs(totals[news] - totals[olds]) - nought
    beyond = np.zeros(len(pairs), dtype=np.int64)
    generator = signs_of(seed)
    for size in pieces(draws, len(columns)):
        sums = random_signs(generator, size, len(columns)) @ columns
        beyond += (np.abs(sums[:, news] - sums[:, olds]) >= seen).sum(axis=0)
    return [(int(count) + 1) / (draws + 1) for count in beyond]


def signs_of(seed: Sequence[int]) -> np.random.Generator:
    """Return the generator of an item set's signs: another stream than the bootstrap's."""
    return np.random.default_rng([*seed, 1])


def pieces(draws: int, most_items: int) -> list[int]:
    """Return the sizes of pieces to draw in: the same whatever is compared."""
    step = min(1024, max(1, CELLS // most_items))
    return [min(step, draws - start) for start in range(0, draws, step)]


def random_signs(generator: np.random.Generator, draws: int, items: int) -> Floats:
    """Return -1 or +1 for each item, (draws, items)."""
    return np.asarray(2.0 * generator.integers(0, 2, size=(draws, items), dtype=np.int8) - 1.0, dtype=np.float64)


def _tails(moves: Floats) -> Floats:
    """Return the two-sided p of the sum of each row of moves under random signs, by Lugannani and Rice (1980).

    With K(t) = sum_i log cosh(t m_i) and K'(t) = s: w = sqrt(2 (t s - K)), u = sinh(t h) / h sqrt(K''), and the tail is
    1 - Phi(w) + phi(w) (1 / u - 1 / w). Sums of equal moves come in steps of twice a move, so s is h, the smallest
    move, below the sum (Daniels 1987, his second correction; for h near 0 it is none). Far out the relative error is a
    few per cent; near the middle draws are used.

    Args:
        moves: what each item adds to the difference, (pairs, items).
    """
    moves = moves / np.abs(moves).max(axis=1, keepdims=True)
    seen, most = np.abs(moves.sum(axis=1)), np.abs(moves).sum(axis=1)
    extreme = seen > (1 - 1e-9) * most  # all in one direction: the chance is known exactly
    least = np.where(moves == 0, np.inf, np.abs(moves)).min(axis=1)
    seen = np.where(extreme, 0.5 * most, np.maximum(seen - least, 0.1 * seen))
    at = seen / (moves**2).sum(axis=1)
    for _ in range(60):
        tanh = np.tanh(at[:, None] * moves)
        step = ((moves * tanh).sum(axis=1) - seen) / (moves**2 * (1 - tanh**2)).sum(axis=1)
        at = np.clip(at - step, 0.5 * at, 2 * at)
        if float(np.abs(step / at).max()) < 1e-9:
            break
    size = np.abs(at[:, None] * moves)
    cumulant = (size + np.log1p(np.exp(-2 * size)) - np.log(2)).sum(axis=1)
    bend = (moves**2 * (1 - np.tanh(size) ** 2)).sum(axis=1)
    w = np.sqrt(2 * np.maximum(at * seen - cumulant, 1e-12))
    u = np.sinh(at * least) / least * np.sqrt(bend)
    density = np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi)
    tail = np.maximum(special().ndtr(-w) + density * (1 / u - 1 / w), np.finfo(float).tiny)
    exact = 0.5 ** np.count_nonzero(moves, axis=1)
    return np.asarray(np.minimum(1.0, 2 * np.where(extreme, exact, tail)), dtype=np.float64)
