"""Time and memory of choosing, mixing and planning many rows, and of loading and rendering some.

    python benchmarks/scale.py --folder /tmp/scale                 # 1M and 2M rows
    python benchmarks/scale.py --large --folder /tmp/scale         # 1M, 2M, 5M and 10M rows
    python benchmarks/scale.py --rows 1M --load 200k 400k          # load and render as well, on so many rows

Every size runs in a process of its own. Rendered rows are made up (their ids are random, a row has 8 to 40 tokens and
one tag of three), half of them in each of two sources, and then go through the code of the mix and train stages:
`Rendered`, `parts.choose` (rows with one of the tags dropped, 1 % named by duplicates and 1 % by overlap, 2 % held out,
equal rows dropped, of one source three quarters), `mixture.write`, `MixtureRows`, the order of three epochs, and
`ledger.write`. Loading and rendering go through the code of their stages, from examples made one by one. Printed:
seconds, CPU seconds and the peak of resident memory after each phase, whether the peak is within 2 GiB, then CPU
seconds a million rows at each size and in proportion to the smallest: 1.00 throughout where the cost is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

BATCH = 1024
SIZES = ["1M", "2M"]
LARGE = ["1M", "2M", "5M", "10M"]
MOST = 2.0
"""GiB of resident memory that a process should stay within."""
EPOCHS = 3
TAGS = ("code", "math", "chat")
UNITS = {"k": 1_000, "M": 1_000_000}

SOURCES = ("one", "other")

Value = TypeVar("Value")


class Phases:
    """Seconds, CPU seconds and peak memory of one phase after another."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    def run(self, name: str, work: Callable[[], Value]) -> Value:
        start, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.found[name] = {
            "seconds": time.perf_counter() - start,
            "cpu": time.process_time() - cpu,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        return result


def make_rendered(folder: Path, rows: int, seed: int = 0) -> None:
    """Write a render stage's file of made-up rows; every 50th row repeats the one before it."""
    from cuvee.data import rendered

    rng = np.random.default_rng(seed)
    with pa.OSFile(str(folder / rendered.FILE), "wb") as sink, pa.ipc.new_file(sink, rendered.SCHEMA) as writer:
        for start in range(0, rows, BATCH):
            writer.write_batch(_batch(rng, start, min(BATCH, rows - start)))


def _batch(rng: np.random.Generator, start: int, rows: int) -> pa.RecordBatch:
    from cuvee.data import rendered

    keys = rng.integers(0, 256, (rows, 16), np.uint8)
    again = np.arange(start, start + rows) % 50 == 49
    again[0] = False
    keys[again] = keys[np.flatnonzero(again) - 1]
    lengths = rng.integers(8, 41, rows, np.int32)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    empty = pa.ListArray.from_arrays(np.zeros(rows + 1, np.int32), pa.array([], pa.int32()))
    spans = np.stack([lengths // 2, lengths], axis=1).reshape(-1)
    columns: dict[str, Any] = {
        "id": _binary(keys),
        "occurrence": again.astype(np.int32),
        "prompt_key": _binary(keys[:, ::-1]),
        "tokens": pa.ListArray.from_arrays(offsets, rng.integers(0, 32000, offsets[-1], np.int32)),
        "spans": pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * 2, spans),
        "num_tokens": lengths,
        "num_supervised": lengths - lengths // 2,
        "status": np.zeros(rows, np.int8),
        "reason": pa.array([""] * rows),
        "tags": pa.array([[TAGS[at]] for at in rng.integers(0, len(TAGS), rows).tolist()], pa.list_(pa.string())),
        "full_tokens": lengths,
        "full_supervised": lengths - lengths // 2,
        "cuts": empty,
        **{name: np.zeros(rows, np.int16) for name in ("open_turns", "boundary", "specials")},
    }
    arrays = [pa.array(columns[f.name], f.type) if not isinstance(columns[f.name], pa.Array) else columns[f.name]
              for f in rendered.SCHEMA]  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=rendered.SCHEMA)


def _binary(keys: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys).tobytes())]
    )


def plan(folder: Path) -> dict[str, Any]:
    """Choose, mix and plan the rows in a folder as the stages do."""
    from cuvee.data import batches, ledger, mixture
    from cuvee.data.rendered import Rendered

    phases = Phases()
    phases.run("imports", lambda: None)
    sources = phases.run("open", lambda: [Rendered(folder / name) for name in SOURCES])
    how: dict[str, Any] = {"duplicates": "drop", "drop": {"tags": "code"}}
    hows = [{**how, "amounts": [{"share": "3/4"}]}, {**how, "amounts": []}]
    params = {"heldout": "1/50", "split_seed": 0, "seed": 0, "parts": hows}
    out = [left_out(len(source)) for source in sources]
    phases.run("choose and mix", lambda: mixture.write(folder, sources, params, excluded=out))
    rows = phases.run("open mixture", lambda: mixture.MixtureRows(folder, sources))
    steps = phases.run("plan steps", lambda: batches.plan_steps(rows.keys, rows.copies, EPOCHS, 128, 0))
    phases.run("order of the epochs", lambda: [len(steps.order(epoch)) for epoch in range(EPOCHS)])
    phases.run("read 1,000 rows", lambda: [rows[int(at)] for at in steps.order(0)[:1000]])
    phases.run("ledger", lambda: ledger.write(folder, rows, steps, SOURCES))
    return {"mixture": len(rows), "phases": phases.found}


def left_out(rows: int) -> dict[str, Any]:
    """Return rows that duplicates and overlap name, 1 % each, of which some are the same."""
    return {name: np.arange(first, rows, 100) for first, name in enumerate(("duplicates", "overlap"))}


def load(folder: Path, rows: int) -> dict[str, Any]:
    """Load and render made-up conversations as the stages do."""
    from cuvee.bases import FAKE_TOKENIZER
    from cuvee.data import examples, rendered
    from cuvee.data.chat import Chat

    phases = Phases()
    phases.run("imports", lambda: None)
    phases.run("load", lambda: examples.write(folder, talks(rows), Fraction(0)))
    chat = Chat(FAKE_TOKENIZER, "vicuna_v1.1", max_length=256)
    phases.run("render", lambda: rendered.write(folder, folder, chat, threads=2))
    return {"mixture": rows, "phases": phases.found}


def talks(rows: int) -> Iterator[Any]:
    """Yield short conversations; every 50th repeats the one before it."""
    from cuvee.values import Example, Message

    for row in range(rows):
        number = row - (row % 50 == 49)
        question = f"What is {number} + {number % 97}? Write the sum after four number signs."
        yield Example((Message("user", question), Message("assistant", f"#### {number + number % 97}")))


def count(text: str) -> int:
    """Return the number that ``200k`` or ``10M`` stands for."""
    unit = UNITS.get(text[-1], 1)
    return int(text[:-1] if unit > 1 else text) * unit


def main() -> None:
    """Run every size in a process of its own and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", help=f"sizes to choose, mix and plan; {' '.join(SIZES)}")
    parser.add_argument("--large", action="store_true", help=f"the sizes {' '.join(LARGE)}; takes about 4 GB of disk")
    parser.add_argument("--load", nargs="*", default=[], help="sizes to load and render")
    parser.add_argument("--folder", default=None, help="where files are written (about 350 MB a million rows)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        work, size = options.one
        print(json.dumps(plan(Path(options.folder)) if work == "plan" else load(Path(options.folder), count(size))))
        return
    rows = options.rows if options.rows is not None else LARGE if options.large else SIZES
    for work, sizes in (("plan", rows), ("load", options.load)):
        costs = {size: _measure(work, size, options.folder) for size in sizes}
        for size, cost in costs.items():
            print(
                f"{work} {size}: {cost:.2f} CPU s a million rows, {cost / costs[sizes[0]]:.2f} times that of {sizes[0]}"
            )


def _measure(work: str, size: str, folder: str | None) -> float:
    """Print what one size took and return its CPU seconds a million rows."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        if work == "plan":
            # In a process of its own as well: what making the rows takes is not to be measured.
            pid = os.fork()
            if not pid:
                for seed, name in enumerate(SOURCES):
                    (place / name).mkdir()
                    make_rendered(place / name, count(size) // len(SOURCES), seed)
                os._exit(0)
            if os.waitpid(pid, 0)[1]:
                raise SystemExit(f"the rows could not be made in {place}")
        command = [sys.executable, __file__, "--one", work, size, "--folder", str(place)]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    finally:
        shutil.rmtree(place)
    total = {key: sum(phase[key] for phase in told["phases"].values()) for key in ("seconds", "cpu")}
    peak = max(phase["peak_gib"] for phase in told["phases"].values())
    cost = total["cpu"] / count(size) * 1e6
    print(f"{work} {size} rows ({told['mixture']:,} in the end): {total['seconds']:.1f} s, {total['cpu']:.1f} CPU s, "
          f"{cost:.2f} CPU s a million rows, peak {peak:.2f} GiB, "
          f"{'within' if peak <= MOST else 'MORE THAN'} {MOST:.0f} GiB")  # fmt: skip
    for name, phase in told["phases"].items():
        print(
            f"  {name:20} {phase['seconds']:8.1f} s {phase['cpu']:8.1f} CPU s   peak {phase['peak_gib']:.2f} GiB",
            flush=True,
        )
    return float(cost)


if __name__ == "__main__":
    main()
