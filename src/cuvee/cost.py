"""What a plan will cost, before it is spent: rows, tokens, steps, time, memory, disk.

Numbers of stored stages are exact. Others come from a sample of the file or from declared sizes, and are marked
``~``. Times are floating-point operations over a rate: measured from stored trainings of the same base where
there are any, else an assumption that is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cuvee import memory, needs
from cuvee.footprint import disk_of, memory_of
from cuvee.plan import Plan
from cuvee.runtime import Runtime, cores
from cuvee.sizes import Book, Judging, Size, judges, size_of
from cuvee.store import Store
from cuvee.timing import default_rate, longest_chain, rates_of, seconds_of, untimed


@dataclass(frozen=True)
class Costs:
    """Sizes and seconds by stage id, and the whole plan's sums.

    Args:
        todo: ids of the stages that a run would execute.
        sizes: by stage id.
        seconds: one worker's seconds by stage id; 0 for stages that are there.
        memory: what one process of the largest training holds, item by item.
        memory_stage: short name of that training; empty when there is none.
        disk_bytes: what will be written and kept.
        disk_peak_bytes: what it grows to meanwhile: models not yet given up, checkpoints.
        seconds_all: wall-clock seconds with the runtime's workers.
        seconds_alone: seconds of one worker if every run trained by itself.
        seconds_shared: seconds of one worker for the trainings of the graph.
        judging: what judges are still to be asked, by their name.
        assumptions: sentences, each with its number.
    """

    todo: frozenset[str]
    sizes: Mapping[str, Size]
    seconds: Mapping[str, float]
    memory: tuple[memory.Item, ...]
    memory_stage: str
    disk_bytes: int
    disk_peak_bytes: int
    seconds_all: float
    seconds_alone: float
    seconds_shared: float
    judging: Mapping[str, Judging]
    assumptions: tuple[str, ...]

    @property
    def memory_bytes(self) -> int:
        """The largest training's, of one process."""
        return sum(item.bytes for item in self.memory)


def estimate(plan: Plan, store: Store, runtime: Runtime, flops: float | None = None) -> Costs:
    """Return what a plan costs on this machine.

    Args:
        plan: the plan; nothing of it is executed.
        store: where finished stages lie.
        runtime: workers and threads decide the wall-clock time.
        flops: useful operations a second of one worker, when the machine meant is another one.
    """
    present = frozenset(stage.id for stage in plan.stages if store.has(stage.kind, stage.id))
    book = Book(plan, store, runtime, flops or default_rate(runtime), flops is not None, present)
    for stage in plan.stages:
        book.sizes[stage.id] = size_of(stage, book)
    rates, said = rates_of(book)
    full = {stage.id: seconds_of(stage, book, rates) for stage in plan.stages}
    todo = frozenset(stage.id for stage in needs.wanted(plan, store))
    missing = {stage.id: full[stage.id] if stage.id in todo else 0.0 for stage in plan.stages}
    items, largest, memory_said = memory_of(book)
    workers = runtime.workers or min(cores(), 4)
    return Costs(
        todo,
        book.sizes,
        missing,
        items,
        largest,
        *disk_of(book, todo, workers),
        max(sum(missing.values()) / workers, longest_chain(plan, missing)),
        sum(full[stage.id] for run in plan.runs for stage in run.trainings),
        sum(full[stage.id] for stage in plan.stages if stage.kind == "train"),
        judges(book, todo),
        (said, memory_said, f"{workers} worker(s) at once", *untimed(book, todo)),
    )
