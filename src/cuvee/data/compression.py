"""Compressed files: gzip, Zstandard, bzip2 and xz, seen by their first bytes and read as a stream.

with open_plain("gsm8k_train.jsonl.zst") as stream:
    first = stream.readline()
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

NAMES = "gzip, zstd, bzip2 or xz"
SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
BUFFER = 1 << 17  # lines come a third faster out of it than out of gzip's own 8 KiB

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
}
_BZIP2 = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # the first block, or the end of an empty file, after "BZh9"


def seen(path: Path) -> str:
    """Return ``gzip``, ``zstd``, ``bzip2`` or ``xz`` as the file's first bytes say; empty for a plain file."""
    with open(path, "rb") as stream:
        head = stream.read(10)
    if head[:3] == b"BZh" and head[4:10] in _BZIP2:
        return "bzip2"
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def open_plain(path: Path) -> IO[bytes]:
    """Return the file's plain bytes as a stream; errors of `is_damage` come up while it is read."""
    found = seen(path)
    if not found:
        return open(path, "rb", buffering=BUFFER)
    return io.BufferedReader(_OPEN[found](str(path)), BUFFER)


def is_damage(error: BaseException) -> bool:
    """Say whether an error comes from packed bytes that are broken or cut off, and not from the disk."""
    broken = isinstance(error, EOFError | zlib.error | lzma.LZMAError)
    return broken or (isinstance(error, OSError) and error.errno is None)


def _zstd(path: str) -> Any:
    import pyarrow as pa  # here, so that a plan whose data is known starts without it

    return pa.input_stream(path, compression="zstd")


_OPEN: dict[str, Callable[[str], Any]] = {"gzip": gzip.open, "zstd": _zstd, "bzip2": bz2.open, "xz": lzma.open}
