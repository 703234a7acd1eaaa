"""The load stage's artefact: a source's examples after conversion and quarantine.

    examples.parquet     id, prompt_key, messages (JSON), tags, path, line, repair, tools (JSON),
                         extra (JSON; empty where no column of the raw row is kept)
    repeats.parquet      row, occurrence: the rows that are not the first of their id
    quarantine.parquet   path, line, reason, text

A row's occurrence counts equal rows in stream order, so that two equal rows can be told apart for ever. It is known
when all rows are: memory holds one row group and 16 bytes a row until then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuvee.data import ranks
from cuvee.data.files import TEXT_KEPT
from cuvee.data.formats import Repaired
from cuvee.data.ranks import Keys
from cuvee.data.turns import LeftOut
from cuvee.errors import DataError
from cuvee.values import BadRow, Example, Message

FILE = "examples.parquet"
QUARANTINE = "quarantine.parquet"
REPEATS = "repeats.parquet"
ROW_GROUP = 2048

SCHEMA = pa.schema(
    [
        ("id", pa.binary(16)),
        ("prompt_key", pa.binary(16)),
        ("messages", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("path", pa.string()),
        ("line", pa.int64()),
        ("repair", pa.string()),
        ("tools", pa.string()),
        ("extra", pa.string()),
    ]
)
REPEATS_SCHEMA = pa.schema([("row", pa.int64()), ("occurrence", pa.int32())])
QUARANTINE_SCHEMA = pa.schema(
    [("path", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.string())]
)


def write(folder: Path, rows: Iterable[Example | BadRow], max_bad: Fraction) -> dict[str, Any]:
    """Write a source's rows.

    Args:
        folder: an existing folder.
        rows: examples and bad rows in file order.
        max_bad: the largest share of bad rows that is accepted.

    Returns:
        ``{"rows", "bad", "left_out", "repaired", "bytes", "reasons": {reason: count}}``; bytes are UTF-8 bytes of all
        contents, reasons are those of bad and of repaired rows.

    Raises:
        DataError: more than `max_bad` of the rows are bad, or none is left.
    """
    load = _Load(folder)
    try:
        for row in rows:
            load.add(row)
    finally:
        load.close()
    load.check(max_bad)
    load.number()
    return load.summary()


class _Load:
    """One writing: two open files and what was counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good = _Table(folder / FILE, SCHEMA)
        self.bad = _Table(folder / QUARANTINE, QUARANTINE_SCHEMA)
        self.ids = bytearray()
        self.reasons: Counter[str] = Counter()
        self.first_bad: list[BadRow] = []
        self.bytes = self.repaired = self.left_out = 0

    def add(self, row: Example | BadRow) -> None:
        if isinstance(row, BadRow):
            self._refuse(row)
        else:
            self._accept(row)

    def _accept(self, row: Example) -> None:
        repair = row.repair if isinstance(row, Repaired) else ""
        if repair:
            self.repaired += 1
            self.reasons[repair] += 1
        self.ids += row.key
        text = _messages(row.messages)
        tools = _as_json(row.tools) if row.tools else ""
        extra = _as_json(row.extra) if row.extra else ""
        self.bytes += sum([_size(message.content) for message in row.messages])
        self.good.add((row.key, row.prompt_key, text, row.tags, row.path, row.line, repair, tools, extra))

    def _refuse(self, row: BadRow) -> None:
        # What comes after the first colon is particular to the row ("broken JSON: Expecting ...").
        self.reasons[row.reason.partition(":")[0]] += 1
        if isinstance(row, LeftOut):
            self.left_out += 1
        elif len(self.first_bad) < 3:
            self.first_bad.append(row)
        self.bad.add((_clean(row.path), row.line, _clean(row.reason), _clean(row.text[:TEXT_KEPT])))

    def number(self) -> None:
        """Write the occurrence numbers of all rows that are not the first of their id."""
        found = occurrences(np.frombuffer(self.ids, np.uint8).reshape(-1, 16))
        rows = np.flatnonzero(found)
        pq.write_table(pa.table([rows, found[rows]], schema=REPEATS_SCHEMA), self.folder / REPEATS)

    def close(self) -> None:
        self.good.close()
        self.bad.close()

    def check(self, max_bad: Fraction) -> None:
        rows, bad = self.good.rows, self.bad.rows - self.left_out
        all_rows = rows + self.bad.rows
        shown = "".join(f"\n  {row.path}:{row.line}: {row.reason}" for row in self.first_bad)
        if bad > max_bad * all_rows:
            raise DataError(
                f"{bad:,} of {all_rows:,} rows cannot be used, more than max_bad = {float(max_bad):.2%} allows. "
                f"The first:{shown}\nRepair the file, name the right `format` or `columns`, "
                f"or allow it with max_bad: {_ceil_percent(bad, all_rows)}"
            )
        if not rows:
            raise DataError(f"the source has no usable row ({bad:,} bad ones){shown}")

    def summary(self) -> dict[str, Any]:
        return {
            "rows": self.good.rows,
            "bad": self.bad.rows - self.left_out,
            "left_out": self.left_out,
            "repaired": self.repaired,
            "bytes": self.bytes,
            "reasons": dict(sorted(self.reasons.items())),
        }


def occurrences(keys: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return how many equal ids stand before each, (n,).

    Args:
        keys: ids in stream order, (n, 16).
    """
    found = np.zeros(len(keys), np.int32)
    rows = ranks.repeated(keys)
    places = np.arange(len(rows))
    found[rows] = places - np.maximum.accumulate(np.where(ranks.firsts(keys[rows]), places, 0))
    return found


class _Table:
    """A Parquet file that is written in row groups."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema, self.rows = schema, 0
        self.pending: list[tuple[Any, ...]] = []
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: tuple[Any, ...]) -> None:
        self.rows += 1
        self.pending.append(row)
        if len(self.pending) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        columns: list[Any] = list(zip(*self.pending, strict=True)) if self.pending else [[] for _ in self.schema]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self.pending = []

    def close(self) -> None:
        if self.pending or not self.rows:
            self._flush()
        self.writer.close()


def _ceil_percent(part: int, whole: int) -> str:
    return f"{-(-part * 100 // whole)}/100"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _messages(messages: Sequence[Message]) -> str:
    if any([message.extra for message in messages]):
        return _as_json([message.as_dict() for message in messages])
    # The same text, three times as fast.
    turns = [f'{{"role":{encode_basestring(m.role)},"content":{encode_basestring(m.content)}}}' for m in messages]
    text = f"[{','.join(turns)}]"
    return text if text.isascii() or _clean(text) == text else _as_json([message.as_dict() for message in messages])


def _as_json(data: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> str:
    text = _encode(data)
    # Parquet holds no broken surrogates; escaped ones it does.
    return text if text.isascii() or _clean(text) == text else json.dumps(data, separators=(",", ":"))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


# -------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Batch:
    """Some rows in load order.

    Args:
        examples: the rows.
        occurrences: number of each among equal rows, (n,) int32.
        columns: the Arrow columns ``id``, ``prompt_key`` and ``tags``, for those who pass them on.
    """

    examples: list[Example]
    occurrences: NDArray[np.int32]
    columns: Mapping[str, pa.Array]


def read(folder: Path) -> Iterator[tuple[Example, int]]:
    """Yield (example, occurrence) in load order, one row group in memory."""
    for batch in batches(folder, ROW_GROUP):
        yield from zip(batch.examples, batch.occurrences.tolist(), strict=True)


def batches(folder: Path, rows: int) -> Iterator[Batch]:
    """Yield all rows in load order, at most `rows` at a time; a batch lies in one row group."""
    repeats, start = _Repeats(folder), 0
    with pq.ParquetFile(folder / FILE) as file:
        for group in range(file.num_row_groups):
            for record in file.iter_batches(rows, row_groups=[group], use_threads=False):
                end = start + record.num_rows
                columns = {name: record.column(name) for name in ("id", "prompt_key", "tags")}
                yield Batch(_examples(record), repeats.of(np.arange(start, end)), columns)
                start = end


def num_rows(folder: Path) -> int:
    """Return how many rows there are."""
    return int(pq.read_metadata(folder / FILE).num_rows)


def keys_and_tags(folder: Path) -> tuple[Keys, list[tuple[str, ...]]]:
    """Return the ids, (n, 16), and the tags, (n,), of all rows in load order."""
    table = pq.read_table(folder / FILE, columns=["id", "tags"])
    keys = np.frombuffer(b"".join(table["id"].to_pylist()), np.uint8).reshape(-1, 16)
    return keys, [tuple(tags) for tags in table["tags"].to_pylist()]


def read_rows(folder: Path, indexes: Sequence[int]) -> list[tuple[Example, int]]:
    """Return the rows at `indexes` (load order, 0-based) in the order asked.

    Raises:
        IndexError: an index is outside the file.
    """
    found: dict[int, Example] = {}
    wanted = sorted({int(index) for index in indexes})
    with pq.ParquetFile(folder / FILE) as file:
        if wanted and (wanted[0] < 0 or wanted[-1] >= file.metadata.num_rows):
            raise IndexError(f"rows 0 to {file.metadata.num_rows - 1} exist, asked for {wanted[0]} to {wanted[-1]}")
        start = position = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            first = position
            while position < len(wanted) and wanted[position] < end:
                position += 1
            here = wanted[first:position]
            if here:
                rows = file.read_row_group(group).take([index - start for index in here])
                found.update(zip(here, _examples(rows), strict=True))
            start = end
    numbers = _Repeats(folder).of(np.array(indexes, np.int64)).tolist()
    return [(found[int(index)], number) for index, number in zip(indexes, numbers, strict=True)]


class _Repeats:
    """Occurrence numbers by row; those of the first of each id, 0, are not stored."""

    def __init__(self, folder: Path) -> None:
        table = pq.read_table(folder / REPEATS)
        self.rows, self.numbers = (table[name].to_numpy() for name in ("row", "occurrence"))

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        if not len(self.rows):
            return np.zeros(len(rows), np.int32)
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[at] == rows, self.numbers[at], 0).astype(np.int32)


def _examples(rows: pa.RecordBatch | pa.Table) -> list[Example]:
    names = ("messages", "tags", "path", "line", "tools", "extra", "repair")
    return list(map(_example, *(rows.column(name).to_pylist() for name in names)))


def _example(messages: str, tags: list[str], path: str, line: int, tools: str, extra: str, repair: str) -> Example:
    turns = tuple([_message(turn) for turn in json.loads(messages)])
    offered = tuple(json.loads(tools)) if tools else ()
    given = (turns, tuple(tags), path, line, offered, json.loads(extra) if extra else {})
    return Repaired(*given, repair=repair) if repair else Example(*given)


def _message(turn: dict[str, Any]) -> Message:
    return Message(turn.pop("role"), turn.pop("content"), turn)
