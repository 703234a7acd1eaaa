"""What a regulariser costs: processor seconds of a training with and without it, in turn, and what it holds in memory.

    PYTHONPATH=src python benchmarks/held_cost.py --rounds 2

Each round trains the same random LLaMA (see `train_speed`) on the same rows once in every way. Ratios are those of the
medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from cuvee.data.batches import micro_batches
from cuvee.engine import loop
from cuvee.engine.disk import Checkpoints
from cuvee.runtime import Runtime
from train_speed import make_model, make_rows, timed

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "l2_sp": {"regulariser": {"l2_sp": {"weight": 0.01}}},
    "kl": {"regulariser": {"kl": {"weight": 0.1, "direction": "reverse"}}},
}


def seconds(folder: Path, rows: Any, batch: int, way: dict[str, Any]) -> float:
    """Return the processor seconds of one training."""
    steps = [list(range(i, i + batch)) for i in range(0, len(rows), batch)]
    hyper = {"learning_rate": 2e-5, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "betas": (0.9, 0.999)}
    hyper |= {"eps": 1e-8, "clip": 1.0, "precision": "float32", "seed": 0, **way}
    runtime = Runtime(threads=1, micro_tokens=2048, device="cpu", checkpoint_seconds=1e9)
    with tempfile.TemporaryDirectory() as work:
        training = loop.Training(folder, rows, steps, hyper, Path(work), runtime, lambda facts: None, micro_batches)
        training.resume_or_start(Checkpoints(Path(work), ""))
        return timed(training.run)


def main() -> None:
    """Parse the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = make_rows(options.rows, options.vocabulary, 512, seed=1)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as place:
        size = make_model(Path(place) / "model", options.vocabulary)
        print(f"{size / 1e6:.1f} M parameters, {len(rows)} rows, {sum(len(row.ids) for row in rows)} tokens")
        for _ in range(options.rounds):
            for name, way in WAYS.items():
                found[name].append(seconds(Path(place) / "model", rows, options.batch, way))
    plain = statistics.median(found["plain"])
    for name, took in found.items():
        shown = ", ".join(f"{one:.1f}" for one in took)
        print(f"{name:6} {shown} CPU seconds, {statistics.median(took) / plain:.2f} of plain", flush=True)


if __name__ == "__main__":
    main()
