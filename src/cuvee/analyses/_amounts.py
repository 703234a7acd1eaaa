"""How much of what each run has seen: runs of one training as points, and curves of runs that differ in amount alone.

Rows and supervised tokens are those of one epoch, as the training's mixture has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cuvee import canonical
from cuvee.protocols import NOTHING_SELECTED, Result, RunInfo

AMOUNTS = ("share", "count")
"""Parameters of strategies that say how much is used, of everything alike."""

TOLERANCE = 0.1
"""How far proportions between sources may drift along a curve: floors of small shares make them drift."""


@dataclass(frozen=True)
class Seen:
    """A run of one training and what it saw, averaged over seeds.

    Args:
        info: of its first seed.
        rows, tokens: examples and supervised tokens of one epoch by source.
        abilities: what each source teaches.
    """

    info: RunInfo
    rows: Mapping[str, float]
    tokens: Mapping[str, float]
    abilities: Mapping[str, str]

    @property
    def run(self) -> str:
        """Its name."""
        return self.info.name

    def rows_of(self, ability: str) -> float:
        """Return the rows that teach an ability."""
        return sum(n for name, n in self.rows.items() if self.abilities[name] == ability)

    def tokens_of(self, ability: str) -> float:
        """Return the supervised tokens that teach an ability."""
        return sum(n for name, n in self.tokens.items() if self.abilities[name] == ability)

    @property
    def is_single(self) -> bool:
        """Whether all of it teaches one ability."""
        return len(set(self.abilities.values())) == 1


@dataclass(frozen=True)
class AmountCurve:
    """Runs that differ in amount alone, from the least of an ability's rows to the most.

    Args:
        label: for people: ``alone``, ``mixed with code, general``.
        ability: the one that is looked at.
        points: with different amounts of it.
        key: what all of them share.
    """

    label: str
    ability: str
    points: tuple[Seen, ...]
    key: str = ""

    @property
    def rows(self) -> list[float]:
        """Rows of the ability along the curve."""
        return [point.rows_of(self.ability) for point in self.points]


def seen(results: Iterable[Result]) -> list[Seen]:
    """Return the runs of exactly one finished training, each model once however many runs share it."""
    infos: dict[str, dict[int, RunInfo]] = {}
    for result in results:
        if result.final and len(result.run.trainings) == 1:
            infos.setdefault(result.run.name, {})[result.run.seed] = result.run
    found: dict[tuple[str, ...], Seen] = {}
    for by_seed in infos.values():
        members = [by_seed[seed] for seed in sorted(by_seed)]
        found.setdefault(tuple(info.trainings[0].id for info in members), _joined(members))
    return list(found.values())


def _joined(members: Sequence[RunInfo]) -> Seen:
    portions = [portion for info in members for portion in info.trainings[0].portions if portion.rows]
    names = list(dict.fromkeys(portion.source for portion in portions))
    seeds = len(members)
    return Seen(
        members[0],
        {name: sum(p.rows for p in portions if p.source == name) / seeds for name in names},
        {name: sum(p.supervised_tokens for p in portions if p.source == name) / seeds for name in names},
        {portion.source: portion.ability for portion in portions},
    )


def setting(info: RunInfo) -> str:
    """Return everything that tells runs apart besides their amounts: training settings, filters, selections."""
    return canonical.text(
        [sorted(f"{k}={v}" for k, v in info.training.items()), str(dict(info.sources)), info.selection]
    )


def curves(points: Iterable[Seen], ability: str, least: int = 2) -> list[AmountCurve]:
    """Return the curves of an ability with at least so many amounts, those of a single source first.

    Runs whose sources do not grow alike are no curve, but points of one amount each.
    """
    grouped: dict[str, list[Seen]] = {}
    for point in points:
        if point.rows_of(ability):
            grouped.setdefault(_curve_key(point), []).append(point)
    found = []
    for key, members in grouped.items():
        by_rows = {point.rows_of(ability): point for point in reversed(members)}
        ordered = tuple(by_rows[rows] for rows in sorted(by_rows))
        parts = [ordered] if _in_proportion(ordered, ability) else [(point,) for point in ordered]
        found += [AmountCurve(_label(part[0], ability), ability, part, key) for part in parts if len(part) >= least]
    found.sort(key=lambda curve: not curve.points[0].is_single)
    return [_with_own_label(curve, found) for curve in found]


def _curve_key(point: Seen) -> str:
    info = point.info
    rest = {name: str(value) for name, value in info.params.items() if name not in AMOUNTS}
    counted = info.params.get("count") is not None
    return canonical.text([info.strategy, rest, counted, setting(info), sorted(point.rows)])


def _in_proportion(points: Sequence[Seen], ability: str) -> bool:
    """Whether every source grows as the ability's rows do, as far as whole rows of small shares allow."""
    own = sum(point.rows_of(ability) for point in points)
    for name in points[0].rows:
        usual = sum(point.rows[name] for point in points) / own  # the large amounts, which are least rounded, decide
        for point in points:
            off = abs(point.rows[name] - usual * point.rows_of(ability))
            if off > TOLERANCE * usual * point.rows_of(ability) and off > 2:
                return False
    return True


def _label(point: Seen, ability: str) -> str:
    if point.is_single:
        return "alone"
    others = [name for name in point.rows if point.abilities[name] != ability]
    return f"mixed with {', '.join(others)}"


def _with_own_label(curve: AmountCurve, every: Sequence[AmountCurve]) -> AmountCurve:
    """Add what tells a curve from others of the same label."""
    if sum(other.label == curve.label for other in every) == 1:
        return curve
    info = curve.points[-1].info
    words = [f"{k}={v}" for k, v in info.training.items()]
    words += ["equal counts"] if info.params.get("count") is not None else []
    words += ["own filters"] if any(any(change.values()) for change in info.sources.values()) else []
    words += [info.selection] if info.selection != NOTHING_SELECTED else []
    extra = ", ".join(words) or info.name
    return AmountCurve(f"{curve.label} ({extra})", curve.ability, curve.points, curve.key)
