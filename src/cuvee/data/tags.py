"""The tag stage's artefact, InsTag's normalisation of tags, and what is counted of them.

    tags.parquet   id, occurrence, tags, raw; one row a row of the load stage, in load order

`tags` is null where a model's answer could not be read, and empty where it was read and holds none. `raw` is the
model's answer, empty for rules.

Normalisation (`normalise`) is the second of InsTag's steps (Lu et al., arXiv 2308.07074, section 3): letters are
lowered, special characters become spaces and each word its Porter stem. The others are not done: rare tags stay (InsTag
leaves out those seen fewer than 20 times), and none are merged by meaning or by association.

A filter ``code|math`` on raw tags does not see what it seems to see: "coding" and "programming" do not contain
"code". Stemmed, "coding" is "code", but "decode", "encode" and "barcode" have become "decod", "encod" and "barcod",
and "programming" is "program". "mathematics" and "aftermath" contain "math" either way. "C++" and "C#" are both "c".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache, lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuvee.errors import UsageError

FILE = "tags.parquet"
ROW_GROUP = 4096
TOP = 50
"""Tags that a summary lists with their counts."""

SCHEMA = pa.schema(
    [("id", pa.binary(16)), ("occurrence", pa.int32()), ("tags", pa.list_(pa.string())), ("raw", pa.string())]
)

TagRow = tuple[bytes, int, Sequence[str] | None, str]
"""(id, occurrence, tags or None where the answer could not be read, the answer)."""


def write(folder: Path, rows: Iterable[TagRow]) -> dict[str, Any]:
    """Write the tags of a source's rows; memory holds one row group and a counter of tags.

    Args:
        folder: an existing folder.
        rows: in load order.

    Returns:
        ``{"rows", "tagged", "unread", "distinct", "complexity", "tags": {tag: rows}}``: rows with a tag, rows whose
        answer could not be read, different tags, mean number of tags of the rows that were read (None when none
        was), and the `TOP` most frequent tags.
    """
    counts: Counter[str] = Counter()
    total = tagged = unread = 0
    with pq.ParquetWriter(folder / FILE, SCHEMA, compression="zstd") as writer:
        for batch in _batches(map(_clean, rows)):
            writer.write_table(_table(batch))
            for _, _, tags, _ in batch:
                total, tagged, unread = total + 1, tagged + bool(tags), unread + (tags is None)
                counts.update(tags or ())
        if not total:
            writer.write_table(_table([]))
    read_rows = total - unread
    return {
        "rows": total,
        "tagged": tagged,
        "unread": unread,
        "distinct": len(counts),
        "complexity": counts.total() / read_rows if read_rows else None,
        "tags": dict(_by_count(counts)[:TOP]),
    }


def read(folder: Path) -> list[tuple[str, ...]]:
    """Return each row's tags in load order; rows whose answer could not be read have none.

    Equal tags are one object in memory: 100,000 rows of three kinds cost one pointer each.
    """
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    words: dict[str, str] = {}
    found = []
    with pq.ParquetFile(folder / FILE) as file:
        for group in range(file.num_row_groups):
            for tags in file.read_row_group(group, columns=["tags"]).column(0).to_pylist():
                key = tuple(words.setdefault(tag, tag) for tag in tags or ())
                found.append(known.setdefault(key, key))
    return found


def readable(folder: Path) -> NDArray[np.bool_]:
    """Return for each row, in load order, whether its tags could be read."""
    return np.asarray(pq.read_table(folder / FILE, columns=["tags"])["tags"].is_valid())


def _batches(rows: Iterable[TagRow]) -> Iterable[list[TagRow]]:
    stream = iter(rows)
    while batch := list(islice(stream, ROW_GROUP)):
        yield batch


def _clean(row: TagRow) -> TagRow:
    key, occurrence, tags, raw = row
    # A tag counts once a row; Parquet holds no broken surrogates.
    return key, occurrence, None if tags is None else list(dict.fromkeys(map(_whole, tags))), _whole(raw)


def _whole(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _table(batch: Sequence[TagRow]) -> pa.Table:
    columns: list[Any] = list(zip(*batch, strict=True)) if batch else [[] for _ in SCHEMA]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


# ------------------------------------------------------------------------------------------- normalisation

_SPECIAL = re.compile(r"[\W_]+")


@lru_cache(maxsize=1 << 17)
def normalise(tag: str) -> str:
    """Return a tag in InsTag's normal form: lower case, special characters to spaces, each word's Porter stem.

    The stems are NLTK's, as in InsTag. The original Porter algorithm differs in short words and in "-logy":
    it makes "use" and "us" one word, "news" and "new", "technologi" where NLTK makes "technolog".

        normalise("Web-Development: Coding") == "web develop code"

    Raises:
        UsageError: NLTK is not installed.
    """
    stem = _stemmer()
    return " ".join(map(stem, _SPECIAL.sub(" ", tag.lower()).split()))


@cache
def _stemmer() -> Callable[[str], str]:
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError:
        raise UsageError(
            "normalising tags (stem: true) needs the package nltk, which this Python has not; pip install 'cuvee[tags]'"
        ) from None
    stem: Callable[[str], str] = PorterStemmer().stem
    return stem


def complexity(rows: Collection[Collection[str]]) -> float:
    """Return the mean number of tags a row: InsTag's complexity of a data set.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("the complexity of no rows is asked for; give at least one")
    return sum(len(set(tags)) for tags in rows) / len(rows)


def diversity(subset: Iterable[Collection[str]], whole: Iterable[Collection[str]]) -> float:
    """Return the share of the different tags of `whole` that `subset` has: InsTag's diversity, 0 to 1.

    Raises:
        ValueError: `whole` has no tag, or `subset` one that `whole` has not.
    """
    every, some = set(chain.from_iterable(whole)), set(chain.from_iterable(subset))
    if not every:
        raise ValueError("the diversity against rows without tags is asked for; tag them first")
    if not some <= every:
        strange = ", ".join(sorted(some - every)[:3])
        raise ValueError(f"the subset has tags that the whole has not ({strange}); it must be a part of it")
    return len(some) / len(every)


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
