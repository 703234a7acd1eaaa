"""Parquet and Arrow files to rows, a few at a time, with every value checked before it is touched.

Compressed ones are unpacked in memory, because both formats but the Arrow stream are read from their end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cuvee.data import compression

ROWS = 1024
BYTES = 16 << 20
"""What is turned into Python values at once: at most so many rows, and about so many bytes."""

LOOKED_THROUGH = 1 << 16
"""Rows up to which a record batch with damage is looked through row by row; in a larger one it takes too long."""


def parquet(path: Path) -> Iterator[dict[str, Any] | str]:
    """Yield a Parquet file's rows; for a row that cannot be read, the reason."""
    with parquet_file(path) as file:
        size = _at_once(file.metadata)
        for batch in file.iter_batches(batch_size=size):
            yield from values(batch)


def arrow(path: Path, stream: bool) -> Iterator[dict[str, Any] | str]:
    """Yield the rows of an Arrow file; `stream` says which of Arrow's two formats it has."""
    for batch in batches(path, stream):
        # Arrow checks nothing when it reads, and would follow offsets that point nowhere (so would `nbytes`).
        checked = _is_sound(batch)
        step = max(1, min(ROWS, batch.num_rows * BYTES // max(1, batch.get_total_buffer_size())))
        for start in range(0, batch.num_rows, step):
            yield from values(batch.slice(start, step), checked)


def _is_sound(batch: Any) -> bool:
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        if batch.num_rows > LOOKED_THROUGH:
            raise
        return False
    return True


def batches(path: Path, stream: bool) -> Iterator[Any]:
    """Yield an Arrow file's record batches."""
    import pyarrow as pa

    with _source(path) as source:
        if stream:
            with pa.ipc.open_stream(source) as file:
                yield from file
        else:
            with pa.ipc.open_file(source) as file:
                for index in range(file.num_record_batches):
                    yield file.get_batch(index)


def parquet_file(path: Path) -> Any:
    """Return an open Parquet file."""
    import pyarrow.parquet as pq

    source = _source(path) if compression.seen(path) else str(path)
    return pq.ParquetFile(source, page_checksum_verification=True)


def values(batch: Any, checked: bool = True) -> Iterator[dict[str, Any] | str]:
    """Yield a batch's rows as Python values; for a row with broken text or an impossible date, the reason.

    Args:
        batch: a record batch or a table.
        checked: whether its offsets are known to be good; else each row is checked by itself.
    """
    if checked:
        try:
            found = batch.to_pylist()
        except (ValueError, OverflowError):
            pass
        else:
            yield from found
            return
    for index in range(batch.num_rows):
        yield _value(batch.slice(index, 1))


def _value(row: Any) -> dict[str, Any] | str:
    try:
        row.validate(full=True)
        (value,) = row.to_pylist()
    except (ValueError, OverflowError) as error:
        return f"a value cannot be read: {error}"
    return dict(value)


def _source(path: Path) -> Any:
    import pyarrow as pa  # here, so that a plan whose data is known starts without it

    if compression.seen(path):
        with compression.open_plain(path) as stream:
            return pa.BufferReader(stream.read())
    # Not memory-mapped: a file that shrinks meanwhile would end the process.
    return pa.OSFile(str(path), "rb")


def _at_once(metadata: Any) -> int:
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return int(max(1, min(ROWS, BYTES * metadata.num_rows // max(1, size))))
