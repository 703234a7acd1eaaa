"""Against random: is a selection worth more than as many random rows, and as much as all of them?

Xia et al., arXiv 2410.09335: on large pools most selectors are no better than random rows; Zhou et al., arXiv
2310.13008, compare with all rows. Runs that differ in nothing but their selection are set side by side on the same
items:

    difference = run on selected rows - run on random rows of the same number, or on all rows

    runs:
      - {strategy: multi_task}
      - {strategy: multi_task, select: [{by: random, share: 0.06}, {by: lobass, share: 0.06}]}
    analyses: [against_random]

Numbers of rows that differ by at most one per cent count as the same (a share of each source is rounded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cuvee import canonical
from cuvee.analyses import _results
from cuvee.analyses._paired import Tested, test_note, tested
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import BASE, Measure
from cuvee.analyses._stats import Sample
from cuvee.protocols import NOTHING_SELECTED, Figure, Result, RunInfo, Table

VERSION = 1

TITLE = "Against random rows of the same number, and all rows"
RANDOM, ALL = "as many random rows", "all rows"
NEAR = 0.01
"""Relative difference up to which numbers of rows are the same."""

Key = tuple[str, str, str, Measure]
"""Run, what it is set against, that run's name, measure."""


class Params(Resampled):
    """Args:
    all_rows: name of the run on all rows that there are to choose from, where it differs in more than its selection (in
        the amounts of its sources, where selections have a `pool` of their own).
    """

    all_rows: str | None = None


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model every selection's differences to random rows of its number and to all rows."""
    names = _results.bases(results)
    tables = [
        _of_base([one for one in results if one.run.base == base], params, base, len(names) > 1) for base in names
    ]
    return tables or [Table(TITLE, ["run"], [], ["Nothing to compare: there are no results."])]


def _of_base(own: Sequence[Result], params: Params, base: str, several: bool) -> Table:
    title, rows = _results.titled(TITLE, base, several), _rows(own)
    samples = {name: by for name, by in _results.final_samples(own).items() if name != BASE}
    runs = {name: run for name, run in _results.runs(own).items() if name in samples}
    pairs, alone = dict[Key, tuple[Measure, Sample, Sample]](), list[str]()
    for name in runs:
        if not _chosen(runs[name]):
            continue
        partners = list(_partners(name, runs, rows, params.all_rows))
        if not any(what == RANDOM for what, _ in partners):
            alone.append(name)
        for what, other in partners:
            for measure in samples[name].keys() & samples[other].keys():
                pairs[name, what, other, measure] = (measure, samples[name][measure], samples[other][measure])
    found, unequal = tested(_in_order(pairs, samples), params.resamples, params.seed)
    notes = [*_lacking(alone, rows), *_unequal(unequal)]
    if params.all_rows is not None and params.all_rows not in runs:
        notes.append(f"all_rows: there is no finished run '{params.all_rows}'; there are {', '.join(runs)}.")
    if not found:
        why = "Nothing to compare: no run on selected rows has a twin on as many random rows, or on all of them."
        return Table(title, ["run"], [], [why, *notes])
    lines = [_line(key, one, rows) for key, one in found.items()]
    told = list(_summary(found))
    said = [*told, *notes, test_note(len(found))]
    return Table(title, list(lines[0]), lines, said, _figures(found), answers=len(told))


def _rows(results: Sequence[Result]) -> dict[str, float]:
    """Return how many rows each run is trained on, mean over seeds; runs that are not finished have none."""
    counts: dict[str, dict[int, int]] = {}
    for one in results:
        if one.run.trainings:
            seen = sum(portion.rows for training in one.run.trainings for portion in training.portions)
            counts.setdefault(one.run.name, {})[one.run.seed] = seen
    return {name: sum(by_seed.values()) / len(by_seed) for name, by_seed in counts.items()}


def _chosen(run: RunInfo) -> bool:
    return run.selection != NOTHING_SELECTED and not _random(run)


def _random(run: RunInfo) -> bool:
    """Return whether all of a run's selections are by `random`; sources may have one each."""
    return all(words.split(" ")[0] == "random" for words in run.selection.split("; "))


def _partners(
    name: str, runs: Mapping[str, RunInfo], rows: Mapping[str, float], all_rows: str | None
) -> Iterator[tuple[str, str]]:
    """Yield the runs that differ from one in their selection alone, and what they are: random rows or all."""
    for other, run in runs.items():
        if other == all_rows:
            yield ALL, other
        elif _setting(run) != _setting(runs[name]):
            continue
        elif run.selection == NOTHING_SELECTED and all_rows is None:
            yield ALL, other
        elif _random(run) and name in rows and other in rows and abs(rows[name] - rows[other]) <= NEAR * rows[other]:
            yield RANDOM, other


def _setting(run: RunInfo) -> str:
    """Return all that tells runs of a base apart besides their selections."""
    given = (run.params, run.training, run.sources)
    return canonical.text([run.strategy, *(str(sorted(map(str, one.items()))) for one in given)])


def _in_order(
    pairs: Mapping[Key, tuple[Measure, Sample, Sample]], samples: Mapping[str, Mapping[Measure, Sample]]
) -> dict[Key, tuple[Measure, Sample, Sample]]:
    """Return the pairs by what they are set against, then run, then measure."""
    order = list(dict.fromkeys(measure for by in samples.values() for measure in by))
    names = list(samples)
    keys = sorted(pairs, key=lambda key: (key[1] != RANDOM, names.index(key[0]), order.index(key[3]), key[2]))
    return {key: pairs[key] for key in keys}


# ------------------------------------------------------------------------------------------- what is shown


def _line(key: Key, one: Tested, rows: Mapping[str, float]) -> dict[str, Any]:
    name, what, other, measure = key
    return {
        "run": name,
        "rows": _count(rows.get(name)),
        "against": what,
        "that run": other,
        "its rows": _count(rows.get(other)),
        "ability": measure.ability,
        "evaluator": measure.evaluator,
        "unit": measure.scale.short,
        **one.columns("difference"),
    }


def _count(rows: float | None) -> str | None:
    return None if rows is None else f"{rows:,.0f}"


def _summary(found: Mapping[Key, Tested]) -> Iterator[str]:
    """Yield for each run how many measures read which way, against random rows and against all."""
    readings: dict[tuple[str, str], list[str]] = {}
    for (name, what, _, _), one in found.items():
        readings.setdefault((name, what), []).append(one.reading)
    for (name, what), each in readings.items():
        counts = ", ".join(f"{each.count(reading)} {reading}" for reading in dict.fromkeys(each))
        yield f"{name} against {what}: {counts}."


def _lacking(alone: Sequence[str], rows: Mapping[str, float]) -> Iterator[str]:
    for name in alone:
        how = f"{{by: random, count: {rows[name]:.0f}}}" if name in rows else "{by: random} of the same number"
        yield f"{name} has no twin on as many random rows; add one with select: {how}."


def _unequal(keys: Sequence[Key]) -> Iterator[str]:
    for name, _, other, measure in keys:
        yield f"{name} and {other} are not compared on {measure.ability} ({measure.evaluator}): they have other items."


def _figures(found: Mapping[Key, Tested]) -> list[Figure]:
    """Return the differences to random rows, a figure for each evaluator."""
    series: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    labels: dict[tuple[str, str], str] = {}
    for (name, what, _, measure), one in found.items():
        if what == RANDOM:
            to, both = measure.scale, one.comparison
            y, low, high = (_results.in_unit(value, to) for value in (both.difference, both.low, both.high))
            place = (measure.evaluator, measure.metric)
            series.setdefault(place, {}).setdefault(measure.ability, []).append(
                {"x": name, "y": y, "low": low, "high": high}
            )
            labels[place] = f"{measure.metric}, difference to random rows ({to.label})"
    return [
        Figure("points", f"Against as many random rows ({evaluator})", "run", labels[evaluator, metric], lines)
        for (evaluator, metric), lines in series.items()
    ]
