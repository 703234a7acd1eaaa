"""CPU seconds of each analysis on 200 runs of synthetic results; of representations on a base and its 8 runs.

python benchmarks/analysis_speed.py [analysis ...]

Alignment tax sees 200 runs with five marks each, interpolation 40 lines of five models, task vectors 200 models of 24
layers.
What looks at stored selections, judges and choices has no synthetic results, and is left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.analyses import planted

from cuvee import components
from cuvee.protocols import Representation, Result, RunInfo, TaskVectors, VectorPart

ITEMS = {"math": 1319, "code": 164, "general": 1000}
SHARES = [Fraction(1, 2**power) for power in range(20)]


def runs() -> Iterator[RunInfo]:
    """Yield 200 runs: single, mixed, ratio, dmt, sequential, mixed sequential; shares down to 1/2^19 of 4M rows."""
    size, common = 4_194_304, {"general": "general"}
    for source in ITEMS:
        for share in SHARES:
            yield planted.run(f"single {source} {share}", {source: int(size * share)}, params={"source": source})
    for share in SHARES:
        rows = dict.fromkeys(ITEMS, int(size * share))
        yield planted.run(f"multi {share}", rows, strategy="multi_task", params={"share": share})
        for name, special, general in (("s", share, 1), ("g", 1, share), ("l", share, Fraction(1, 64))):
            both = {"math": int(size * special), "code": int(size * special), "general": int(size * general)}
            yield planted.run(f"ratio {name} {share}", both, strategy="ratio", params=common)
    for number, share in enumerate(SHARES):
        yield planted.run(f"dmt {share}", {"math": size}, strategy="dmt", params={**common, "k": share})
        yield planted.run(f"seq {number}", {"math": size}, strategy="sequential", params={**common, "order": number})
        yield planted.run(f"multi again {number}", {"math": size + number}, strategy="multi_task", params={"n": number})


@cache
def results() -> list[Result]:
    """Return base and final results on three abilities; of the sequential runs two stages before."""
    found = []
    infos = list(runs())[:200]
    for ability, items in ITEMS.items():
        random = np.random.default_rng(items)
        levels = [0.2] + [0.3 + 0.4 * random.random() for _ in range(3 * len(infos))]
        lines = iter(planted.scores(levels, items, random))
        base = next(lines).tolist()
        for info in infos:
            found.append(replace(planted.result(info, ability, base, 0, False), stage_id=f"base-{ability}"))
            stages = 3 if info.strategy == "sequential" else 1
            for stage in range(1, stages + 1):
                found.append(planted.result(info, ability, next(lines).tolist(), stage, stage == stages))
    print(f"{len(infos)} runs, {len(found)} results")
    return found


def marked() -> list[Result]:
    """Return 200 runs of one training, each measured at the base, at five marks and at its end."""
    found = []
    infos = [planted.run(f"run {number}", {"math": 1000}, strategy="multi_task") for number in range(200)]
    for ability, items in ITEMS.items():
        random = np.random.default_rng(items)
        lines = iter(planted.scores([0.2, *(0.3 + 0.4 * random.random(6 * len(infos)))], items, random))
        base = next(lines).tolist()
        for info in infos:
            found.append(replace(planted.result(info, ability, base, 0, False), stage_id=f"base-{ability}"))
            for part in range(1, 7):
                point = planted.result(info, ability, next(lines).tolist(), 1, part == 6)
                found.append(replace(point, fraction=Fraction(part, 6)))
    return found


def lines() -> list[Result]:
    """Return 40 lines between two models, with five models on each."""
    places = [Fraction(part, 4) for part in range(5)]
    runs = [
        (
            planted.run(f"line {line} t={t}", {"math": 1000}, strategy="interpolation", params={"line": line, "t": t}),
            0.5,
        )
        for line in range(40)
        for t in places
    ]
    found = []
    for ability, items in ITEMS.items():
        drawn = planted.scores([level for _, level in runs], items, np.random.default_rng(items))
        found += [planted.result(info, ability, line.tolist()) for (info, _), line in zip(runs, drawn, strict=True)]
    return found


def vectors() -> list[TaskVectors]:
    """Return 200 models' task vectors in 24 layers of seven tensors."""
    random, count = np.random.default_rng(0), 200
    parts = []
    for layer in range(24):
        for module in range(7):
            moves = random.standard_normal((count, 300))
            moved = np.full((count, count), 300)
            conflicts = (moves @ np.sign(moves).T < 0) * 150
            parts.append(VectorPart(layer, f"module {module}", 300, 1.0, moves @ moves.T, moved, conflicts))
    return [TaskVectors("base", [f"model {number}" for number in range(count)], parts, {})]


def clouds() -> list[Representation]:
    """Return 600 vectors of three abilities, 576 wide, for each of nine models."""
    random, names = np.random.default_rng(0), list(ITEMS)
    source = np.repeat(np.arange(3), 200).astype(np.int16)
    found = []
    for number in range(9):
        vectors = random.standard_normal((600, 576)).astype(np.float32)
        vectors[np.arange(600), source] += number
        found.append(Representation("base", f"model {number}", -1, "mean", names, names, source, vectors))
    return found


OWN: dict[str, Callable[[], Sequence[Any]]] = {
    "alignment_tax": marked,
    "interpolation": lines,
    "representations": clouds,
    "task_vectors": vectors,
}
"""Analyses that look at something else than the 200 runs of the others."""

ABSENT = ("selections", "judged", "leakage")


def main(names: list[str]) -> None:
    """Print one line an analysis."""
    for name in names or [name for name in components.names("analyses") if name not in ABSENT]:
        module = components.find("analyses", name)
        made: list[Any] = list(OWN.get(name, results)())
        start, wall = time.process_time(), time.perf_counter()
        tables = module.table(made, module.Params())
        print(
            f"{name:16} {time.process_time() - start:6.1f} CPU s  {time.perf_counter() - wall:6.1f} s  "
            f"{len(tables)} tables, {sum(len(table.rows) for table in tables)} rows",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
