"""Rows that say what an earlier row says already, within one source and across several.

    write(folder, [math, code], {"near": "4/5"})  # excluded.parquet and {"rows": 27495, "equal": 31, "near": 402, ...}

The rows are put in one order: sources as given, then example id, then occurrence. Each is compared with the rows that
came before it AND were kept, and is dropped when one of them has the same id (`equal`), or when the Jaccard similarity
of the two sets of shingles is at least `near` (`near`; sets of word 3-grams, see `data.shingles`). So no chain of small
differences drops a row that is unlike all that is kept, and the order of a file counts for nothing. Of several kept
rows the most similar is named, of equally similar ones the first. Rows with one and the same set of shingles stand
or fall together: the first of them is compared, the others follow it.

The search is exact (`data.prefixes`): no pair is missed, none is guessed. Memory holds about 100 bytes a row, 128 MiB
of counters and 20 bytes a shingle that is rare in two rows; shingles lie in a file without a name, 8 bytes each.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee import seeds
from cuvee.data import examples, exclusions, prefixes, shingles
from cuvee.data.exclusions import Exclusion
from cuvee.data.shingles import Bags, Hashes
from cuvee.data.texts import PARTS, text_of
from cuvee.errors import RecipeError

LENGTH = 3
"""Words in a shingle. Instructions are short: in 30 words one changed word leaves 25 of 31 shingles, but 21 of 31
of the 5-grams that are usual for web pages."""

Rows = NDArray[np.int64]


def write(folder: Path, loads: Sequence[Path], params: Mapping[str, Any]) -> dict[str, Any]:
    """Find the duplicates among the rows that may train, and write the table of `data.exclusions`.

    Args:
        folder: an existing folder.
        loads: load stages, the most important source first.
        params: ``heldout`` (share of prompts that never train, as text; "0"), ``split_seed`` (0), ``near`` (least
            similarity as text, or None to find equal rows only; None) and ``on`` (what is compared: "conversation",
            all turns but system ones; "prompt", what is before the first answer; "answer", the model's turns).

    Returns:
        ``{"rows", "heldout", "wordless", "equal", "near", "kept", "by_source", "pairs", "missed", "seconds"}``: rows
        are those compared; wordless ones have no word and can only be equal; by_source has rows, equal and near of
        each source; pairs counts dropped rows by ``[source, source of the kept row, reason, rows]``; missed is the
        probability that a pair at the threshold was missed.

    Raises:
        RecipeError: `near` or `on` is none of the possible ones.
    """
    started = time.perf_counter()
    near, on = _checked(params.get("near"), params.get("on", "conversation"))
    heldout = Fraction(str(params.get("heldout", "0")))
    with tempfile.TemporaryFile(dir=folder) as sets, tempfile.TemporaryFile(dir=folder) as texts:
        rows = _Scan(sets, texts, near is not None)
        for source, load in enumerate(loads):
            rows.scan(source, load, heldout, int(params.get("split_seed", 0)), on)
        table = rows.table()
        kept, similarity = _leaders(table, _Sets(sets, table), near)
        found = _Found(table, kept, similarity)
        exclusions.write(folder, found.lines(texts))
    return {
        **found.summary(len(loads)),
        "heldout": rows.heldout,
        "missed": 0.0,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _checked(near: Any, on: Any) -> tuple[Fraction | None, str]:
    if on not in PARTS:
        raise RecipeError(f"`on` is {on!r}; possible: {', '.join(PARTS)}", key="on")
    if near is None:
        return None, str(on)
    threshold = Fraction(str(near))
    if not 0 < threshold <= 1:
        raise RecipeError(f"`near` is {near}; possible: a similarity above 0 and up to 1, such as 4/5", key="near")
    return threshold, str(on)


# ------------------------------------------------------------------------------------------------------- scan


@dataclass(frozen=True)
class _Table:
    """What is remembered of every row that is compared, each (n,) but the two (n, 2) of 128-bit numbers."""

    source: NDArray[np.int16]
    row: Rows
    id: Hashes
    occurrence: Rows
    bag: Hashes
    ends: Rows
    text_ends: Rows
    counts: prefixes.Frequencies

    @property
    def sizes(self) -> Rows:
        """Number of shingles of each row."""
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.row)


class _Scan:
    """One reading of all texts: shingles and excerpts go to files, the rest is remembered."""

    def __init__(self, sets: Any, texts: Any, near: bool) -> None:
        self.sets, self.texts, self.near = sets, texts, near
        self.counts = prefixes.Frequencies()
        self.heldout = 0
        self.facts: list[tuple[NDArray[Any], ...]] = []
        self.pending: list[tuple[int, int, bytes, int, str]] = []
        self.size = 0

    def scan(self, source: int, load: Path, heldout: Fraction, split_seed: int, on: str) -> None:
        """Read one source."""
        for row, (example, occurrence) in enumerate(examples.read(load)):
            if heldout and seeds.below(split_seed, "heldout", example.prompt_key, heldout):
                self.heldout += 1
                continue
            text = text_of(example, on)
            self.pending.append((source, row, example.key, occurrence, text))
            self.size += len(text)
            if len(self.pending) == shingles.ROWS or self.size >= shingles.BYTES:
                self._flush()
        self._flush()

    def _flush(self) -> None:
        if not self.pending:
            return
        sources, rows, ids, occurrences, texts = zip(*self.pending, strict=True)
        excerpts = [exclusions.excerpt(text).encode() for text in texts]
        self.texts.write(b"".join(excerpts))
        bags, digests = self._bags(texts, ids)
        self.facts.append(
            (
                np.array(sources, dtype=np.int16),
                np.array(rows),
                _numbers(ids),
                np.array(occurrences),
                _numbers(digests),
                bags.sizes,
                np.array([len(text) for text in excerpts]),
            )
        )
        self.pending, self.size = [], 0

    def _bags(self, texts: Sequence[str], ids: Sequence[bytes]) -> tuple[Bags, list[bytes]]:
        """Return the sets, and a digest of each that is the id's where rows can only be equal."""
        if not self.near:
            none = np.zeros(len(texts), dtype=np.int64)
            return Bags(none[:0].astype(np.uint64), none), list(ids)
        bags = shingles.shingles([shingles.folded(text) for text in texts], LENGTH)
        self.counts.add(bags.hashes)
        self.sets.write(bags.hashes.tobytes())
        sets = (bags.row(index) for index in range(len(texts)))
        return bags, [
            blake2b(bag.tobytes(), digest_size=16).digest() if len(bag) else key
            for bag, key in zip(sets, ids, strict=True)
        ]

    def table(self) -> _Table:
        """Return what was remembered."""
        self.sets.flush()
        self.texts.flush()
        if not self.facts:
            empty = np.zeros(0, dtype=np.int64)
            pairs = np.zeros((0, 2), dtype=np.uint64)
            return _Table(empty.astype(np.int16), empty, pairs, empty, pairs, empty, empty, self.counts)
        source, row, ids, occurrence, bag, sizes, lengths = map(np.concatenate, zip(*self.facts, strict=True))
        self.facts = []
        return _Table(source, row, ids, occurrence, bag, np.cumsum(sizes), np.cumsum(lengths), self.counts)


def _numbers(digests: Sequence[bytes]) -> Hashes:
    """Return 16-byte digests as pairs of numbers in the digests' order, (n, 2)."""
    return np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)


class _Sets:
    """The sets of shingles in their file."""

    def __init__(self, file: Any, table: _Table) -> None:
        self.file = file.fileno()
        self.ends, self.sizes = table.ends, table.sizes

    def row(self, row: int) -> Hashes:
        """Return one row's set."""
        return self._read(int(self.ends[row] - self.sizes[row]), int(self.sizes[row]))

    def slices(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[Rows, Bags]]:
        """Yield the rows that are wanted, in batches, with their sets."""
        start = 0
        while start < len(self.ends):
            before = int(self.ends[start] - self.sizes[start])
            stop = int(np.searchsorted(self.ends, before + shingles.BYTES, side="right"))
            stop = min(max(stop, start + 1), start + shingles.ROWS)
            hashes = self._read(before, int(self.ends[stop - 1]) - before)
            here = wanted[start:stop]
            sizes = self.sizes[start:stop]
            hashes = hashes[np.repeat(here, sizes)]
            ends = np.cumsum(sizes[here])
            yield start + np.flatnonzero(here), Bags(hashes, ends)
            start = stop

    def _read(self, start: int, count: int) -> Hashes:
        return np.frombuffer(os.pread(self.file, 8 * count, 8 * start), dtype=np.uint64)


# ------------------------------------------------------------------------------------------------- comparison


_NONE = np.zeros(0, dtype=np.int64)


def _leaders(table: _Table, sets: _Sets, near: Fraction | None) -> tuple[Rows, NDArray[np.float64]]:
    """Return for every row the kept row it goes to, which may be itself, and its similarity to that."""
    order = np.lexsort((table.occurrence, table.id[:, 1], table.id[:, 0], table.source))
    leader = _first_of_equals(table.bag, order)
    kept = np.arange(len(table))
    similarity = np.ones(len(table))
    leads = leader == kept
    if near is not None:
        order = order[leads[order] & (table.sizes[order] > 0)]
        for row, other, similar in _near(table, sets, near, order):
            kept[row], similarity[row] = other, similar
    return kept[leader], similarity[leader]


def _first_of_equals(bag: Hashes, order: Rows) -> Rows:
    """Return for every row the first in order that has the same digest."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    grouped = np.lexsort((place, bag[:, 1], bag[:, 0]))
    ordered = bag[grouped]
    new = np.ones(len(grouped), dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    leader = np.empty(len(order), dtype=np.int64)
    leader[grouped] = grouped[np.flatnonzero(new)[np.cumsum(new) - 1]] if len(grouped) else grouped
    return leader


def _near(table: _Table, sets: _Sets, near: Fraction, order: Rows) -> Iterator[tuple[int, int, float]]:
    """Yield (row, most similar kept row before it, similarity) of the rows in order that have one."""
    starts, posts = _postings(table, sets, near, order)
    met: list[list[int]] = [[] for _ in range(int(posts.max()) + 1 if len(posts) else 0)]
    sizes = table.sizes[order]
    for place, row in enumerate(order.tolist()):
        mine = posts[starts[place] : starts[place + 1]].tolist()
        both = Counter(chain.from_iterable(met[post] for post in mine))
        fitting = _fitting(both, sizes, place, near) if both else _NONE
        found = _most_similar(sets, row, order[fitting], near) if len(fitting) else None
        if found is not None:
            yield row, *found
            continue
        for post in mine:
            met[post].append(place)


def _fitting(both: Counter[int], sizes: Rows, place: int, near: Fraction) -> Rows:
    """Return the places, ascending, whose sets may be similar enough by size and by what the prefixes share."""
    others = np.fromiter(both.keys(), dtype=np.int64, count=len(both))
    count = np.fromiter(both.values(), dtype=np.int64, count=len(both))
    return np.sort(others[prefixes.possible(count, sizes[place], sizes[others], near)])


def _postings(table: _Table, sets: _Sets, near: Fraction, order: Rows) -> tuple[Rows, Rows]:
    """Return the keys of every row's prefix that another prefix has too, as small numbers.

    Returns:
        (starts, posts): the row at a place of the order has ``posts[starts[place]:starts[place + 1]]``.
    """
    place = np.full(len(table), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    found: list[Hashes] = [np.zeros(0, dtype=np.uint64)]
    owners: list[Rows] = [np.zeros(0, dtype=np.int32)]
    for rows, bags in sets.slices(place >= 0):
        owner, keys = prefixes.keys(bags, table.counts.of(bags.hashes), near)
        found.append(keys)
        owners.append(place[rows[owner]].astype(np.int32))
    keys, places = np.concatenate(found), np.concatenate(owners)
    del found, owners
    ordered = np.sort(keys)
    common = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    post = np.searchsorted(common, keys)
    meets = common[np.minimum(post, len(common) - 1)] == keys if len(common) else np.zeros(len(keys), dtype=np.bool_)
    post, places = post[meets], places[meets]
    by_place = np.argsort(places, kind="stable")
    return np.searchsorted(places[by_place], np.arange(len(order) + 1)), post[by_place]


def _most_similar(sets: _Sets, row: int, others: Rows, near: Fraction) -> tuple[int, float] | None:
    """Return the first of the most similar rows and its similarity, or None when that is below `near`."""
    one, bags = sets.row(row), [sets.row(other) for other in others.tolist()]
    both = prefixes.shared(one, bags)
    either = len(one) + np.array([len(bag) for bag in bags]) - both
    best = int(np.argmax(both / either))
    if int(both[best]) * near.denominator < near.numerator * int(either[best]):
        return None
    return int(others[best]), float(both[best] / either[best])


# ---------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class _Found:
    """What became of the rows."""

    table: _Table
    kept: Rows
    similarity: NDArray[np.float64]

    @property
    def dropped(self) -> Rows:
        """The rows that go to another, in load order."""
        return np.flatnonzero(self.kept != np.arange(len(self.kept)))

    def equal(self, rows: Rows) -> NDArray[np.bool_]:
        """Return whether rows have the id of the row they go to."""
        found: NDArray[np.bool_] = (self.table.id[rows] == self.table.id[self.kept[rows]]).all(axis=1)
        return found

    def lines(self, texts: Any) -> Iterator[Exclusion]:
        """Yield the table's lines."""
        table, rows = self.table, self.dropped
        for row, equal in zip(rows.tolist(), self.equal(rows).tolist(), strict=True):
            other = int(self.kept[row])
            yield Exclusion(
                source=int(table.source[row]),
                row=int(table.row[row]),
                id=_digest(table.id[row]),
                occurrence=int(table.occurrence[row]),
                reason="equal" if equal else "near",
                similarity=float(self.similarity[row]),
                other_source=int(table.source[other]),
                other_row=int(table.row[other]),
                other_id=_digest(table.id[other]),
                text=_excerpt(texts, table, row),
                other_text=_excerpt(texts, table, other),
            )

    def summary(self, sources: int) -> dict[str, Any]:
        """Return the counts."""
        table, rows = self.table, self.dropped
        equal = self.equal(rows)
        one, other = table.source[rows].tolist(), table.source[self.kept[rows]].tolist()
        pairs = Counter(zip(one, other, np.where(equal, "equal", "near").tolist(), strict=True))
        reasons = Counter(zip(one, equal.tolist(), strict=True))
        return {
            "rows": len(table),
            "wordless": int((table.sizes == 0).sum()),
            "equal": int(equal.sum()),
            "near": int((~equal).sum()),
            "kept": len(table) - len(rows),
            "by_source": [
                {
                    "rows": int((table.source == number).sum()),
                    "equal": reasons[number, True],
                    "near": reasons[number, False],
                }
                for number in range(sources)
            ],
            "pairs": [[*pair, count] for pair, count in sorted(pairs.items())],
        }


def _digest(numbers: Hashes) -> bytes:
    return numbers.astype(">u8").tobytes()


def _excerpt(texts: Any, table: _Table, row: int) -> str:
    start = int(table.text_ends[row - 1]) if row else 0
    return os.pread(texts.fileno(), int(table.text_ends[row]) - start, start).decode()
