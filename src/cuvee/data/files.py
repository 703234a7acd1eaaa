"""Files to raw rows: JSON, JSONL, Parquet, Arrow and CSV, compressed with gzip or not.

The type is seen from the content (magic bytes, first characters), not from the name; a name only decides what
has no mark of its own (CSV). Reading streams: memory holds one row, one record batch, or, for a JSON object
that wraps its rows, that object.

    for line, row in rows("gsm8k_train.jsonl.gz"):
        ...  # row is a dict, or a BadRow that says why it is none
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from cuvee.errors import DataError, did_you_mean
from cuvee.values import BadRow

RawRow = tuple[int, dict[str, Any] | BadRow]
"""Line (1-based; the row's number where a file has no lines; 0 when unknown), and the row."""

HEAD = 1 << 16
CHUNK = 1 << 20
JUMP_FROM = 4 << 20  # bytes from which on a plain file is sampled without reading all of it
TEXT_KEPT = 500  # characters of a bad row that the quarantine shows
CONVERSATION_KEYS = ("messages", "conversations", "history")
TYPES = "JSON, JSONL, Parquet, Arrow or CSV, each with or without gzip"

Item = TypeVar("Item")


class Absent(DataError):
    """The data are not at hand: no such file, no match of a pattern, no hub. All other faults are real ones."""


# ------------------------------------------------------------------------------------------------ public


def rows(path: str | Path) -> Iterator[RawRow]:
    """Stream a file's rows in order.

    Args:
        path: the file.

    Returns:
        Pairs (line, row). A broken JSON line, a row that is no object and invalid UTF-8 in a line come as
        `BadRow`; blank lines are no rows.

    Raises:
        DataError: the file is absent, empty, of unknown type or damaged beyond single rows.
    """
    path = Path(path)
    return _guarded(path, _READERS[kind(path)](path))


def kind(path: str | Path) -> str:
    """Return ``jsonl``, ``array``, ``object``, ``parquet``, ``arrow`` or ``csv``, by looking at the content.

    Raises:
        DataError: the file is absent, empty or of unknown type.
    """
    path = Path(path)
    head = _head(path)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    text = head.decode("utf-8-sig", "replace").lstrip()
    if not text:
        raise DataError("the file is empty; give a file with at least one row", path=str(path))
    found = _kind_of_text(text, _bare_suffix(path))
    if not found:
        raise DataError(f"the file's type is unknown; possible: {TYPES}", path=str(path))
    return found


def content_hash(path: str | Path) -> str:
    """Return the sha256 of the file's bytes as they lie on disk: 64 hex digits.

    Raises:
        DataError: the file is absent.
    """
    _require(Path(path))
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def count(path: str | Path) -> int:
    """Return the number of rows, bad ones included, without parsing JSON lines.

    Raises:
        DataError: as `rows`.
    """
    path = Path(path)
    found = kind(path)
    if found == "parquet":
        return int(_parquet_file(path).metadata.num_rows)
    if found == "jsonl":
        return sum(1 for _ in _guarded(path, _lines(path)))
    return sum(1 for _ in rows(path))


def sample(path: str | Path, n: int) -> list[RawRow]:
    """Return about `n` rows from all over the file, the same ones at every call.

    Large plain JSONL is entered at `n` places (line 0, because lines before are not counted); Parquet reads the
    row groups that hold the rows; everything else is streamed once and thinned.

    Raises:
        DataError: as `rows`.
    """
    path = Path(path)
    found = kind(path)
    if found == "jsonl":
        if path.stat().st_size > JUMP_FROM and not _is_packed(path):
            return [_parse(path, line, text) for line, text in _jump(path, n)]
        return [_parse(path, line, text) for line, text in spread(_guarded(path, _lines(path)), n)]
    if found == "parquet":
        return _sample_parquet(path, n)
    return spread(rows(path), n)


def spread(items: Iterable[Item], n: int) -> list[Item]:
    """Return `n` or fewer items at even distances, in one pass and with at most 2n items in memory."""
    kept: list[Item] = []
    stride = 1
    for index, item in enumerate(items):
        if index % stride:
            continue
        kept.append(item)
        if len(kept) >= 2 * n:
            kept, stride = kept[::2], stride * 2
    return [kept[i * len(kept) // n] for i in range(n)] if len(kept) > n else kept


# ------------------------------------------------------------------------------------------ looking at a file


def _require(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"this is a folder; give a file in it or a pattern such as {path}/*.jsonl", path=str(path))
    if not path.parent.is_dir():
        raise Absent(f"there is no folder {path.parent}", path=str(path))
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()][:1000]
    near = did_you_mean(path.name, names)
    # A folder may hold thousands of files: only a near name is worth printing.
    raise Absent(f"there is no such file.{near if 'mean' in near else ''}", path=str(path))


def _is_packed(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _open(path: Path) -> IO[bytes]:
    if _is_packed(path):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return open(path, "rb")


def _head(path: Path) -> bytes:
    _require(path)
    try:
        with _open(path) as stream:
            head = stream.read(HEAD)
            if head[:1] == b"{" and b"\n" not in head:
                # One long first line: only its end tells a row from an object that wraps all rows.
                head += stream.readline() + stream.read(HEAD)
            return head
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"the compressed file is damaged: {error}; fetch it again", path=str(path)) from None


def _bare_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""


def _kind_of_text(text: str, suffix: str) -> str:
    # Not splitlines: U+2028 and its like end no line of a JSON file.
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    first, second = lines[0], lines[1] if len(lines) > 1 else ""
    if first[0] in "[{":
        whole = _whole(first)
        if isinstance(whole, dict):
            return "jsonl" if second or _list_inside(whole) is None else "object"
        if first[0] == "[":
            # A list on the first line and more JSON below: lines that are no objects, not an array.
            return "jsonl" if isinstance(whole, list) and second[:1] in ("{", "[") and second else "array"
        return "object" if second and second[0] != "{" and not first.endswith("}") else "jsonl"
    if suffix in (".csv", ".tsv"):
        return "csv"
    looks_like_lines = suffix in (".json", ".jsonl", ".ndjson") or any(line[0] == "{" for line in lines)
    return "jsonl" if looks_like_lines else ""


def _whole(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _list_inside(value: dict[str, Any]) -> list[Any] | None:
    """Return the one list of objects that `value` wraps; None when `value` is itself a row."""
    if any(key in value for key in CONVERSATION_KEYS):
        return None
    lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(e, dict) for e in v[:10])]
    return lists[0] if len(lists) == 1 else None


# ------------------------------------------------------------------------------------------------- readers


def _guarded(path: Path, stream: Iterator[Item]) -> Iterator[Item]:
    """Pass `stream` through; a file that breaks while it is read becomes a DataError."""
    number = 0
    try:
        for item in stream:
            number += 1
            yield item
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"the compressed file is damaged after row {number}: {error}; fetch it again"
        raise DataError(reason, path=str(path)) from None
    except Exception as error:
        if not type(error).__module__.startswith("pyarrow"):
            raise
        raise DataError(f"the file is damaged after row {number}: {error}; fetch it again", path=str(path)) from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line


def _parse(path: Path, number: int, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        shown = line.decode("utf-8", "replace")
        return number, _bad(path, number, f"invalid UTF-8 at byte {error.start} of the line", shown)
    try:
        value = json.loads(text)
    except ValueError as error:
        return number, _bad(path, number, f"broken JSON: {error}", text)
    except RecursionError:
        return number, _bad(path, number, "broken JSON: nested too deeply", text)
    return number, _object(path, number, value)


def _object(path: Path, number: int, value: Any) -> dict[str, Any] | BadRow:
    if isinstance(value, dict):
        return value
    return _bad(path, number, f"the row is a {type(value).__name__}, not an object", repr(value))


def _bad(path: Path, number: int, reason: str, text: str) -> BadRow:
    return BadRow(str(path), number, reason, text.strip()[:TEXT_KEPT])


def _jsonl(path: Path) -> Iterator[RawRow]:
    for number, line in _lines(path):
        yield _parse(path, number, line)


def _text(path: Path) -> io.TextIOWrapper:
    # surrogateescape: a broken byte spoils its own row, which `formats` refuses, and not the whole file.
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape")


def _array(path: Path) -> Iterator[RawRow]:
    with _text(path) as stream:
        window = _Window(path, stream)
        window.skip("[")
        number = 0
        while window.skip(",") != "]":
            number += 1
            yield number, _object(path, number, window.value(number))


class _Window:
    """The part of a JSON array that is in memory; `at` is where reading stands."""

    def __init__(self, path: Path, stream: io.TextIOWrapper) -> None:
        self.path, self.stream = path, stream
        self.text, self.at = stream.read(CHUNK), 0
        self.decoder = json.JSONDecoder()

    def more(self) -> bool:
        rest = self.text[self.at :]
        # As much again as is pending, so that one huge row costs linear time.
        fresh = self.stream.read(max(CHUNK, len(rest)))
        self.text, self.at = rest + fresh, 0
        return bool(fresh)

    def skip(self, mark: str) -> str:
        """Pass white space and at most one `mark`; return the character that follows."""
        left = 1
        while True:
            while self.at < len(self.text):
                character = self.text[self.at]
                if character == mark and left:
                    left = 0
                elif not character.isspace():
                    return character
                self.at += 1
            if not self.more():
                raise DataError("the JSON array has no end; the file is cut off, fetch it again", path=str(self.path))

    def value(self, number: int) -> Any:
        while True:
            try:
                value, self.at = self.decoder.raw_decode(self.text, self.at)
                return value
            except ValueError as error:
                if not self.more():
                    reason = f"row {number} of the JSON array is broken: {error}; rewrite the file as JSONL, "
                    reason += "where one broken line costs one row"
                    raise DataError(reason, path=str(self.path)) from None


def _wrapped(path: Path) -> Iterator[RawRow]:
    with _text(path) as stream:
        try:
            whole = json.load(stream)
        except ValueError as error:
            raise DataError(f"broken JSON: {error}", path=str(path)) from None
    inside = _list_inside(whole)
    for number, value in enumerate([whole] if inside is None else inside, start=1):
        yield number, _object(path, number, value)


def _source(path: Path) -> Any:
    import pyarrow as pa  # here, so that a plan whose data is known starts without it

    if _is_packed(path):
        return pa.BufferReader(gzip.decompress(path.read_bytes()))
    return str(path)


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(_source(path))
    except pa.ArrowException as error:
        raise DataError(f"the Parquet file is damaged: {error}; fetch it again", path=str(path)) from None


def _parquet(path: Path) -> Iterator[RawRow]:
    number = 0
    with _parquet_file(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield number, value


def _arrow(path: Path) -> Iterator[RawRow]:
    import pyarrow as pa

    number = 0
    source = _source(path)
    with pa.ipc.open_file(pa.memory_map(source) if isinstance(source, str) else source) as file:
        for index in range(file.num_record_batches):
            for value in file.get_batch(index).to_pylist():
                number += 1
                yield number, value


def delimiter(path: str | Path) -> str:
    """Return what parts the columns of a CSV file, which its name alone decides; empty for every other type.

    Raises:
        DataError: as `kind`.
    """
    return _delimiter(Path(path)) if kind(path) == "csv" else ""


def _delimiter(path: Path) -> str:
    return "\t" if is_tsv(path) else ","


def is_tsv(path: Path) -> bool:
    """Say whether the file's name is that of tab-separated values."""
    return _bare_suffix(path) == ".tsv"


def _csv(path: Path) -> Iterator[RawRow]:
    with _text(path) as stream:
        reader = csv.DictReader(stream, delimiter=_delimiter(path))
        for number, value in enumerate(reader, start=1):
            if None in value or None in value.values():
                reason = f"the row has not the header's {len(reader.fieldnames or ())} columns"
                yield number, _bad(path, number, reason, repr(value))
            else:
                yield number, dict(value)


_READERS = {
    "jsonl": _jsonl,
    "array": _array,
    "object": _wrapped,
    "parquet": _parquet,
    "arrow": _arrow,
    "csv": _csv,
}


# -------------------------------------------------------------------------------------------------- sampling


def _jump(path: Path, n: int) -> Iterator[tuple[int, bytes]]:
    size, last = path.stat().st_size, -1
    with open(path, "rb") as stream:
        for index in range(n):
            stream.seek(index * size // n)
            if index:
                stream.readline()
            at = stream.tell()
            line = stream.readline()
            while line and not line.strip():
                at, line = stream.tell(), stream.readline()
            if line and at > last:
                last = at
                yield (0 if index else 1), line


def _sample_parquet(path: Path, n: int) -> list[RawRow]:
    found: list[RawRow] = []
    with _parquet_file(path) as file:
        total = file.metadata.num_rows
        n = min(n, total)
        wanted = [index * total // n for index in range(n)]
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            here = [index for index in wanted if start <= index < end]
            if here:
                values = file.read_row_group(group).take([index - start for index in here]).to_pylist()
                found.extend((index + 1, value) for index, value in zip(here, values, strict=True))
            start = end
    return found
