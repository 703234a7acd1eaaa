"""The loss curves of a report: some of them drawn, all of them as one table of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from cuvee.protocols import Figure
from cuvee.report.data import Curve, ReportData
from cuvee.report.parts import Maker, Section

FILE = "tables/loss-curves.parquet"
"""Every point of every curve: training, source (none: all sources together), step, loss."""

POINTS = 120
"""Points of a curve in a figure; longer ones are averaged over equal runs of steps."""

A_FIGURE = 8
"""Curves of a figure."""

DRAWN = 96
"""Trainings that are drawn: of more those of the first seed, and of these the first."""


def section(make: Maker, data: ReportData) -> Section:
    """Return the section of loss curves: trainings together, and folded each training by its sources."""
    if not data.curves and not data.source_curves:
        return Section("loss-curves", "Loss curves", text=["Nothing here: no training logged a loss."])
    drawn = _drawn(data)
    names = [name for name in drawn if name in data.curves]
    parts = [names[i : i + A_FIGURE] for i in range(0, len(names), A_FIGURE)]
    figures = [
        _figure(
            "Training loss" + (f" ({i} of {len(parts)})" if len(parts) > 1 else ""),
            {name: data.curves[name] for name in part},
        )
        for i, part in enumerate(parts, 1)
    ]
    # A training on one source is drawn already.
    several = {name: by for name in drawn if len(by := data.source_curves.get(name, {})) > 1}
    return Section(
        "loss-curves",
        "Loss curves",
        text=list(_sentences(data, drawn)),
        drawings=[make.drawing(each) for each in figures],
        folded=[make.drawing(_figure(f"Loss by source: {name}", by)) for name, by in several.items()],
        folded_title=f"Show the loss of each source, {len(several)} training{'s' * (len(several) != 1)}",
    )


def write(data: ReportData, path: Path) -> None:
    """Write the points of all curves, those of each source too, as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    curves = list(_every(data))
    trainings = [name for name, _, curve in curves for _ in curve]
    sources = [source for _, source, curve in curves for _ in curve]
    columns = {
        "training": pa.array(trainings, pa.string()).dictionary_encode(),
        "source": pa.array(sources, pa.string()).dictionary_encode(),
        "step": pa.array([step for *_, curve in curves for step, _ in curve], pa.int64()),
        "loss": pa.array([loss for *_, curve in curves for _, loss in curve], pa.float64()),
    }
    pq.write_table(pa.table(columns), path)


def _every(data: ReportData) -> Iterator[tuple[str, str | None, Curve]]:
    for name in _names(data):
        if name in data.curves:
            yield name, None, data.curves[name]
        yield from ((name, source, curve) for source, curve in data.source_curves.get(name, {}).items())


def _names(data: ReportData) -> list[str]:
    return list({**data.curves, **data.source_curves})


def _drawn(data: ReportData) -> list[str]:
    """Return the trainings to draw."""
    names = _names(data)
    if len(names) > DRAWN and data.curve_seeds.keys() & set(names):
        first = _first_seed(data)
        names = [name for name in names if data.curve_seeds.get(name, first) == first]
    return names[:DRAWN]


def _first_seed(data: ReportData) -> int:
    return next(data.curve_seeds[name] for name in _names(data) if name in data.curve_seeds)


def _sentences(data: ReportData, drawn: list[str]) -> Iterator[str]:
    names = _names(data)
    yield "Loss per supervised token of each optimiser step's batch (nats, lower is better)."
    if len(drawn) < len(names):
        first = "first " if len(drawn) == DRAWN else ""
        several = len({data.curve_seeds.get(name) for name in names}) > 1
        seed = f" of seed {_first_seed(data)}" if several else ""
        yield f"Drawn are the {first}{len(drawn)} trainings{seed}, of {len(names):,} in all."
    if any(len(curve) > POINTS for *_, curve in _every(data)):
        yield f"Curves of more than {POINTS} steps are averaged over equal runs of steps."
    yield f"All points of all curves, each source's too, are in {FILE}."


def _figure(title: str, curves: Mapping[str, Curve]) -> Figure:
    series = {name: [{"x": x, "y": y} for x, y in _thinned(curve)] for name, curve in curves.items() if curve}
    return Figure("lines", title, "optimiser step", "loss (nats/token, ↓ lower is better)", series, "linear")


def _thinned(curve: Curve) -> list[tuple[float, float]]:
    """Average a curve over equal runs of points, so that at most `POINTS` are left."""
    step = math.ceil(len(curve) / POINTS)
    parts = [curve[i : i + step] for i in range(0, len(curve), step or 1)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
