"""A training's ledger: which row of which source, how often, in which steps, with how many supervised tokens.

    ledger.parquet   source (load stage id), row (load order), id, occurrence, times, supervised_tokens, steps

One line a row that was trained on; `times` counts epochs and copies, `supervised_tokens` all of them together,
`steps` are the optimiser steps (1-based) that held it. The numbers are those of the plan of steps, which a finished
training has carried out whole.
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


def write(folder: Path, rows: MixtureRows, steps: Steps, sources: Sequence[str]) -> None:
    """Write the ledger of a training.

    Args:
        folder: an existing folder.
        rows: the mixture.
        steps: the training's steps over all epochs.
        sources: load stage id of each part.
    """
    entry, step = _entries(steps)
    parts = rows.parts[entry].astype(np.int64)
    order = np.lexsort((step, rows.rows[entry], parts))
    entry, step, parts = entry[order], step[order], parts[order]
    first = _firsts(parts, rows.rows[entry])
    starts = np.flatnonzero(first)
    whom = entry[starts]
    table = pa.table(
        {
            "source": _names(parts[starts], sources),
            "row": rows.rows[whom].astype(np.int64),
            "id": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), len(whom), [None, pa.py_buffer(np.ascontiguousarray(rows.keys[whom]).tobytes())]
            ),
            "occurrence": (rows.copies[whom] & 0xFFFFFFFF).astype(np.int32),
            "times": np.diff(np.append(starts, len(entry))).astype(np.int32),
            "supervised_tokens": np.add.reduceat(rows.supervised[entry], starts).astype(np.int64),
            "steps": pa.ListArray.from_arrays(np.append(starts, len(entry)).astype(np.int32), step.astype(np.int32)),
        }
    )
    pq.write_table(table, folder / FILE, compression="zstd")


def read(folder: Path, columns: Sequence[str] | None = None) -> Any:
    """Return a training's ledger as an Arrow table."""
    return pq.read_table(folder / FILE, columns=list(columns) if columns else None)


def _entries(steps: Steps) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return mixture row and 1-based step of everything that was trained on, in the order of training."""
    orders = [steps.order(epoch) for epoch in range(steps.epochs)]
    within = np.arange(len(orders[0])) // steps.batch_size
    return np.concatenate(orders), np.concatenate([within + 1 + e * steps.per_epoch for e in range(steps.epochs)])


def _firsts(parts: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    first = np.ones(len(parts), np.bool_)
    first[1:] = (parts[1:] != parts[:-1]) | (rows[1:] != rows[:-1])
    return first


def _names(parts: NDArray[np.int64], sources: Sequence[str]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(parts.astype(np.int32)), pa.array(list(sources), pa.string()))
