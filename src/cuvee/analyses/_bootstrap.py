"""Bootstrap over items: means and ratios of the same resamples, widened for few items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cuvee.analyses._chance import CELLS, Floats, special


def resampled_means(columns: Floats, weights: Floats, resamples: int, seed: Sequence[int]) -> Floats:
    """Return bootstrap draws of the weighted mean of each column, items resampled with replacement.

    Deviations from the mean are widened by sqrt(n / (n - 1)) t / z, so that percentiles of the draws keep
    their level when items are few (Hesterberg 2015).

    Args:
        columns: one score an item and column, (n, columns).
        weights: (n,).
        resamples: number of draws.
        seed: from `stream`; equal seeds give equal draws.

    Returns:
        Draws, (resamples, columns).
    """
    n = len(weights)
    means = weights @ columns / weights.sum()
    if n < 2:  # one item says nothing about chance; as wide as can be said is not at all
        return np.full((resamples, columns.shape[1]), np.nan)
    stacked = np.column_stack([weights[:, None] * columns, weights])
    sums = _resampled_sums(stacked, resamples, seed)
    draws = sums[:, :-1] / np.maximum(sums[:, -1:], np.finfo(float).tiny)
    return np.asarray(means + _wider(n) * (draws - means), dtype=np.float64)


def resampled_ratios(sums: Floats, weights: Floats, resamples: int, seed: Sequence[int]) -> Floats:
    """Return bootstrap draws of the ratio of two columns' sums, for many pairs at once and from the same resamples.

    As `resampled_means`, for means with other weights in each group of columns.

    Args:
        sums: one value an item and column, (n, groups, columns).
        weights: of each item in each group, (n, groups).
        resamples: number of draws.
        seed: from `stream`.

    Returns:
        Draws, (resamples, groups, columns); NaN where n < 2 or a group has no weight.
    """
    n, groups, columns = sums.shape
    if n < 2:
        return np.full((resamples, groups, columns), np.nan)
    stacked = np.concatenate([sums, weights[:, :, None]], axis=2).reshape(n, -1)
    drawn = _resampled_sums(stacked, resamples, seed).reshape(resamples, groups, columns + 1)
    with np.errstate(invalid="ignore"):
        draws = drawn[:, :, :-1] / drawn[:, :, -1:]
        means = sums.sum(axis=0) / weights.sum(axis=0)[:, None]
    return np.asarray(means + _wider(n) * (draws - means), dtype=np.float64)


def _wider(n: int) -> float:
    """Return what deviations of n items' means are widened by."""
    return float(np.sqrt(n / (n - 1)) * special().stdtrit(n - 1, 0.975) / special().ndtri(0.975))


def _resampled_sums(columns: Floats, resamples: int, seed: Sequence[int]) -> Floats:
    """Return each column's sum over resampled items, (resamples, columns)."""
    generator, n = np.random.default_rng(seed), len(columns)
    step = max(1, CELLS // n)
    parts = [_counts(generator, min(step, resamples - start), n) @ columns for start in range(0, resamples, step)]
    return np.concatenate(parts)


def _counts(generator: np.random.Generator, draws: int, n: int) -> Floats:
    """How often each item falls into each resample, (draws, n)."""
    picks = generator.integers(0, n, size=(draws, n))
    picks += np.arange(draws)[:, None] * n
    return np.bincount(picks.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def draws_interval(draws: Floats) -> tuple[float, float, float]:
    """Return (low, high, se) of a difference from its bootstrap draws: percentiles and spread."""
    if np.isnan(draws).any():
        return float("-inf"), float("inf"), float("inf")
    low, high = (float(end) for end in np.quantile(draws, [0.025, 0.975]))
    return low, high, float(draws.std(ddof=1))
