"""The table of rows that another row excludes: what the stages `duplicates` and `overlap` write.

    excluded.parquet     source, row, id, occurrence, reason, similarity, other_source, other_row, other_id, text,
                         other_text

`source` and `other_source` number the stage's inputs from 0; `row` and `other_row` are places in load order; `text`
and `other_text` are pieces of what was compared: the beginning, or where an item of a benchmark was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FILE = "excluded.parquet"
EXCERPT = 300
"""Characters of a text that the table keeps."""
_ROW_GROUP = 2048

SCHEMA = pa.schema(
    [
        ("source", pa.int16()),
        ("row", pa.int64()),
        ("id", pa.binary(16)),
        ("occurrence", pa.int32()),
        ("reason", pa.string()),
        ("similarity", pa.float32()),
        ("other_source", pa.int16()),
        ("other_row", pa.int64()),
        ("other_id", pa.binary(16)),
        ("text", pa.string()),
        ("other_text", pa.string()),
    ]
)


class Exclusion(NamedTuple):
    """One line of the table."""

    source: int
    row: int
    id: bytes
    occurrence: int
    reason: str
    similarity: float
    other_source: int
    other_row: int
    other_id: bytes
    text: str
    other_text: str


def write(folder: Path, rows: Iterable[Exclusion]) -> None:
    """Write the table, a row group at a time."""
    write_table(folder / FILE, SCHEMA, rows)


def read(folder: Path) -> Iterator[Exclusion]:
    """Yield the table's lines, one row group in memory."""
    with pq.ParquetFile(folder / FILE) as file:
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group).to_pydict()
            yield from map(Exclusion._make, zip(*(columns[name] for name in Exclusion._fields), strict=True))


def rows(folder: Path, source: int) -> NDArray[np.int64]:
    """Return the rows of one of the stage's sources that are excluded, in load order and each once."""
    table = pq.read_table(folder / FILE, columns=["row"], filters=[("source", "=", source)])
    return np.unique(table["row"].to_numpy())


def write_table(path: Path, schema: pa.Schema, rows: Iterable[tuple[object, ...]]) -> None:
    """Write tuples in the order of the schema's fields as Parquet."""
    pending = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(pending, _ROW_GROUP)):
            columns = zip(*batch, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def excerpt(text: str) -> str:
    """Return the beginning of a text, as Parquet can hold it."""
    return text[:EXCERPT].encode("utf-8", "backslashreplace").decode()[:EXCERPT]
