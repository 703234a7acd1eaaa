"""Files to raw rows: JSON, JSONL, Parquet, Arrow and CSV, compressed or not.

The type is seen from the content (magic bytes, first characters), not from the name; a name only decides what
has no mark of its own (CSV). Reading streams: memory holds one row, some rows of a record batch, or, for a JSON
object that wraps its rows, that object. Text is UTF-8, with a byte order mark or without. Of a key that a JSON
object has twice the last value counts; NaN and Infinity, which JSON does not have, spoil their row.

    for line, row in rows("gsm8k_train.jsonl.gz"):
        ...  # row is a dict, or a BadRow that says why it is none
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cuvee.data import columnar, compression
from cuvee.errors import CuveeError, DataError, did_you_mean
from cuvee.values import BadRow

RawRow = tuple[int, dict[str, Any] | BadRow]
"""Line (1-based; the row's number where a file has no lines; 0 when unknown), and the row."""

HEAD = 1 << 16
CHUNK = 1 << 20
JUMP_FROM = 4 << 20  # bytes from which on a plain file is sampled without reading all of it
LONGEST_TOKEN = 16  # characters of JSON, strings and numbers aside, that may be cut in two: \\ud83d\\ude00, -Infinity
TEXT_KEPT = 500  # characters of a bad row that the quarantine shows
LONGEST_FIELD = (1 << 31) - 1  # of a CSV file, in characters; the csv module's own limit is 131,072
CONVERSATION_KEYS = ("messages", "conversations", "conversation", "history")
TURN_KEYS = ({"from", "value"}, {"role", "content"})
TYPES = f"JSON, JSONL, Parquet, Arrow or CSV, each plain or with {compression.NAMES}"

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
    """Return ``jsonl``, ``array``, ``object``, ``parquet``, ``arrow``, ``arrow_stream`` or ``csv``, by looking.

    Raises:
        DataError: the file is absent, empty, of unknown type or not in UTF-8.
    """
    path = Path(path)
    head = _head(path)
    for magic, found in _MAGIC.items():
        if head.startswith(magic):
            return found
    _refuse_utf16(path, head)
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


@contextmanager
def steady(path: str | Path) -> Iterator[None]:
    """Guard the reading of a file that another program may be writing.

    Raises:
        DataError: the file's size, time or inode are others at the end than at the start, whatever the reading
            made of it.
    """
    before = _status(path)
    try:
        yield
    except DataError:
        _refuse_change(path, before)
        raise
    _refuse_change(path, before)


def _status(path: str | Path) -> tuple[int, ...]:
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _refuse_change(path: str | Path, before: tuple[int, ...]) -> None:
    if _status(path) != before:
        raise DataError("the file changed while it was read; run again when nothing writes to it", path=str(path))


def count(path: str | Path) -> int:
    """Return the number of rows, bad ones included, without parsing JSON lines.

    Raises:
        DataError: as `rows`.
    """
    path = Path(path)
    found = kind(path)
    if found == "parquet":
        return sum(_guarded(path, _parquet_groups(path)))
    if found.startswith("arrow"):
        batches = columnar.batches(path, stream=found == "arrow_stream")
        return sum(batch.num_rows for batch in _guarded(path, batches))
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
        if path.stat().st_size > JUMP_FROM and not compression.seen(path):
            return [_parse(path, line, text) for line, text in _jump(path, n)]
        return [_parse(path, line, text) for line, text in spread(_guarded(path, _lines(path)), n)]
    if found == "parquet":
        return list(_guarded(path, _sample_parquet(path, n)))
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


def _head(path: Path) -> bytes:
    _require(path)
    try:
        with compression.open_plain(path) as stream:
            head = stream.read(HEAD)
            if head[:1] == b"{" and b"\n" not in head:
                # One long first line: only its end tells a row from an object that wraps all rows.
                head += stream.readline() + stream.read(HEAD)
            return head
    except Exception as error:
        if compression.is_damage(error):
            raise DataError(f"the compressed file is damaged: {error}; fetch it again", path=str(path)) from None
        raise


def _refuse_utf16(path: Path, head: bytes) -> None:
    names = {b"\xff\xfe\x00\x00": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
    names |= {b"{\x00": "UTF-16LE", b"[\x00": "UTF-16LE", b"\x00{": "UTF-16BE", b"\x00[": "UTF-16BE"}
    for mark, name in names.items():
        if head.startswith(mark):
            remedy = f"rewrite it with `iconv -f {name} -t UTF-8 {path.name} > NEW`"
            raise DataError(f"the text is in {name}, not in UTF-8; {remedy}", path=str(path))


def _bare_suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in compression.SUFFIXES]
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
    except (ValueError, RecursionError):
        return None


def _list_inside(value: dict[str, Any]) -> list[Any] | None:
    """Return the one list of objects that `value` wraps; None when `value` is itself a row."""
    if any(key in value for key in CONVERSATION_KEYS):
        return None
    lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(e, dict) for e in v[:10])]
    return lists[0] if len(lists) == 1 and not any(keys <= lists[0][0].keys() for keys in TURN_KEYS) else None


# ------------------------------------------------------------------------------------------------- readers


def _guarded(path: Path, stream: Iterator[Item]) -> Iterator[Item]:
    """Pass `stream` through; a file that breaks while it is read becomes a DataError."""
    number = 0
    try:
        for item in stream:
            number += 1
            yield item
    except CuveeError:
        raise
    except Exception as error:
        if compression.is_damage(error):
            what = "compressed file" if compression.seen(path) else "file"
        elif type(error).__module__.startswith("pyarrow") or isinstance(error, UnicodeDecodeError):
            what = "file"  # names of columns are decoded when a container is opened; lines of text have their own check
        else:
            raise
        reason = f"the {what} is damaged after row {number}: {_first_line(error)}; fetch it again"
        raise DataError(reason, path=str(path)) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with compression.open_plain(path) as stream:
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
        value = _DECODER.decode(text)
    except ValueError as error:
        return number, _bad(path, number, f"broken JSON: {error}", text)
    except RecursionError:
        return number, _bad(path, number, "broken JSON: nested too deeply", text)
    return number, _object(path, number, value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(_no_json(name))


def _no_json(name: str) -> str:
    return f"{name} is no JSON value; write null"


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _object(path: Path, number: int, value: Any) -> dict[str, Any] | BadRow:
    if isinstance(value, dict | BadRow):
        return value
    return _bad(path, number, f"the row is a {type(value).__name__}, not an object", repr(value))


def _bad(path: Path, number: int, reason: str, text: str) -> BadRow:
    return BadRow(str(path), number, reason, text.strip()[:TEXT_KEPT])


def _jsonl(path: Path) -> Iterator[RawRow]:
    for number, line in _lines(path):
        yield _parse(path, number, line)


def _text(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    # surrogateescape: a broken byte spoils its own row, which `formats` refuses, and not the whole file.
    return io.TextIOWrapper(
        compression.open_plain(path), encoding="utf-8-sig", errors="surrogateescape", newline=newline
    )


def _array(path: Path) -> Iterator[RawRow]:
    with _text(path) as stream:
        window = _Window(path, stream)
        window.skip("[")
        number = 0
        while window.skip(",") != "]":
            number += 1
            yield number, _object(path, number, window.value(number))
        window.end(number)


class _Window:
    """The part of a JSON array that is in memory; `at` is where reading stands."""

    def __init__(self, path: Path, stream: io.TextIOWrapper) -> None:
        self.path, self.stream = path, stream
        self.text, self.at = stream.read(CHUNK), 0
        self.constants: list[str] = []
        self.decoder = json.JSONDecoder(parse_constant=self.constants.append)

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
        """Return the value that starts here: row `number`; a BadRow when it holds NaN or the like."""
        while True:
            self.constants.clear()
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                if self.is_cut(error) and self.more():
                    continue
                reason = f"row {number} of the JSON array is broken: {error}; rewrite the file as JSONL, "
                reason += "where one broken line costs one row"
                raise DataError(reason, path=str(self.path)) from None
            # A number at the very end of the window may go on after it.
            if end < len(self.text) or isinstance(value, dict | list) or not self.more():
                self.at = min(end, len(self.text))
                return self._refused(number, value) if self.constants else value

    def _refused(self, number: int, value: Any) -> BadRow:
        return _bad(self.path, number, f"broken JSON: {_no_json(self.constants[0])}", repr(value))

    def is_cut(self, error: Exception) -> bool:
        """Say whether the value may only go on past the window; else the rest of the file would be read for nothing."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - LONGEST_TOKEN

    def end(self, number: int) -> None:
        """Refuse anything after the closing bracket: it would be rows that nobody reads."""
        self.at += 1
        while not self.text[self.at :].strip():
            self.at = len(self.text)
            if not self.more():
                return
        reason = f"there is more after the end of the JSON array of {number:,} rows; make a file of each array"
        raise DataError(reason, path=str(self.path))


def _wrapped(path: Path) -> Iterator[RawRow]:
    with _text(path) as stream:
        try:
            whole = _DECODER.decode(stream.read())
        except (ValueError, RecursionError) as error:
            reason = f"broken JSON: {error}; give one object a line, or a list of all objects"
            raise DataError(reason, path=str(path)) from None
    inside = _list_inside(whole) if isinstance(whole, dict) else None
    for number, value in enumerate([whole] if inside is None else inside, start=1):
        yield number, _object(path, number, value)


def _columns(path: Path, stream: Iterator[dict[str, Any] | str]) -> Iterator[RawRow]:
    for number, value in enumerate(stream, start=1):
        yield number, _bad(path, number, value, "") if isinstance(value, str) else value


def _parquet_groups(path: Path) -> Iterator[int]:
    with columnar.parquet_file(path) as file:
        yield int(file.metadata.num_rows)


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
    csv.field_size_limit(LONGEST_FIELD)
    # newline="": line ends inside quoted fields are the field's own.
    with _text(path, newline="") as stream:
        reader = csv.reader(stream, delimiter=_delimiter(path), strict=True)
        records = _records(path, reader)
        _, header = next(records)
        if isinstance(header, BadRow) or len(set(header)) < len(header):
            reason = header.reason if isinstance(header, BadRow) else "two columns have one name"
            raise DataError(f"the header cannot be used: {reason}", path=str(path), line=1)
        for line, cells in records:
            if isinstance(cells, BadRow):
                yield line, cells
            elif len(cells) != len(header):
                reason = f"the row has {len(cells)} columns, the header {len(header)}"
                yield line, _bad(path, line, reason, repr(cells))
            else:
                yield line, dict(zip(header, cells, strict=True))


def _records(path: Path, reader: Any) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield (line where it starts, record); blank lines are none, and one with broken quotes is a BadRow."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _bad(path, line, f"broken CSV: {error} (lines {line} to {reader.line_num})", "")
            continue
        if cells:
            yield line, cells


_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow_stream"}

_READERS = {
    "jsonl": _jsonl,
    "array": _array,
    "object": _wrapped,
    "parquet": lambda path: _columns(path, columnar.parquet(path)),
    "arrow": lambda path: _columns(path, columnar.arrow(path, stream=False)),
    "arrow_stream": lambda path: _columns(path, columnar.arrow(path, stream=True)),
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


def _sample_parquet(path: Path, n: int) -> Iterator[RawRow]:
    with columnar.parquet_file(path) as file:
        total = file.metadata.num_rows
        n = min(n, total)
        wanted = [index * total // n for index in range(n)]
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            here = [index for index in wanted if start <= index < end]
            if here:
                found = columnar.values(file.read_row_group(group).take([index - start for index in here]))
                for index, value in zip(here, found, strict=True):
                    yield index + 1, _bad(path, index + 1, value, "") if isinstance(value, str) else value
            start = end
