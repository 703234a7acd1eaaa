"""How often intervals hold a planted truth: laws of scale, crossing points, forgetting, k.

    python benchmarks/planted_truth.py [replicates]

Prints one line a quantity: the share of replicates whose 95 % interval holds the truth, of those that gave one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.analyses import planted

from cuvee.analyses._draws import cloud, interval
from cuvee.analyses._fits import fit
from cuvee.analyses._stats import compare
from cuvee.analyses.conflicts import crossing_of

ROWS = np.array([10.0, 40.0, 160.0, 640.0, 2560.0])
Truth = tuple[str, float, tuple[float | None, float | None]]


def laws(random: np.random.Generator, seeds: int, items: int) -> list[Truth]:
    """A logarithmic and a power law through five amounts."""
    found: list[Truth] = []
    log = 0.1 + 0.05 * np.log2(ROWS)
    power = 0.8 - 1.4 * ROWS**-0.5
    for name, levels in (("logarithmic", log), ("power", power)):
        of = _drawn(levels.tolist(), random, seeds, items)
        fitted = fit(name, ROWS, *of)
        assert fitted is not None
        at = fitted.at(np.array([10.0, 300.0, 2560.0]))
        truth = (
            0.1 + 0.05 * np.log2([10, 300, 2560])
            if name == "logarithmic"
            else 0.8 - 1.4 * np.sqrt([0.1, 1 / 300, 1 / 2560])
        )
        for place, rows in enumerate((10, 300, 2560)):
            found.append((f"{name}: curve at {rows} rows", float(truth[place]), interval(at[1][:, place])))
        if name == "logarithmic":
            found.append(("logarithmic: gain per doubling", 0.05, interval(fitted.draws[:, 1])))
        else:
            ends = interval(fitted.draws[:, 2]) if fitted.determined else (None, None)
            found.append(("power: exponent", 0.5, ends))
            level = interval(fitted.draws[:, 0]) if fitted.determined else (None, None)
            found.append(("power: tends to", 0.8, level))
    return found


def crossing(random: np.random.Generator, seeds: int, items: int) -> list[Truth]:
    """Mixing gains below 160 rows and loses above, by three points a doubling."""
    alone = 0.15 + 0.06 * np.log2(ROWS)
    mixed = alone - 0.03 * (np.log2(ROWS) - np.log2(160))
    values, draws = _drawn([*alone, *mixed], random, seeds, items)
    found = crossing_of(ROWS, values[5:] - values[:5], draws[:, 5:] - draws[:, :5])
    if found is None:
        return []
    ends: tuple[float | None, float | None] = (None, None)
    if found.turns:
        ends = (found.low or 0.0, found.high or np.inf)
    return [("conflict: crossing point", 160.0, ends), ("conflict: slope", -0.03, found.slope_ends)]


def forgotten(random: np.random.Generator, seeds: int, items: int) -> list[Truth]:
    """A stage that loses eight points."""
    old, new = planted.samples([0.5, 0.42], items, random, seeds)
    both = compare(new, old, resamples=2000)
    return [("forgetting: change of a stage", -0.08, (both.low, both.high))]


def _drawn(levels: list[float], random: np.random.Generator, seeds: int, items: int) -> tuple[np.ndarray, np.ndarray]:
    made = planted.samples(levels, items, random, seeds, 0.015 if seeds > 1 else 0.0)
    names = [f"run {place}" for place in range(len(levels))]
    return cloud(dict(zip(names, made, strict=True)), 2000, int(random.integers(1 << 30))).take(names)


def main(replicates: int) -> None:
    """Print the coverage of every quantity."""
    makers: tuple[Callable[[np.random.Generator, int, int], list[Truth]], ...] = (laws, crossing, forgotten)
    for seeds, items in ((1, 400), (3, 400)):
        held: dict[str, list[bool]] = {}
        for replicate in range(replicates):
            random = np.random.default_rng([7, seeds, replicate])
            for maker in makers:
                for name, truth, (low, high) in maker(random, seeds, items):
                    inside = held.setdefault(name, [])
                    if low is not None and high is not None:
                        inside.append(low <= truth <= high)
        for name, inside in held.items():
            share = f"{np.mean(inside):.1%}" if inside else "none"
            print(f"{seeds} seeds, {items} items  {name:36} {share:>6}  of {len(inside)} intervals in {replicates}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
