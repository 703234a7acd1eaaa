"""Laws of scale through a few points, fitted to the values and to every bootstrap draw of them at once.

    logarithmic   y = a + b log2(x)          b is what doubling the data gives
    power         y = a + s x^-c             a is the level it tends to, c > 0 the exponent

Weighted least squares, weights 1 / variance of the draws. For the power law a and s are solved exactly for every
exponent of a grid and the best exponent is kept, refined by a parabola. Kaplan et al., arXiv 2001.08361, and
Zhang et al., arXiv 2402.17193 (fine-tuning data), fit losses so; for accuracies it is a description, not a law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cuvee.analyses._chance import Floats

FEWEST = {"logarithmic": 3, "power": 4}
"""Points that a law needs: one more than it has parameters."""

EXPONENTS = np.geomspace(0.02, 4.0, 160)
"""At an end of this grid the exponent is not determined by the points."""


@dataclass(frozen=True, eq=False)
class Fit:
    """One law through points, with its draws.

    Args:
        law: ``logarithmic`` or ``power``.
        parameters: (a, b) or (a, s, c).
        draws: the same of each draw, (resamples, parameters).
        error: root mean square of what each point is off when the law is fitted to the others.
        p: chance that noise alone takes the points so far off the law; see `holds`.
    """

    law: str
    parameters: Floats
    draws: Floats
    error: float
    p: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether noise explains how far the points are off. Where it does not, no interval of the law means anything:
        the points follow another law, or the luck of single trainings, which one seed does not show."""
        return self.p >= MISFIT

    def at(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the curve at some x, (k,), and its draws, (resamples, k)."""
        return _curve(self.parameters[None, :], x)[0], _curve(self.draws, x)

    def without_noise(self) -> Fit:
        """Return the law alone, where draws cannot say how far off its points are: no interval, no band, no misfit."""
        return replace(self, draws=np.repeat(self.parameters[None, :], len(self.draws), axis=0), p=1.0)

    @property
    def determined(self) -> bool:
        """Whether the exponent lies inside the grid in nearly all draws."""
        if self.law != "power":
            return True
        inside = (self.draws[:, 2] > EXPONENTS[0] * 1.01) & (self.draws[:, 2] < EXPONENTS[-1] * 0.99)
        return bool(inside.mean() > 0.95)


MISFIT = 0.01
"""Chance of the points' distance from a law under noise alone, below which the law does not hold."""


def fit(law: str, x: Floats, values: Floats, draws: Floats) -> Fit | None:
    """Return a law through points; None where there are too few of them, or all are the same.

    Args:
        x: positive amounts, (m,).
        values: (m,).
        draws: of the values, (resamples, m).
    """
    if len(x) < FEWEST[law] or float(np.ptp(values)) == 0:
        return None
    weights = weights_of(draws)
    solve = _logarithmic if law == "logarithmic" else _power
    found = solve(x, values[None, :], weights)
    p = misfit(values, _curve(found, x)[0], draws, weights, lambda ys: _curve(solve(x, ys, weights), x))
    return Fit(law, found[0], solve(x, draws, weights), _error(law, x, values, weights), p)


def misfit(values: Floats, fitted: Floats, draws: Floats, weights: Floats, refit: Callable[[Floats], Floats]) -> float:
    """Return the chance that noise alone takes points as far off a law, by refitting the law plus the draws' noise."""
    noisy = fitted + (draws - values)
    by_noise = (noisy - refit(noisy)) ** 2 @ weights
    return float((np.count_nonzero(by_noise >= (values - fitted) ** 2 @ weights) + 1) / (len(draws) + 1))


def weights_of(draws: Floats) -> Floats:
    """Return 1 / variance; a point whose draws hardly differ (all right, all wrong) counts no more than four usual."""
    variance = np.nan_to_num(draws.var(axis=0))
    usual = float(np.median(variance))
    return np.ones(len(variance)) if usual == 0 else np.asarray(1 / np.maximum(variance, usual / 4), dtype=np.float64)


def _error(law: str, x: Floats, values: Floats, weights: Floats) -> float:
    """Return the leave-one-out error; infinite where the others are too few."""
    if len(x) <= FEWEST[law] - 1 or len(x) < 3:
        return float("inf")
    solve = _logarithmic if law == "logarithmic" else _power
    off = []
    for left in range(len(x)):
        kept = np.arange(len(x)) != left
        found = solve(x[kept], values[None, kept], weights[kept])
        off.append(float(_curve(found, x[left : left + 1])[0, 0] - values[left]))
    return float(np.sqrt(np.mean(np.square(off))))


def _curve(parameters: Floats, x: Floats) -> Floats:
    if parameters.shape[1] == 2:
        return np.asarray(parameters[:, :1] + parameters[:, 1:] * np.log2(x), dtype=np.float64)
    a, s, c = parameters[:, :1], parameters[:, 1:2], parameters[:, 2:]
    return np.asarray(a + s * (x / x.max()) ** -c * x.max() ** -c, dtype=np.float64)


def _logarithmic(x: Floats, ys: Floats, weights: Floats) -> Floats:
    return line(np.log2(x), ys, weights)[0]


def line(u: Floats, ys: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return (a, b) of y = a + b u for each row of ys, (rows, 2), and the weighted sums of squares, (rows,)."""
    design = np.stack([np.ones_like(u), u], axis=1)
    normal = design.T * weights
    found = np.linalg.solve(normal @ design, normal @ ys.T).T
    off = ys - found @ design.T
    return np.asarray(found), np.asarray(off**2 @ weights, dtype=np.float64)


def _power(x: Floats, ys: Floats, weights: Floats) -> Floats:
    scaled = x / float(np.exp(np.mean(np.log(x))))
    errors = np.stack([line(scaled**-c, ys, weights)[1] for c in EXPONENTS], axis=1)
    exponents = _lowest(errors)
    powers = scaled[None, :] ** -exponents[:, None]
    a, s = _line_each(powers, ys, weights)
    return np.stack([a, s * (x[0] / scaled[0]) ** exponents, exponents], axis=1)


def _lowest(errors: Floats) -> Floats:
    """Return for each row the exponent of least error, between grid points by a parabola in its logarithm."""
    best = errors.argmin(axis=1)
    inner = np.clip(best, 1, len(EXPONENTS) - 2)
    rows = np.arange(len(errors))
    left, middle, right = (errors[rows, inner + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    step = float(np.log(EXPONENTS[1] / EXPONENTS[0]))
    refined = np.exp(np.log(EXPONENTS[inner]) + step * np.clip(shift, -1, 1))
    return np.asarray(np.where(best == inner, refined, EXPONENTS[best]), dtype=np.float64)


def _line_each(u: Floats, ys: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return a and b of y = a + b u where each row has its own u, (rows,) each."""
    share = weights / weights.sum()
    u_mean, y_mean = u @ share, ys @ share
    du, dy = u - u_mean[:, None], ys - y_mean[:, None]
    slope = (du * dy) @ share / np.maximum((du**2) @ share, np.finfo(float).tiny)
    return y_mean - slope * u_mean, slope
