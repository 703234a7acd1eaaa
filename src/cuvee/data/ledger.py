"""A training's ledger: which row of which source, how often, in which steps, with how many supervised tokens.

    ledger.parquet   part, source (load stage id), row (load order), id, occurrence, times, supervised_tokens, steps,
                     losses

`part` numbers the sources of the mixture: two of them may be the same rows. One line a row and part that was
trained on; `times` counts epochs and copies, `supervised_tokens` all of them together, `steps` are the optimiser steps
(1-based) that held it, `losses` the row's mean nll a supervised token in each of them, before that step's update (null
where nothing of it is supervised; no list where the engine keeps none). The other numbers are those of the plan of
steps, which a finished training has carried out whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuvee.data.batches import Steps
from cuvee.data.mixture import MixtureRows

FILE = "ledger.parquet"


def write(
    folder: Path,
    rows: MixtureRows,
    steps: Steps,
    sources: Sequence[str],
    until: int | None = None,
    losses: NDArray[np.float32] | None = None,
) -> None:
    """Write the ledger of a training.

    Args:
        folder: an existing folder.
        rows: the mixture.
        steps: the training's steps over all epochs.
        sources: load stage id of each part.
        until: the last step that counts; all when None.
        losses: mean nll of each row of each step, in the order of the steps; NaN where it is not known.
    """
    entry, step = _entries(steps)
    if until is not None:
        entry, step = entry[step <= until], step[step <= until]
    order = np.lexsort((step, rows.rows[entry], rows.parts[entry]))
    entry, step = entry[order], step[order]
    if losses is not None:
        losses = losses[order]
    del order
    starts = _starts(rows.parts[entry], rows.rows[entry])
    whom, ends = entry[starts], np.append(starts, len(entry))
    table = pa.table(
        {
            "part": rows.parts[whom],
            "source": _names(rows.parts[whom], sources),
            "row": rows.rows[whom].astype(np.int64),
            "id": _ids(rows.keys[whom]),
            "occurrence": (rows.copies[whom] & 0xFFFFFFFF).astype(np.int32),
            "times": np.diff(ends).astype(np.int32),
            "supervised_tokens": np.add.reduceat(rows.supervised[entry], starts).astype(np.int64),
            "steps": pa.LargeListArray.from_arrays(ends, step),
            "losses": _losses(ends, losses),
        }
    )
    pq.write_table(table, folder / FILE, compression="zstd")


def read(folder: Path, columns: Sequence[str] | None = None) -> Any:
    """Return a training's ledger as an Arrow table."""
    return pq.read_table(folder / FILE, columns=list(columns) if columns else None)


def _losses(ends: NDArray[np.int64], losses: NDArray[np.float32] | None) -> Any:
    if losses is None:
        return pa.nulls(len(ends) - 1, pa.large_list(pa.float32()))
    return pa.LargeListArray.from_arrays(ends, pa.array(losses, pa.float32(), mask=np.isnan(losses)))


def _entries(steps: Steps) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return mixture row and 1-based step of everything that was trained on, in the order of training."""
    orders = [steps.order(epoch).astype(np.int32) for epoch in range(steps.epochs)]
    within = (np.arange(len(orders[0]), dtype=np.int32) // steps.batch_size) + 1
    return np.concatenate(orders), np.concatenate([within + e * steps.per_epoch for e in range(steps.epochs)])


def _starts(parts: NDArray[np.int16], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each row of each part begins."""
    first = np.ones(len(parts), np.bool_)
    first[1:] = (parts[1:] != parts[:-1]) | (rows[1:] != rows[:-1])
    return np.flatnonzero(first)


def _ids(keys: NDArray[np.uint8]) -> Any:
    packed = pa.py_buffer(np.ascontiguousarray(keys).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, packed])


def _names(parts: NDArray[np.int16], sources: Sequence[str]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(parts.astype(np.int32)), pa.array(list(sources), pa.string()))
