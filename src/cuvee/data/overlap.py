"""Which rows of a source hold what a benchmark asks.

    write(folder, math, gsm8k_test, {"heldout": "1/50"})  # excluded.parquet, items.parquet, {"hit_rows": 1052, ...}

An item's text is its prompt: the turns before the first answer, system turns left out. A row is hit by an item, in
the words of `data.shingles`, when

    equal      its prompt has the same words in the same order;
    contained  the item's words occur in one piece in the row's text, any turn;
    ngram      at least `coverage` of the item's distinct word n-grams occur in the row's text, any turn;
    near       the Jaccard similarity of the two prompts' sets of word 3-grams is at least `near`.

The first of these that holds is the reason. Few words occur in many texts by chance. So an item with fewer than
`ngram` words can only be equal or near, and is counted as `too_short`; and `ngram` asks for at least `ALONE` n-grams of
an item, so that one with fewer can be hit as a whole only, and is counted as `whole_only`.

N-grams of 8 words and half of an item are what Tulu 3 removed by. What the rule finds in real files, and what others
would, is in docs/data.md. N-grams are compared by hashes of 52 bits, words in one piece as they are; no hit is missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cuvee import seeds
from cuvee.data import examples, exclusions, prefixes, shingles
from cuvee.data.duplicates import LENGTH
from cuvee.data.exclusions import Exclusion, excerpt
from cuvee.data.shingles import Bags, Hashes
from cuvee.data.texts import text_of
from cuvee.errors import DataError, RecipeError
from cuvee.values import Example

ITEMS_FILE = "items.parquet"
REASONS = ("equal", "contained", "ngram", "near")
"""Strongest first."""
ALONE = 4
"""Shared n-grams below which `ngram` is no reason: 11 words in one piece, or more in several. "Write a function to find
the area of a" is one n-gram of 8 and half of a task of MBPP."""
SHOWN = 3
_STEP = exclusions.EXCERPT // 2

ITEMS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.binary(16)),
        ("reason", pa.string()),
        ("similarity", pa.float32()),
        ("rows", pa.int64()),
        ("first_row", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Rule:
    """When a row is hit.

    Args:
        ngram: words in an n-gram.
        coverage: least share of an item's n-grams.
        near: least Jaccard similarity of two prompts.
    """

    ngram: int = 8
    coverage: Fraction = Fraction(1, 2)
    near: Fraction = Fraction(4, 5)


class Hit(NamedTuple):
    """One item found in one row; sorted, the strongest comes first."""

    rank: int
    unlike: float
    item: int

    @property
    def reason(self) -> str:
        """One of `REASONS`."""
        return REASONS[self.rank]

    @property
    def similarity(self) -> float:
        """1, the coverage or the Jaccard similarity."""
        return 1.0 - self.unlike


# ------------------------------------------------------------------------------------------------------ index


class Index:
    """A benchmark's items, found by what they share with a row."""

    def __init__(self, texts: Sequence[str], rule: Rule) -> None:
        self.rule = rule
        self.words = [shingles.words(shingles.folded(text)) for text in texts]
        self.prompts = _Sets(_joined(self.words, LENGTH, True), rule.near)
        self.grams = _Sets(_joined(self.words, rule.ngram, False), rule.coverage)

    def hits(self, prompts: Sequence[str], texts: Sequence[str]) -> list[list[Hit]]:
        """Return what hits each of several rows, the strongest first, each item once.

        Args:
            prompts: the rows' prompts, at most `shingles.ROWS`.
            texts: the rows' whole conversations.
        """
        folded, whole = [*map(shingles.folded, prompts)], [*map(shingles.folded, texts)]
        found: list[dict[int, Hit]] = [{} for _ in prompts]
        for row, item, both, size in self._covered(shingles.shingles(whole, self.rule.ngram, False)):
            there = both == size and _within(self.words[item], shingles.words(whole[row]))
            if there or both >= ALONE:
                found[row][item] = Hit(1 if there else 2, 1 - both / size, item)
        for row, item, both, either in self._near(shingles.shingles(folded, LENGTH)):
            same = both == either and shingles.words(folded[row]) == self.words[item]
            hit = Hit(0 if same else 3, 1 - both / either, item)
            found[row][item] = min(hit, found[row].get(item, hit))
        return [sorted(hits.values()) for hits in found]

    def excerpt(self, text: str, item: int) -> str:
        """Return the piece of a row's text that holds most n-grams of an item, the first of equals."""
        starts = range(0, max(1, min(len(text), shingles.ROWS * _STEP)), _STEP)
        pieces = [text[start : start + exclusions.EXCERPT] for start in starts]
        bags = shingles.shingles([*map(shingles.folded, pieces)], self.rule.ngram, False)
        met = np.isin(bags.hashes, self.grams.bags.row(item))
        return pieces[int(np.argmax(np.bincount(bags.owners()[met], minlength=1)))]

    def _covered(self, bags: Bags) -> Iterator[tuple[int, int, int, int]]:
        """Yield (row, item, n-grams of the item in the row, n-grams of the item) of at least the rule's coverage."""
        for row, items in self.grams.candidates(bags, None):
            for item, both in zip(items.tolist(), self.grams.shared(bags.row(row), items).tolist(), strict=True):
                size = int(self.grams.sizes[item])
                if both * self.rule.coverage.denominator >= self.rule.coverage.numerator * size:
                    yield row, item, both, size

    def _near(self, bags: Bags) -> Iterator[tuple[int, int, int, int]]:
        """Yield (row, item, shingles in both, shingles in either) of at least the rule's similarity."""
        near, sizes = self.rule.near, bags.sizes
        for row, items in self.prompts.candidates(bags, near):
            for item, both in zip(items.tolist(), self.prompts.shared(bags.row(row), items).tolist(), strict=True):
                either = int(sizes[row] + self.prompts.sizes[item]) - both
                if both * near.denominator >= near.numerator * either:
                    yield row, item, both, either


class _Sets:
    """The items' sets of n-grams of one length, and which items have an n-gram in their prefix."""

    def __init__(self, bags: Bags, threshold: Fraction) -> None:
        self.bags, self.sizes = bags, bags.sizes
        self.known, self.counts = np.unique(bags.hashes, return_counts=True)
        found = [
            (key, first + item)
            for first, part in _parts(bags)
            for item, key in [prefixes.keys(part, self._seen(part.hashes), threshold)]
        ]
        keys, items = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(keys, kind="stable")
        self.keys, self.items = keys[order], items[order]

    def candidates(self, bags: Bags, threshold: Fraction | None) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (row, items) that meet: in both prefixes, or with None in the item's prefix and the row's set."""
        owner, keys = prefixes.keys(bags, self._seen(bags.hashes), threshold)
        first = np.searchsorted(self.keys, keys, side="left")
        last = np.searchsorted(self.keys, keys, side="right")
        met = np.flatnonzero(last > first)
        rows, starts = np.unique(owner[met], return_index=True)
        for row, places in zip(rows.tolist(), np.split(met, starts)[1:], strict=True):
            yield row, np.unique(np.concatenate([self.items[first[at] : last[at]] for at in places.tolist()]))

    def shared(self, bag: Hashes, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many n-grams a set has in common with each item."""
        return prefixes.shared(bag, [self.bags.row(item) for item in items.tolist()])

    def _seen(self, hashes: Hashes) -> NDArray[np.int64]:
        """Return in how many items each n-gram is."""
        if not len(self.known):
            return np.zeros(len(hashes), dtype=np.int64)
        at = np.minimum(np.searchsorted(self.known, hashes), len(self.known) - 1)
        return np.where(self.known[at] == hashes, self.counts[at], 0)


def _joined(texts: Sequence[bytes], length: int, short: bool) -> Bags:
    """Return the sets of any number of texts."""
    parts = [shingles.shingles(batch, length, short) for batch in shingles.batches(texts)]
    sizes = np.concatenate([part.sizes for part in parts])
    return Bags(np.concatenate([part.hashes for part in parts]), np.cumsum(sizes))


def _parts(bags: Bags) -> Iterator[tuple[int, Bags]]:
    """Yield (first row, sets) of as many rows as go through `prefixes.keys` at once."""
    sizes = bags.sizes
    for first in range(0, len(sizes), shingles.ROWS):
        ends = bags.ends[first : first + shingles.ROWS]
        start = int(ends[0] - sizes[first])
        yield first, Bags(bags.hashes[start : ends[-1]], ends - start)


def _within(part: bytes, whole: bytes) -> bool:
    return b" " + part + b" " in b" " + whole + b" "


# ---------------------------------------------------------------------------------------------------- writing


def write(folder: Path, source: Path, benchmark: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Look for a benchmark's items in the rows of a source that may train.

    Args:
        folder: an existing folder; gets ``excluded.parquet`` (see `data.exclusions`; one line for a row that is hit,
            with the item that hits it hardest; `source` is 0, `other_source` 1) and ``items.parquet`` (one line for an
            item that hits: row, id, reason and similarity of its strongest hit, number of rows hit, the first of them).
        source: a load stage.
        benchmark: a load stage; may be the same as `source` with held-out items.
        params: ``ngram`` (8), ``coverage`` ("1/2") and ``near`` ("4/5") make the rule; ``heldout`` ("0") and
            ``split_seed`` (0) say which rows of the source never train and are not looked at; ``items`` is "all" or
            "heldout", the benchmark's held-out rows only.

    Returns:
        ``{"rows", "hit_rows", "items", "hit_items", "row_reasons", "item_reasons", "examples", "too_short",
        "whole_only"}``; an example has reason, similarity, `row` and `item` (file:line), `text` and `item_text`.

    Raises:
        RecipeError: a parameter is none of the possible ones.
        DataError: the benchmark has no item; of a small source nothing may be held out, which is no fault.
    """
    rule, split = _rule(params), _Split.of(params)
    chosen = params.get("items", "all")
    items = [item for item in _rows(benchmark) if chosen == "all" or split.held(item.example)]
    if not items and chosen == "all":
        raise DataError("the benchmark has no item")
    found = _Found(items)
    if not items:
        exclusions.write(folder, [])
        exclusions.write_table(folder / ITEMS_FILE, ITEMS_SCHEMA, [])
        return {**found.summary(), "too_short": 0, "whole_only": 0}
    index = Index([text_of(item.example, "prompt") for item in items], rule)
    exclusions.write(folder, found.lines(index, (row for row in _rows(source) if not split.held(row.example))))
    exclusions.write_table(folder / ITEMS_FILE, ITEMS_SCHEMA, found.item_lines())
    sizes = index.grams.sizes
    few = int(((sizes > 0) & (sizes < ALONE)).sum())
    return {**found.summary(), "too_short": int((sizes == 0).sum()), "whole_only": few}


def _rule(params: Mapping[str, Any]) -> Rule:
    rule = Rule(
        int(params.get("ngram", 8)),
        Fraction(str(params.get("coverage", "1/2"))),
        Fraction(str(params.get("near", "4/5"))),
    )
    if rule.ngram < 2:
        raise RecipeError(f"`ngram` is {rule.ngram}; possible: 2 words or more, such as 8", key="ngram")
    for name, value in (("coverage", rule.coverage), ("near", rule.near)):
        if not 0 < value <= 1:
            raise RecipeError(f"`{name}` is {value}; possible: a share above 0 and up to 1, such as 1/2", key=name)
    if params.get("items", "all") not in ("all", "heldout"):
        raise RecipeError(f"`items` is {params['items']!r}; possible: all, heldout", key="items")
    return rule


@dataclass(frozen=True)
class _Split:
    """Which rows are held out."""

    fraction: Fraction
    seed: int

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> _Split:
        return cls(Fraction(str(params.get("heldout", "0"))), int(params.get("split_seed", 0)))

    def held(self, example: Example) -> bool:
        return bool(self.fraction) and seeds.below(self.seed, "heldout", example.prompt_key, self.fraction)


class _Row(NamedTuple):
    row: int
    example: Example
    occurrence: int

    @property
    def place(self) -> str:
        return f"{self.example.path}:{self.example.line}"


def _rows(load: Path) -> Iterator[_Row]:
    for row, (example, occurrence) in enumerate(examples.read(load)):
        yield _Row(row, example, occurrence)


def _batches(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """Yield rows in lists that are small enough for `shingles.shingles`, in number and in text."""
    batch: list[_Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(message.content) for message in row.example.messages)
        if len(batch) == shingles.ROWS or size >= shingles.BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Found:
    """What was hit so far."""

    def __init__(self, items: Sequence[_Row]) -> None:
        self.items = items
        self.rows = 0
        self.reasons: Counter[str] = Counter()
        self.best: dict[int, Hit] = {}
        self.first: dict[int, int] = {}
        self.times: Counter[int] = Counter()
        self.shown: list[dict[str, Any]] = []

    def lines(self, index: Index, rows: Iterable[_Row]) -> Iterator[Exclusion]:
        """Yield a line for every row that is hit."""
        for batch in _batches(rows):
            self.rows += len(batch)
            prompts = [text_of(row.example, "prompt") for row in batch]
            texts = [text_of(row.example, "conversation") for row in batch]
            for row, text, prompt, hits in zip(batch, texts, prompts, index.hits(prompts, texts), strict=True):
                if hits and hits[0].reason in ("equal", "near"):
                    yield self._line(row, prompt, hits)
                elif hits:
                    yield self._line(row, index.excerpt(text, hits[0].item), hits)

    def _line(self, row: _Row, text: str, hits: Sequence[Hit]) -> Exclusion:
        for hit in hits:
            self.times[hit.item] += 1
            self.first.setdefault(hit.item, row.row)
            self.best[hit.item] = min(hit, self.best.get(hit.item, hit))
        hit, item = hits[0], self.items[hits[0].item]
        self.reasons[hit.reason] += 1
        one, other = excerpt(text), excerpt(text_of(item.example, "prompt"))
        if len(self.shown) < SHOWN:
            self.shown.append(
                {
                    "reason": hit.reason,
                    "similarity": hit.similarity,
                    "row": row.place,
                    "item": item.place,
                    "text": one,
                    "item_text": other,
                }
            )
        return Exclusion(
            0,
            row.row,
            row.example.key,
            row.occurrence,
            hit.reason,
            hit.similarity,
            1,
            item.row,
            item.example.key,
            one,
            other,
        )

    def item_lines(self) -> Iterator[tuple[Any, ...]]:
        """Yield a line for every item that hit."""
        for number, hit in sorted(self.best.items()):
            item = self.items[number]
            yield item.row, item.example.key, hit.reason, hit.similarity, self.times[number], self.first[number]

    def summary(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "rows": self.rows,
            "hit_rows": self.reasons.total(),
            "items": len(self.items),
            "hit_items": len(self.best),
            "row_reasons": {reason: self.reasons[reason] for reason in REASONS},
            "item_reasons": {reason: sum(hit.reason == reason for hit in self.best.values()) for reason in REASONS},
            "examples": self.shown,
        }
