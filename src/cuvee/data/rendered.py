"""The render stage's artefact: one source's token ids and loss mask, memory-mapped.

    rows.arrow   id, occurrence, prompt_key, tokens, spans (start, end, start, end ...), num_tokens,
                 num_supervised, status, reason, tags; row order is load order

Columns are read without touching the tokens, so opening and counting cost no more than the ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cuvee.data import examples as load
from cuvee.data.chat import DROPPED, KEPT, STATUSES, TRIMMED, Chat, Row
from cuvee.errors import DataError
from cuvee.protocols import TokenRow
from cuvee.values import Example

FILE = "rows.arrow"
BATCH_ROWS = 1024

SCHEMA = pa.schema(
    [
        ("id", pa.binary(16)),
        ("occurrence", pa.int32()),
        ("prompt_key", pa.binary(16)),
        ("tokens", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
        ("num_supervised", pa.int32()),
        ("status", pa.int8()),
        ("reason", pa.string()),
        ("tags", pa.list_(pa.string())),
    ],
    metadata={"status": ",".join(STATUSES)},
)


def write(folder: Path, examples: Path, chat: Chat) -> dict[str, Any]:
    """Render a load stage's examples; memory holds one batch of rows.

    Args:
        folder: an existing folder.
        examples: the load stage's folder.
        chat: tokenizer, template, mask and length rules.

    Returns:
        ``{"rows", "kept", "trimmed", "dropped", "reasons", "supervised_tokens", "total_tokens",
        "boundary_tokens", "open_turns", "longest"}``; tokens of kept and trimmed rows.

    Raises:
        DataError: an answer cannot be found in its rendered text, a row is too long under ``error``, or no row
            is left.
    """
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    longest = 0
    with pa.OSFile(str(folder / FILE), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in _batches(load.read(examples)):
            rows = chat.render([example for example, _ in batch])
            writer.write_batch(_record(batch, rows))
            for row in rows:
                _add(total, reasons, row)
                longest = max(longest, len(row.ids))
    summary = {
        **{key: total[key] for key in ("rows", *STATUSES)},
        "reasons": dict(sorted(reasons.items())),
        **{key: total[key] for key in ("supervised_tokens", "total_tokens", "boundary_tokens", "open_turns")},
        "longest": longest,
    }
    if not total[KEPT] + total[TRIMMED]:
        shown = "; ".join(f"{count:,} x {reason}" for reason, count in reasons.most_common(3))
        raise DataError(f"no row is left after rendering: {shown}; change template or max_length, or the data")
    return summary


def _batches(rows: Iterator[tuple[Example, int]]) -> Iterator[list[tuple[Example, int]]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def _record(batch: Sequence[tuple[Example, int]], rows: Sequence[Row]) -> pa.RecordBatch:
    columns: list[Any] = [
        [example.key for example, _ in batch],
        [occurrence for _, occurrence in batch],
        [example.prompt_key for example, _ in batch],
        _lists([row.ids for row in rows]),
        _lists([np.array(row.spans, np.int32).reshape(-1) for row in rows]),
        [len(row.ids) for row in rows],
        [row.num_supervised for row in rows],
        [STATUSES.index(row.status) for row in rows],
        [row.reason for row in rows],
        [list(example.tags) for example, _ in batch],
    ]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _lists(arrays: Sequence[NDArray[np.int32]]) -> pa.Array:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays), pa.int32()))


def _add(total: Counter[str], reasons: Counter[str], row: Row) -> None:
    total["rows"] += 1
    total[row.status] += 1
    total["supervised_tokens"] += row.num_supervised
    total["total_tokens"] += len(row.ids)
    total["boundary_tokens"] += row.boundary_tokens
    total["open_turns"] += row.open_turns
    if row.reason:
        reasons[row.reason] += 1


class Rendered:
    """A render stage's rows, memory-mapped.

    Args:
        folder: the render stage's folder.

    Raises:
        DataError: the folder holds no rows.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / FILE
        if not path.is_file():
            raise DataError("no rendered rows here", path=str(path))
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [file.get_batch(index) for index in range(file.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def keys(self) -> NDArray[np.uint8]:
        """Example ids, (n, 16)."""
        return self._bytes("id")

    @cached_property
    def prompt_keys(self) -> NDArray[np.uint8]:
        """Prompt keys, (n, 16)."""
        return self._bytes("prompt_key")

    @cached_property
    def occurrences(self) -> NDArray[np.int64]:
        """Number of each row among equal rows, (n,)."""
        return self._numbers("occurrence")

    @cached_property
    def num_tokens(self) -> NDArray[np.int64]:
        """Tokens of each row, (n,); 0 for dropped rows."""
        return self._numbers("num_tokens")

    @cached_property
    def num_supervised(self) -> NDArray[np.int64]:
        """Supervised tokens of each row, (n,); 0 for dropped rows."""
        return self._numbers("num_supervised")

    @cached_property
    def status(self) -> NDArray[np.int64]:
        """Index into `chat.STATUSES` of each row, (n,)."""
        return self._numbers("status")

    @property
    def dropped(self) -> NDArray[np.bool_]:
        """Which rows were lost at rendering, (n,)."""
        return cast("NDArray[np.bool_]", self.status == STATUSES.index(DROPPED))

    @cached_property
    def tags(self) -> list[tuple[str, ...]]:
        """Tags of each row."""
        return [tuple(tags) for batch in self._batches for tags in batch.column("tags").to_pylist()]

    def reason(self, index: int) -> str:
        """Return why row `index` is not as it was; empty when it is."""
        batch, at = self._find(index)
        return str(batch.column("reason")[at].as_py())

    def row(self, index: int, part: int = 0) -> TokenRow:
        """Return the tokens and supervised spans of row `index`.

        Raises:
            IndexError: there is no such row.
        """
        batch, at = self._find(index)
        ids = _slice(batch.column("tokens"), at)
        spans = _slice(batch.column("spans"), at).reshape(-1, 2).tolist()
        return TokenRow(cast("Sequence[int]", ids), [(start, end) for start, end in spans], part)

    def _find(self, index: int) -> tuple[pa.RecordBatch, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        at = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._batches[at], int(index - self._starts[at])

    def _numbers(self, name: str) -> NDArray[np.int64]:
        parts = [batch.column(name).to_numpy() for batch in self._batches]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        parts = []
        for batch in self._batches:
            column = batch.column(name)
            flat = np.frombuffer(column.buffers()[1], np.uint8)
            parts.append(flat[column.offset * 16 : (column.offset + len(column)) * 16].reshape(-1, 16))
        return np.concatenate(parts) if parts else np.zeros((0, 16), np.uint8)


def _slice(column: pa.Array, at: int) -> NDArray[np.int32]:
    start, end = column.offsets[at].as_py(), column.offsets[at + 1].as_py()
    return cast("NDArray[np.int32]", column.values[start:end].to_numpy(zero_copy_only=True))
