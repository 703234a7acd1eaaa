"""Numbers with their noise: means with intervals, paired comparisons, Holm correction, seeds.

The unit of chance is the item: every interval says what another draw of items of the same kind could have
given, for the models at hand. Rows that share an item id (several answers to one question), or a cluster where the
evaluator gives one (two items with the same question, the turns of one conversation), are one unit: standard errors and
tests go over those.

    mean       s = sum(w_i s_i) / sum(w_i)                  items i = 1..n, weights w
    0/1        SE = sqrt(s (1 - s) / n), Wilson interval    (Wilson 1927)
    others     SE = sqrt(n / (n - 1) * sum(w_i^2 (s_i - s)^2)) / sum(w_i), t interval with n - 1 degrees
               (linearised ratio estimator, Cochran, Sampling Techniques, chapter 6)
    paired 0/1 one measure, one seed: exact McNemar test; interval of Bonett and Price (2012)
    paired     others: sign-flip permutation test (Fisher 1935), which keeps its level with few discordant items
               T = sum_i w_i (new_i - old_i) / sum_i w_i; p is the chance of |T| or more when each item's
               difference had the other sign as easily; exact where the signs can be enumerated
               interval by bootstrap over items, widened for few as in Hesterberg (2015), section 5.3; with
               0/1 scores that hardly differ at least that of Bonett and Price
    many       Holm (1979); beyond 250 comparisons small p come from a saddlepoint (`_flips`)

    both = compare(sample([new]), sample([old]))   # both.difference, both.low, both.high, both.p
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cuvee.analyses._bootstrap import draws_interval, resampled_means
from cuvee.analyses._chance import RESAMPLES, Floats, special, stream
from cuvee.analyses._flips import sign_flip
from cuvee.errors import UsageError
from cuvee.protocols import Result

_FEW_ITEMS = 10
"""0/1 scores that differ on fewer items than this (from each other, or from all right or all wrong) leave a bootstrap
little to draw from, or nothing: averages over seeds then have at least the interval of one seed."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One model on one evaluator's items, or one run averaged item by item over its seeds.

    Args:
        items: ids of items, or of clusters of them, in alphabetical order, each once, (n,).
        by_seed: scores, (seeds, n).
        weights: weight of each item in the mean, (n,).
        seeds: the run's seeds, (seeds,).
        full_size: items the whole benchmark has.
        name: for messages.
        measured: different items; more than n where some hang together.
        hits, trials: scores that are 1, and all scores, over all seeds; None unless each is 0 or 1.
    """

    items: tuple[str, ...]
    by_seed: Floats
    weights: Floats
    seeds: tuple[int, ...]
    full_size: int
    name: str = ""
    measured: int = 0
    hits: int | None = None
    trials: int | None = None

    @cached_property
    def scores(self) -> Floats:
        """Scores averaged over seeds, (n,)."""
        return np.asarray(self.by_seed.mean(axis=0), dtype=np.float64)

    @cached_property
    def zero_one(self) -> bool:
        """Whether every single score is 0 or 1 and all items weigh the same."""
        right = bool(np.isin(self.by_seed, (0.0, 1.0)).all())
        return right and bool((self.weights == self.weights[0]).all())

    @property
    def value(self) -> float:
        """The weighted mean over items, averaged over seeds."""
        return float(self.weights @ self.scores / self.weights.sum())

    @property
    def seed_values(self) -> Floats:
        """The weighted mean of each seed, (seeds,)."""
        return np.asarray(self.by_seed @ self.weights / self.weights.sum(), dtype=np.float64)


@dataclass(frozen=True)
class Estimate:
    """A mean with its noise over items.

    Args:
        value: the weighted mean.
        se: its standard error over items; None for a single item.
        low, high: ends of the 95 % interval; None where `se` is.
        n: items.
        hits, trials: m of m/n for 0/1 scores (summed over seeds), else None.
        seeds: number of seeds.
        seed_sd: standard deviation of the seeds' means; None for one seed. Not part of `se`.
    """

    value: float
    se: float | None
    low: float | None
    high: float | None
    n: int
    hits: int | None = None
    trials: int | None = None
    seeds: int = 1
    seed_sd: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A difference `new - old` on the same items.

    Args:
        difference: of the two means.
        low, high: ends of the 95 % interval, not corrected for other comparisons.
        p: two-sided, not corrected.
        se: standard error of the difference if there were none.
        n: items.
        method: ``mcnemar`` or ``permutation``.
        discordant: items only `new` and only `old` solved, for 0/1 scores.
        by_seed: the difference in each seed that both have.
        unit: the least that one item can change the difference; 0 where scores are continuous.
        moved: items on which the two differ; None where items of several abilities are joined.
    """

    difference: float
    low: float
    high: float
    p: float
    se: float
    n: int
    method: str
    discordant: tuple[int, int] | None = None
    by_seed: tuple[float, ...] = ()
    unit: float = 0.0
    moved: int | None = None

    @property
    def one_direction(self) -> bool:
        """Whether no seed contradicts the sign of the difference."""
        return all(each * self.difference > 0 for each in self.by_seed)

    def smallest(self, alpha: float = 0.05, power: float = 0.8) -> float:
        """Return the smallest true difference this comparison would find with `power` at level `alpha`."""
        return max(smallest_difference(self.se, alpha, power), _fewest_discordant(alpha) * self.unit)


# ----------------------------------------------------------------------------------------------- one sample


def sample(results: Sequence[Result]) -> Sample:
    """Join one result a seed into a sample.

    Raises:
        UsageError: there is none, a score is missing, or the seeds have other items or weights.
    """
    if not results:
        raise UsageError("a mean was asked of no results at all")
    parts = [_merged(result) for result in results]
    items, _, weights = parts[0]
    for result, (others, _, other_weights) in zip(results[1:], parts[1:], strict=True):
        _same_items(items, others, _name(results[0]), _name(result))
        _same_weights(weights, other_weights, _name(results[0]), _name(result))
    by_seed = np.stack([scores for _, scores, _ in parts])
    seeds = tuple(result.run.seed for result in results)
    measured = len(set(results[0].items))
    return Sample(
        items, by_seed, weights, seeds, results[0].full_size, results[0].run.name, measured, *_counted(results)
    )


def _counted(results: Sequence[Result]) -> tuple[int, int] | tuple[None, None]:
    """Return how many scores are 1 and how many there are, where all are 0 or 1 and weigh the same."""
    scores = np.concatenate([np.asarray(result.scores, float) for result in results])
    weights = np.concatenate([np.asarray(result.weights, float) for result in results])
    plain = bool(np.isin(scores, (0.0, 1.0)).all()) and bool((weights == weights[0]).all())
    return (int(scores.sum()), len(scores)) if plain else (None, None)


def estimate(of: Sample) -> Estimate:
    """Return the mean of a sample with its standard error and 95 % interval."""
    n = len(of.items)
    seed_sd = float(of.seed_values.std(ddof=1)) if len(of.seeds) > 1 else None
    hits, trials = of.hits, of.trials
    if hits is not None and len(of.seeds) == 1 and n == trials:
        low, high = wilson(hits, n)
        se: float | None = float(np.sqrt(of.value * (1 - of.value) / n))
        return Estimate(of.value, se, low, high, n, hits, trials)
    se = _ratio_se(of.scores, of.weights)
    if se is None:
        return Estimate(of.value, None, None, None, of.measured, hits, trials, len(of.seeds), seed_sd)
    reach = float(special().stdtrit(n - 1, 0.975)) * se
    low, high = of.value - reach, of.value + reach
    if hits is not None:  # an average of 0/1 scores stays between 0 and 1
        low, high = max(low, 0.0), min(high, 1.0)
        if min(np.count_nonzero(of.scores), np.count_nonzero(of.scores < 1)) < _FEW_ITEMS:
            ends = wilson(of.value * n, n)
            low, high = min(low, ends[0]), max(high, ends[1])
    return Estimate(of.value, se, low, high, of.measured, hits, trials, len(of.seeds), seed_sd)


def wilson(hits: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval for a proportion `hits / n`."""
    z = float(special().ndtri(0.5 + level / 2))
    middle = (hits + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * float(np.sqrt(hits * (n - hits) / n + z * z / 4))
    # Rounding must not move the ends off 0 and 1, where they belong for no hit and for all.
    return (0.0 if hits == 0 else middle - reach), (1.0 if hits == n else middle + reach)


def _ratio_se(scores: Floats, weights: Floats) -> float | None:
    n = len(scores)
    if n < 2:
        return None
    spread = weights * (scores - weights @ scores / weights.sum())
    return float(np.sqrt(n / (n - 1) * (spread @ spread)) / weights.sum())


# --------------------------------------------------------------------------------------------- two samples


def compare(new: Sample, old: Sample, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two samples item by item: exact McNemar for 0/1 scores of one seed, sign flips otherwise.

    Raises:
        UsageError: the items or their weights differ; says how.
    """
    return compare_all([(new, old)], resamples=resamples, seed=seed)[0]


def compare_all(
    pairs: Sequence[tuple[Sample, Sample]], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Comparison]:
    """Compare many pairs `(new, old)`; those over the same items share their resamples.

    Raises:
        UsageError: the items or weights of a pair differ.
    """
    found: dict[int, Comparison] = {}
    waiting: dict[tuple[tuple[str, ...], bytes], list[int]] = {}
    for index, (new, old) in enumerate(pairs):
        comparable(new, old)
        if new.zero_one and old.zero_one and len(new.seeds) == len(old.seeds) == 1:
            found[index] = mcnemar(new, old)
        else:
            waiting.setdefault((new.items, new.weights.tobytes()), []).append(index)
    for members in waiting.values():
        own = [pairs[i] for i in members]
        new = own[0][0]
        random = stream(seed, new.items)
        # By model and not by pair: there are many more pairs. Equal scores share a column, so that they differ by 0.
        different = {each.scores.tobytes(): each for pair in own for each in pair}
        column = {scores: place for place, scores in enumerate(different)}
        asked = [(column[ours.scores.tobytes()], column[theirs.scores.tobytes()]) for ours, theirs in own]
        scores = np.stack([each.scores for each in different.values()], axis=1)
        draws = resampled_means(scores, new.weights, resamples, random)
        shares = np.stack([share_of_mean(each) for each in different.values()], axis=1)
        p_values = sign_flip(shares, asked, resamples, random)
        for i, (ours, theirs), p in zip(members, asked, p_values, strict=True):
            found[i] = _from_draws(*pairs[i], draws[:, ours] - draws[:, theirs], p)
    return [found[index] for index in range(len(pairs))]


def comparable(new: Sample, old: Sample) -> None:
    """Raise UsageError unless both samples hold the same items with the same weights."""
    _same_items(new.items, old.items, new.name, old.name)
    _same_weights(new.weights, old.weights, new.name, old.name)


def mcnemar(new: Sample, old: Sample) -> Comparison:
    """Compare two 0/1 samples by the exact McNemar test on the items only one of them solved."""
    only_new = int(((new.scores == 1) & (old.scores == 0)).sum())
    only_old = int(((new.scores == 0) & (old.scores == 1)).sum())
    n = len(new.items)
    low, high = bonett_price(only_new, only_old, n)
    # Two more discordant items, as in the interval: none seen does not mean that none is possible.
    se = float(np.sqrt(only_new + only_old + 2)) / (n + 2)
    return Comparison(
        difference=(only_new - only_old) / n,
        low=low,
        high=high,
        p=mcnemar_p(only_new, only_old),
        se=se,
        n=n,
        method="mcnemar",
        discordant=(only_new, only_old),
        by_seed=_by_seed(new, old),
        unit=1 / n,
        moved=only_new + only_old,
    )


def mcnemar_p(up: int, down: int) -> float:
    """Return the exact two-sided p of `up` against `down` discordant items, fair coins if nothing changed."""
    return min(1.0, 2 * float(special().bdtr(min(up, down), up + down, 0.5))) if up + down else 1.0


def bonett_price(up: float, down: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of Bonett and Price for the paired difference `(up - down) / n`."""
    z = float(special().ndtri(0.5 + level / 2))
    a, b = (up + 1) / (n + 2), (down + 1) / (n + 2)
    reach = z * float(np.sqrt((a + b - (a - b) ** 2) / (n + 2)))
    return max(-1.0, a - b - reach), min(1.0, a - b + reach)


def share_of_mean(of: Sample) -> Floats:
    """Return what each item adds to the sample's mean, (n,)."""
    return np.asarray(of.weights * of.scores / of.weights.sum(), dtype=np.float64)


def unit_of(new: Sample, old: Sample) -> float:
    """Return the least that one item can change the difference of two means; 0 where scores are continuous."""
    return 1 / (len(new.items) * max(len(new.seeds), len(old.seeds))) if new.zero_one and old.zero_one else 0.0


def _from_draws(new: Sample, old: Sample, draws: Floats, p: float) -> Comparison:
    low, high, se = draws_interval(draws)
    n, by_seed = len(new.items), _by_seed(new, old)
    moves = new.scores - old.scores
    moved, unit = int(np.count_nonzero(moves)), unit_of(new, old)
    if new.zero_one and old.zero_one and moved < _FEW_ITEMS:
        up, down = float(moves[moves > 0].sum()), -float(moves[moves < 0].sum())
        ends = bonett_price(up, down, n)
        low, high, se = min(low, ends[0]), max(high, ends[1]), max(se, float(np.sqrt(up + down + 2)) / (n + 2))
    return Comparison(new.value - old.value, low, high, p, se, n, "permutation", None, by_seed, unit, moved)


def _by_seed(new: Sample, old: Sample) -> tuple[float, ...]:
    return seed_differences(
        dict(zip(new.seeds, new.seed_values.tolist(), strict=True)),
        dict(zip(old.seeds, old.seed_values.tolist(), strict=True)),
    )


def seed_differences(new: Mapping[int, float], old: Mapping[int, float]) -> tuple[float, ...]:
    """Return `new - old` for each seed both have; a side with one seed (a base model) stands against all."""
    if len(new) == 1 or len(old) == 1:
        return tuple(ours - theirs for _, ours in sorted(new.items()) for _, theirs in sorted(old.items()))
    return tuple(new[seed] - old[seed] for seed in sorted(new) if seed in old)


# -------------------------------------------------------------------------------------- many, power, checks


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm-corrected p values, in the order given.

    holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def smallest_difference(se: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference found with `power` by a two-sided test, from a standard error."""
    ndtri = special().ndtri
    return float(ndtri(1 - alpha / 2) + ndtri(power)) * se


def power_of(difference: float, se: float, alpha: float = 0.05) -> float:
    """Return the chance that a two-sided test at `alpha` finds a true `difference`; inverse of the above."""
    return float(special().ndtr(abs(difference) / se - special().ndtri(1 - alpha / 2)))


def _fewest_discordant(alpha: float) -> int:
    """Discordant items, all in one direction, below which the exact test cannot reach `alpha`."""
    return int(np.ceil(1 - np.log2(alpha)))


def _merged(result: Result) -> tuple[tuple[str, ...], Floats, Floats]:
    """Items once each in alphabetical order, their mean scores and summed weights."""
    scores, weights = np.asarray(result.scores, float), np.asarray(result.weights, float)
    if not len(result.items) == len(scores) == len(weights):
        raise UsageError(
            f"{_name(result)} has {len(result.items)} items, {len(scores)} scores and {len(weights)} weights"
        )
    bad = int((~(np.isfinite(scores) & np.isfinite(weights) & (weights >= 0))).sum())
    if bad:
        raise UsageError(f"{_name(result)}: {bad} scores are missing; a failed request is an error, never a number")
    if not weights.sum() > 0:
        raise UsageError(f"{_name(result)} has no items that count, so it has no mean")
    units = result.extra.get("cluster", result.items)
    if len(set(units)) == len(set(result.items)):  # none hang together: items are named, as in earlier results
        units = result.items
    items, place = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    if len(items) == len(scores):
        order = np.argsort(place)
        return tuple(items.tolist()), scores[order], weights[order]
    total: Floats = np.bincount(place, weights).astype(np.float64)
    summed: Floats = np.bincount(place, weights * scores).astype(np.float64)
    # An item whose rows weigh nothing keeps a plain score; it does not enter the mean.
    return tuple(items.tolist()), np.divide(summed, total, out=np.zeros_like(total), where=total > 0), total


def _same_items(ours: Sequence[str], theirs: Sequence[str], our_name: str, their_name: str) -> None:
    if tuple(ours) == tuple(theirs):
        return
    only_ours, only_theirs = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    examples = ", ".join((only_ours + only_theirs)[:2])
    raise UsageError(
        f"'{our_name}' and '{their_name}' were not measured on the same items: {len(only_ours)} only in the "
        f"first, {len(only_theirs)} only in the second (such as {examples}); evaluate both with equal "
        "settings"
    )


def _same_weights(ours: Floats, theirs: Floats, our_name: str, their_name: str) -> None:
    if not np.array_equal(ours, theirs):
        raise UsageError(
            f"'{our_name}' and '{their_name}' weigh {int((ours != theirs).sum())} of the same items "
            "differently (another tokenizer or template?); their means are not on one scale"
        )


def _name(result: Result) -> str:
    return f"{result.run.name} (stage {result.stage}, {result.evaluator}, {result.ability})"
