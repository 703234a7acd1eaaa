"""Bootstrap draws of many runs' means on one measure, with items resampled together.

Runs are measured on the same items, so the noise of their means hangs together; a curve through them is known better
than each of its points. Each draw therefore takes one resample of the items for all runs. With several seeds the luck
of a training is added: a normal draw for each run whose variance is pooled over all runs,

    s^2 = mean_r [ var_s(mean_rs) - mean_i var_s(x_rsi) / n ],   at least 0

(the second term is what single items' noise alone does to a mean, which the resampled items hold already), divided by
the seeds and drawn with its own uncertainty (scaled inverse chi-squared). With one seed the draws say what other
items would have given and nothing about another training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuvee.analyses._bootstrap import resampled_means
from cuvee.analyses._chance import Floats, stream
from cuvee.analyses._stats import Sample

FEWEST_ITEMS = 20
"""Items below which no interval is drawn from a bootstrap: percentiles of so few hold far less than they say."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Means of runs on one measure, and their draws.

    Args:
        values: by run.
        draws: by run, (resamples,).
        seeds: least number of seeds of a run.
        left_out: runs that were measured on other items than most.
        constant: whether every item of every run has the same score.
        items: how many different ones (clusters where some hang together).
    """

    values: Mapping[str, float]
    draws: Mapping[str, Floats]
    seeds: int
    left_out: tuple[str, ...] = ()
    constant: bool = False
    items: int = 0

    @property
    def refusal(self) -> str:
        """Why no interval may be drawn; empty where it may."""
        if self.items < FEWEST_ITEMS:
            return f"{self.items} items are too few for intervals ({FEWEST_ITEMS} are needed)"
        return "every item has the same score in every run" if self.constant else ""

    def take(self, runs: Sequence[str]) -> tuple[Floats, Floats]:
        """Return values (m,) and draws (resamples, m) of some runs."""
        return np.array([self.values[run] for run in runs]), np.stack([self.draws[run] for run in runs], axis=1)


def cloud(samples: Mapping[str, Sample], resamples: int, seed: int) -> Cloud:
    """Return the draws of runs on one measure."""
    usual = Counter((of.items, of.weights.tobytes()) for of in samples.values()).most_common(1)
    kept = {run: of for run, of in samples.items() if (of.items, of.weights.tobytes()) == usual[0][0]}
    out = tuple(run for run in samples if run not in kept)
    if not kept:
        return Cloud({}, {}, 0, out)
    first = next(iter(kept.values()))
    columns = np.stack([of.scores for of in kept.values()], axis=1)
    draws = resampled_means(columns, first.weights, resamples, stream(seed, first.items))
    draws = draws + _luck(list(kept.values()), draws.shape, [*stream(seed, first.items), 2])
    return Cloud(
        {run: of.value for run, of in kept.items()},
        dict(zip(kept, draws.T, strict=True)),
        min(len(of.seeds) for of in kept.values()),
        out,
        bool((columns == columns[0, 0]).all()),
        len(first.items),
    )


def training_variance(samples: Sequence[Sample]) -> tuple[float, int]:
    """Return the variance of a mean between seeds beyond what items' own noise gives, and its degrees of freedom."""
    several = [of for of in samples if len(of.seeds) > 1]
    degrees = sum(len(of.seeds) - 1 for of in several)
    if not degrees:
        return 0.0, 0
    total = 0.0
    for of in several:
        shares = of.weights / of.weights.sum()
        between = float(of.seed_values.var(ddof=1))
        own = float(shares**2 @ of.by_seed.var(axis=0, ddof=1))
        total += (len(of.seeds) - 1) * (between - own)
    return max(0.0, total / degrees), degrees


def _luck(samples: Sequence[Sample], shape: tuple[int, ...], seed: Sequence[int]) -> Floats:
    """Return draws of what other seeds would have changed, (resamples, runs); 0 where there is one seed."""
    variance, degrees = training_variance(samples)
    if not variance:
        return np.zeros(shape)
    random = np.random.default_rng(seed)
    spread = np.sqrt(variance * degrees / random.chisquare(degrees, size=(shape[0], 1)))
    seeds = np.array([len(of.seeds) for of in samples])
    return np.asarray(random.standard_normal(shape) * spread / np.sqrt(seeds), dtype=np.float64)


def unmoved(draws: Floats) -> NDArray[np.bool_]:
    """Return which columns resampling leaves where they are: 0 of n stays 0 of n, which says nothing of its noise.

    The luck of seeds, where there are several, moves them.
    """
    return np.asarray(np.ptp(draws, axis=0) < 1e-9)


def interval(draws: Floats) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % percentile interval of draws; none where the draws say nothing."""
    if np.isnan(draws).any() or float(np.ptp(draws)) == 0:
        return None, None
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
