"""The loss of each example at each step that held it, four bytes each: ``losses.f32`` beside the log.

    mean nll over the example's supervised tokens, float32, little-endian, in the order of the steps' rows
    NaN where the example has no supervised token

Whose a number is follows from the plan of steps, so a resume cuts the file to a length and nothing else is stored. When
a training is done, its ledger takes the numbers over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cuvee.engine.disk import sync_file

FILE = "losses.f32"
WIDTH = 4


class ExampleLosses:
    """The file of one training.

    Args:
        work: the training's folder.
        steps: row indexes of each optimiser step.
    """

    def __init__(self, work: Path, steps: Sequence[Sequence[int]]) -> None:
        self.path, self._steps = work / FILE, steps
        self._handle: IO[bytes] | None = None

    def cut(self, step: int) -> None:
        """Keep what belongs to the first `step` steps; what is absent of it is not known, NaN."""
        wanted = sum(len(self._steps[number]) for number in range(step))
        held = self.path.stat().st_size // WIDTH if self.path.exists() else 0
        with open(self.path, "ab") as handle:
            handle.truncate(min(held, wanted) * WIDTH)
            handle.write(np.full(max(0, wanted - held), np.nan, "<f4").tobytes())

    def append(self, losses: NDArray[Any]) -> None:
        """Write a step's, in the order of its rows."""
        if self._handle is None:
            self._handle = open(self.path, "ab")  # noqa: SIM115 - closed by `close`
        self._handle.write(losses.astype("<f4").tobytes())
        self._handle.flush()

    def sync(self) -> None:
        """Flush to disk: a checkpoint must never be newer than the losses before it."""
        if self.path.exists():
            sync_file(self.path)

    def close(self) -> None:
        """Flush and close."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
            self.sync()


def read(work: Path) -> NDArray[np.float32] | None:
    """Return a training's losses, one an example and step in the order of the steps' rows; None where none are kept."""
    path = work / FILE
    return np.fromfile(path, "<f4").astype(np.float32, copy=False) if path.exists() else None
