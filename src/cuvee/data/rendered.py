"""The render stage's artefact: one source's token ids and loss mask, memory-mapped.

    rows.arrow   id, occurrence, prompt_key, tokens, spans (start, end, start, end ...), num_tokens,
                 num_supervised, status, reason, tags, full_tokens, full_supervised, cuts, open_turns, boundary,
                 specials; row order is load order

A split row holds the tokens of its pieces one after another; `cuts` says where the later ones start. Columns are
read without touching the tokens, so opening and counting cost no more than the ids.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cuvee.data import examples as load
from cuvee.data.chat import DROPPED, STATUSES, Chat, Row
from cuvee.data.ranks import Ints
from cuvee.errors import DataError
from cuvee.protocols import TokenRow

FILE = "rows.arrow"
BATCH_ROWS = 1024
OPEN = 4096
"""Batches that stay open for random access: their descriptions, not their rows."""
SHORT = 32767
"""The most an int16 column tells."""

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
        ("full_tokens", pa.int32()),
        ("full_supervised", pa.int32()),
        ("cuts", pa.list_(pa.int32())),
        ("open_turns", pa.int16()),
        ("boundary", pa.int16()),
        ("specials", pa.int16()),
    ],
    metadata={"status": ",".join(STATUSES)},
)


SUMS = (
    *("supervised_tokens", "total_tokens", "boundary_tokens", "open_turns"),
    *("specials", "full_tokens", "full_supervised", "pieces", "tools_ignored"),
)


def write(folder: Path, examples: Path, chat: Chat, threads: int = 1) -> dict[str, Any]:
    """Render a load stage's examples; memory holds some batches of rows.

    Args:
        folder: an existing folder.
        examples: the load stage's folder.
        chat: tokenizer, template, mask and length rules.
        threads: how many threads tokenise; the result does not hang on it.

    Returns:
        ``{"rows", "kept", "trimmed", "dropped", "split", "reasons", "supervised_tokens", "total_tokens",
        "boundary_tokens", "open_turns", "specials", "full_tokens", "full_supervised", "pieces", "tools_ignored",
        "longest"}``: rows by status; tokens of what is trained on, and before any length rule (``full_``); messages
        that hold a special token's text; pieces, which are the rows of a training; rows whose tools the template
        does not show; tokens of the longest piece.

    Raises:
        DataError: a row is too long under ``error``, or no row is left.
    """
    chat.encoder.expect(load.num_rows(examples))
    total = Counts()
    batches, ahead = itertools.tee(load.batches(examples, BATCH_ROWS))
    with pa.OSFile(str(folder / FILE), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        found = chat.render_all((batch.examples for batch in ahead), threads)
        for batch, done in zip(batches, found, strict=True):
            writer.write_batch(_record(batch, done))
            total.add(Counts.of(done))
    return total.summary()


@dataclass
class Counts:
    """What is told of some rows.

    Args:
        total: rows by status, and `SUMS`.
        reasons: rows by the reason why they are not as they were.
        longest: tokens of the longest piece.
    """

    total: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    longest: int = 0

    @staticmethod
    def of(rows: Sequence[Row]) -> Counts:
        """Count some rows."""
        total = Counter([row.status for row in rows])
        total["rows"] = len(rows)
        total["supervised_tokens"] = sum([row.num_supervised for row in rows])
        total["total_tokens"] = sum([len(row.ids) for row in rows])
        total["pieces"] = sum([row.num_pieces for row in rows])
        for name in ("boundary_tokens", "open_turns", "specials", "full_tokens", "full_supervised", "tools_ignored"):
            total[name] = sum(map(attrgetter(name), rows))
        return Counts(total, Counter([row.reason for row in rows if row.reason]), max(map(_longest, rows), default=0))

    def add(self, other: Counts) -> None:
        """Count what another has counted."""
        self.total.update(other.total)
        self.reasons.update(other.reasons)
        self.longest = max(self.longest, other.longest)

    def summary(self) -> dict[str, Any]:
        """Return what `write` returns.

        Raises:
            DataError: no row is left.
        """
        total = self.total
        if total[DROPPED] == total["rows"]:
            shown = "; ".join(f"{count:,} x {reason}" for reason, count in self.reasons.most_common(3))
            raise DataError(f"no row is left after rendering: {shown}; change template or max_length, or the data")
        return {
            **{key: total[key] for key in ("rows", *STATUSES)},
            "reasons": dict(sorted(self.reasons.items())),
            **{key: total[key] for key in SUMS},
            "longest": self.longest,
        }


def _record(batch: load.Batch, rows: Sequence[Row]) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        **batch.columns,
        "occurrence": batch.occurrences,
        "tokens": _lists([row.ids for row in rows]),
        "spans": _lists([np.array(row.spans, np.int32).reshape(-1) for row in rows]),
        "num_tokens": [len(row.ids) for row in rows],
        "num_supervised": [row.num_supervised for row in rows],
        "status": [STATUSES.index(row.status) for row in rows],
        "reason": [row.reason for row in rows],
        "full_tokens": [row.full_tokens for row in rows],
        "full_supervised": [row.full_supervised for row in rows],
        "cuts": [row.cuts for row in rows],
        "open_turns": [min(row.open_turns, SHORT) for row in rows],
        "boundary": [min(row.boundary_tokens, SHORT) for row in rows],
        "specials": [min(row.specials, SHORT) for row in rows],
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field in SCHEMA
        for column in [columns[field.name]]
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _lists(arrays: Sequence[NDArray[np.int32]]) -> pa.Array:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays), pa.int32()))


def _longest(row: Row) -> int:
    """Return the tokens of a row's longest piece."""
    return max(b - a for a, b in itertools.pairwise((0, *row.cuts, len(row.ids)))) if row.cuts else len(row.ids)


@dataclass(frozen=True)
class Pieces:
    """What rows of a training come of rendered rows: one piece each, or several of a split one.

    Args:
        starts: number of each row's first piece, (n,).
        tokens: tokens of each piece, (m,).
        supervised: supervised tokens of each piece, (m,).
    """

    starts: NDArray[np.int64]
    tokens: NDArray[np.int32]
    supervised: NDArray[np.int32]


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
        self._path = str(path)
        self._file = pa.ipc.open_file(pa.memory_map(self._path))
        self._starts = np.cumsum([0, *(batch.num_rows for _, batch in self._parts("status"))])
        self._batch = lru_cache(maxsize=OPEN)(self._file.get_batch)

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
    def occurrences(self) -> Ints:
        """Number of each row among equal rows, (n,)."""
        return self._numbers("occurrence")

    @cached_property
    def num_tokens(self) -> Ints:
        """Tokens of each row, (n,); 0 for dropped rows."""
        return self._numbers("num_tokens")

    @cached_property
    def num_supervised(self) -> Ints:
        """Supervised tokens of each row, (n,); 0 for dropped rows."""
        return self._numbers("num_supervised")

    @cached_property
    def full_tokens(self) -> Ints:
        """Tokens of each row before any length rule, (n,); 0 where the template refused it."""
        return self._numbers("full_tokens")

    @cached_property
    def full_supervised(self) -> Ints:
        """Supervised tokens of each row before any length rule, (n,)."""
        return self._numbers("full_supervised")

    @cached_property
    def open_turns(self) -> Ints:
        """Supervised turns of each row that no special token closes, (n,)."""
        return self._numbers("open_turns")

    @cached_property
    def largest(self) -> Ints:
        """Largest token id of each row, (n,); -1 for dropped rows."""
        found = np.full(len(self), -1, np.int64)
        for start, batch in self._parts("tokens"):
            offsets = batch.column("tokens").offsets.to_numpy()
            there = np.flatnonzero(np.diff(offsets))
            if len(there):
                found[start + there] = np.maximum.reduceat(batch.column("tokens").values.to_numpy(), offsets[there])
        return found

    @cached_property
    def specials(self) -> Ints:
        """Messages of each row whose own content holds the text of a special token, (n,)."""
        return self._numbers("specials")

    @cached_property
    def num_pieces(self) -> Ints:
        """Rows of a training that come of each row, (n,): 0 when dropped, more than 1 when split."""
        found = np.empty(len(self), np.int16)
        for start, batch in self._parts("cuts"):
            found[start : start + batch.num_rows] = np.diff(batch.column("cuts").offsets.to_numpy()) + 1
        found[self.dropped] = 0
        return found

    @cached_property
    def pieces(self) -> Pieces:
        """The pieces of all rows, row by row."""
        names = ("status", "cuts", "spans", "num_tokens", "num_supervised")
        tokens, supervised = map(
            np.concatenate, zip(*(_pieces(batch) for _, batch in self._parts(*names)), strict=True)
        )
        return Pieces(np.cumsum(self.num_pieces, dtype=np.int64) - self.num_pieces, tokens, supervised)

    @cached_property
    def status(self) -> Ints:
        """Index into `chat.STATUSES` of each row, (n,)."""
        return self._numbers("status")

    @property
    def dropped(self) -> NDArray[np.bool_]:
        """Which rows were lost at rendering, (n,)."""
        return cast("NDArray[np.bool_]", self.status == STATUSES.index(DROPPED))

    @cached_property
    def tags(self) -> Sequence[tuple[str, ...]]:
        """Tags of each row, read when they are asked for."""
        return _Tags(self)

    def reason(self, index: int) -> str:
        """Return why row `index` is not as it was; empty when it is."""
        batch, at = self._find(index)
        return str(batch.column("reason")[at].as_py())

    def row(self, index: int, part: int = 0, piece: int = 0) -> TokenRow:
        """Return the tokens and supervised spans of one piece of row `index`.

        Raises:
            IndexError: there is no such row or piece.
        """
        batch, at = self._find(index)
        ids = _slice(batch.column("tokens"), at)
        spans = _slice(batch.column("spans"), at).reshape(-1, 2)
        cuts = _slice(batch.column("cuts"), at).tolist()
        if not 0 <= piece <= len(cuts):
            raise IndexError(f"piece {piece} of {len(cuts) + 1} of row {index}")
        if cuts:
            start, end = [0, *cuts, len(ids)][piece : piece + 2]
            ids = ids[start:end]
            spans = spans[(spans[:, 0] >= start) & (spans[:, 0] < end)] - start
        return TokenRow(cast("Sequence[int]", ids), [(first, after) for first, after in spans.tolist()], part)

    def _find(self, index: int) -> tuple[pa.RecordBatch, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        at = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._batch(at), int(index - self._starts[at])

    def _parts(self, *columns: str) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield each batch, some columns of it, with the number of its first row.

        They are read and not mapped, so that what was looked at does not stay in memory.
        """
        fields = [SCHEMA.get_field_index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        start = 0
        with pa.OSFile(self._path) as source:
            file = pa.ipc.open_file(source, options=options)
            for index in range(file.num_record_batches):
                batch = file.get_batch(index)
                yield start, batch
                start += batch.num_rows

    def _numbers(self, name: str) -> Ints:
        found = np.empty(len(self), SCHEMA.field(name).type.to_pandas_dtype())
        for start, batch in self._parts(name):
            found[start : start + batch.num_rows] = batch.column(name).to_numpy()
        return cast("Ints", found)

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        found = np.empty((len(self), 16), np.uint8)
        for start, batch in self._parts(name):
            column = batch.column(name)
            flat = np.frombuffer(column.buffers()[1], np.uint8)
            found[start : start + len(column)] = flat[column.offset * 16 : (column.offset + len(column)) * 16].reshape(
                -1, 16
            )
        return found


class _Tags(Sequence[tuple[str, ...]]):
    """Tags by row; memory holds those of one batch."""

    def __init__(self, rendered: Rendered) -> None:
        self._rendered = rendered

    def __len__(self) -> int:
        return len(self._rendered)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for _, batch in self._rendered._parts("tags"):
            column = batch.column("tags")
            yield from map(tuple, column.to_pylist()) if len(column.flatten()) else [()] * len(column)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # no slices, so no overloads
        batch, at = self._rendered._find(index)
        return tuple(batch.column("tags")[at].as_py())


def _pieces(batch: pa.RecordBatch) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return tokens and supervised tokens of each piece of one batch."""
    alive = batch.column("status").to_numpy() != STATUSES.index(DROPPED)
    cuts = batch.column("cuts")
    per_row = np.diff(cuts.offsets.to_numpy())
    if not per_row.any():
        tokens, supervised = (batch.column(name).to_numpy()[alive] for name in ("num_tokens", "num_supervised"))
        return tokens, supervised
    # Places are counted through the whole batch; a dropped row has no tokens and takes no place.
    lengths = batch.column("num_tokens").to_numpy().astype(np.int64)
    begins = np.cumsum(lengths) - lengths
    later = np.repeat(begins, per_row) + cuts.values.to_numpy()
    starts = np.sort(np.concatenate([begins[alive], later]))
    spans = batch.column("spans")
    bounds = spans.values.to_numpy().reshape(-1, 2).astype(np.int64)
    places = np.repeat(begins, np.diff(spans.offsets.to_numpy()) // 2) + bounds[:, 0]
    owners = np.searchsorted(starts, places, side="right") - 1
    supervised = np.zeros(len(starts), np.int32)
    np.add.at(supervised, owners, bounds[:, 1] - bounds[:, 0])
    return np.diff(starts, append=lengths.sum()).astype(np.int32), supervised


def _slice(column: pa.Array, at: int) -> NDArray[np.int32]:
    start, end = column.offsets[at].as_py(), column.offsets[at + 1].as_py()
    return cast("NDArray[np.int32]", column.values[start:end].to_numpy(zero_copy_only=True))
