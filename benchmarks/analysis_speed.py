"""CPU seconds of each analysis on 200 runs of synthetic results; of representations on a base and its 8 runs.

python benchmarks/analysis_speed.py [analysis ...]

What looks at stored selections and weights has no synthetic results, and is left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.analyses import planted

from cuvee import components
from cuvee.protocols import Representation, Result, RunInfo

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


def main(names: list[str]) -> None:
    """Print one line an analysis."""
    found = results()
    for name in names or list(components.names("analyses")):
        module = components.find("analyses", name)
        about = getattr(module, "OF", "")
        if about not in ("", "representations"):
            continue
        made: list[Any] = clouds() if about else list(found)
        start, wall = time.process_time(), time.perf_counter()
        tables = module.table(made, module.Params())
        print(
            f"{name:16} {time.process_time() - start:6.1f} CPU s  {time.perf_counter() - wall:6.1f} s  "
            f"{len(tables)} tables, {sum(len(table.rows) for table in tables)} rows",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
