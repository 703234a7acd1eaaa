"""Selecting by vectors from a store on disk: seconds and memory of rds, less and k_center, checked on a sample.

    PYTHONPATH=src python benchmarks/vector_search.py --rows 1000000 --width 64

Random vectors of length 1 in half precision lie in two files, as two sources' embed stages write them, and are read
through a memory map. The memory of the process that the kernel cannot take back (RssAnon) is looked at every 20 ms;
what the map holds of the files is page cache. Each way's nearest rows are compared with a plain product on a part.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cuvee.data import vectors
from cuvee.protocols import Candidates
from cuvee.selectors import k_center, less, rds


def anonymous() -> float:
    """Return the process's own memory in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise SystemExit("needs Linux: /proc/self/status has no RssAnon")


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a call gives, its processor seconds, and by how many MiB the memory grew meanwhile at most."""
    before, peak, over = anonymous(), [0.0], threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=look)
    watcher.start()
    start = time.process_time()
    found = work()
    seconds = time.process_time() - start
    over.set()
    watcher.join()
    return found, seconds, max(peak[0], anonymous()) - before


def write(path: Path, rows: int, width: int, seed: int) -> None:
    """Write random vectors a block at a time."""
    draw = np.random.default_rng(seed)
    out = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    for start in range(0, rows, 1 << 16):
        block = draw.standard_normal((min(1 << 16, rows - start), width), np.float32)
        out[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    out.flush()


def pool(place: Path, rows: int, width: int) -> Candidates:
    """Return candidates whose vectors lie on disk."""
    for number in range(2):
        write(place / f"{number}.npy", rows // 2, width, number)
    stacked: Any = vectors.Stacked([np.load(place / f"{number}.npy", mmap_mode="r") for number in range(2)])
    total, draw = len(stacked), np.random.default_rng(9)
    none = np.zeros(total, np.int32)
    keys = draw.integers(0, 256, (total, 16), np.uint8)
    weight = {"vector": stacked, "weight": np.ones(total)}
    return Candidates(
        sources=np.zeros(total, np.int16),
        rows=np.arange(total),
        keys=keys,
        occurrences=none,
        tokens=none,
        supervised=none,
        evidence={"rows": weight},
    )


def main() -> None:
    """Measure each selector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--keep", type=int, default=10_000)
    parser.add_argument("--cover", type=int, default=20, help="rows that the greedy cover takes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = replace(pool(Path(folder), options.rows, options.width), wanted=options.keep)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
        targets = np.random.default_rng(5).standard_normal((options.targets, options.width)).astype(np.float32)
        targets /= np.linalg.norm(targets, axis=1, keepdims=True)
        near = replace(rows, targets={"t": {"vector": targets}})
        influence = replace(rows, evidence={"epoch1": rows.evidence["rows"]}, targets={"epoch1.t": {"vector": targets}})
        ways: dict[str, Callable[[], Any]] = {
            "rds, in turns": lambda: rds.judge(near, {"choose": "turns"}),
            "less, one epoch": lambda: less.judge(influence, {}),
            "k_center, filter": lambda: k_center.judge(rows, {"method": "filter", "largest": 0.9}),
            f"k_center, farthest {options.cover}": lambda: k_center.judge(
                replace(rows, wanted=options.cover), {"method": "farthest"}
            ),
        }
        print(f"{len(rows):,} x {options.width} float16, {size:.0f} MiB on disk, {options.targets} targets")
        for name, way in ways.items():
            judged, seconds, grown = measured(way)
            print(f"  {name:24} {seconds:7.1f} CPU s, {grown:6.0f} MiB more memory at most")
            if name.startswith("rds"):
                part = rows.evidence["rows"]["vector"][:5000].astype(np.float32)
                assert np.allclose(judged.scores[:5000], (part @ targets.T).max(1), atol=1e-5)
                assert len(judged.order) == len(set(judged.order.tolist())) == options.keep


if __name__ == "__main__":
    main()
