"""The load stage's artefact: a source's examples after conversion and quarantine.

    examples.parquet     id, occurrence, prompt_key, messages (JSON), tags, path, line, repair
    quarantine.parquet   path, line, reason, text

A row's occurrence counts equal rows in stream order, so that two equal rows can be told apart for ever.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cuvee.data.files import TEXT_KEPT
from cuvee.data.formats import Repaired
from cuvee.errors import DataError
from cuvee.values import BadRow, Example, Message

FILE = "examples.parquet"
QUARANTINE = "quarantine.parquet"
ROW_GROUP = 2048

SCHEMA = pa.schema(
    [
        ("id", pa.binary(16)),
        ("occurrence", pa.int32()),
        ("prompt_key", pa.binary(16)),
        ("messages", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("path", pa.string()),
        ("line", pa.int64()),
        ("repair", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [("path", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.string())]
)


def write(folder: Path, rows: Iterable[Example | BadRow], max_bad: Fraction) -> dict[str, Any]:
    """Write a source's rows; memory holds one row group and a counter of ids.

    Args:
        folder: an existing folder.
        rows: examples and bad rows in file order.
        max_bad: the largest share of bad rows that is accepted.

    Returns:
        ``{"rows", "bad", "repaired", "bytes", "reasons": {reason: count}}``; bytes are UTF-8 bytes of all
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
    return load.summary()


class _Load:
    """One writing: two open files and what was counted."""

    def __init__(self, folder: Path) -> None:
        self.good = _Table(folder / FILE, SCHEMA)
        self.bad = _Table(folder / QUARANTINE, QUARANTINE_SCHEMA)
        self.seen: Counter[bytes] = Counter()
        self.reasons: Counter[str] = Counter()
        self.first_bad: list[BadRow] = []
        self.bytes = self.repaired = 0

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
        occurrence = self.seen[row.key]
        self.seen[row.key] += 1
        text = _as_json(row.messages)
        self.bytes += sum(len(message.content.encode("utf-8", "surrogatepass")) for message in row.messages)
        self.good.add([row.key, occurrence, row.prompt_key, text, list(row.tags), row.path, row.line, repair])

    def _refuse(self, row: BadRow) -> None:
        # What comes after the first colon is particular to the row ("broken JSON: Expecting ...").
        self.reasons[row.reason.partition(":")[0]] += 1
        if len(self.first_bad) < 3:
            self.first_bad.append(row)
        self.bad.add([_clean(row.path), row.line, _clean(row.reason), _clean(row.text[:TEXT_KEPT])])

    def close(self) -> None:
        self.good.close()
        self.bad.close()

    def check(self, max_bad: Fraction) -> None:
        rows, bad = self.good.rows, self.bad.rows
        shown = "".join(f"\n  {row.path}:{row.line}: {row.reason}" for row in self.first_bad)
        if bad > max_bad * (rows + bad):
            raise DataError(
                f"{bad:,} of {rows + bad:,} rows cannot be used, more than max_bad = {float(max_bad):.2%} allows. "
                f"The first:{shown}\nRepair the file, name the right `format` or `columns`, "
                f"or allow it with max_bad: {_ceil_percent(bad, rows + bad)}"
            )
        if not rows:
            raise DataError(f"the source has no usable row ({bad:,} bad ones){shown}")

    def summary(self) -> dict[str, Any]:
        return {
            "rows": self.good.rows,
            "bad": self.bad.rows,
            "repaired": self.repaired,
            "bytes": self.bytes,
            "reasons": dict(sorted(self.reasons.items())),
        }


class _Table:
    """A Parquet file that is written in row groups."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema, self.rows = schema, 0
        self.pending: list[list[Any]] = []
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: list[Any]) -> None:
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


def _as_json(messages: Sequence[Message]) -> str:
    data = [message.as_dict() for message in messages]
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # Parquet holds no broken surrogates; escaped ones it does.
    return text if _clean(text) == text else json.dumps(data, separators=(",", ":"))


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


# -------------------------------------------------------------------------------------------------- reading


def read(folder: Path) -> Iterator[tuple[Example, int]]:
    """Yield (example, occurrence) in load order, one row group in memory."""
    with pq.ParquetFile(folder / FILE) as file:
        for group in range(file.num_row_groups):
            yield from map(_example, file.read_row_group(group).to_pylist())


def read_rows(folder: Path, indexes: Sequence[int]) -> list[tuple[Example, int]]:
    """Return the rows at `indexes` (load order, 0-based) in the order asked.

    Raises:
        IndexError: an index is outside the file.
    """
    found: dict[int, tuple[Example, int]] = {}
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
                rows = file.read_row_group(group).take([index - start for index in here]).to_pylist()
                found.update(zip(here, map(_example, rows), strict=True))
            start = end
    return [found[int(index)] for index in indexes]


def _example(row: dict[str, Any]) -> tuple[Example, int]:
    messages = tuple(_message(turn) for turn in json.loads(row["messages"]))
    tags = tuple(row["tags"])
    if row["repair"]:
        return Repaired(messages, tags, row["path"], row["line"], repair=row["repair"]), row["occurrence"]
    return Example(messages, tags, row["path"], row["line"]), row["occurrence"]


def _message(turn: dict[str, Any]) -> Message:
    return Message(turn.pop("role"), turn.pop("content"), turn)
