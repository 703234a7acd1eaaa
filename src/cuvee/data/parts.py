"""Which rows of one source are used: held-out, duplicates, overlap, drop/keep, selections, amounts, in this order.

    how = {
        "amounts": [{"share": "1/4"}],      # one after another; also {"count": 500}, {"tokens": 2000000},
                                            # {"fold": {"of": 4, "number": 0, "inside": false}}: one fold of the
                                            # prompts, or all others; and one of several portions of the rows:
                                            # {"portion": {"number": 0, "of": 4, "sizes": "equal"}};
                                            # {"drawn": {"number": 0, "share": "1/4"}}: a share by a draw of its own;
                                            # rows held out at a share: {"items": {"of": "1/20", "most": 200}}
        "duplicates": "drop",               # default "keep"
        "drop": {"tags": "code|math"},      # a row goes when any of its conditions holds
        "keep": {"tags": "chat"},           # a row stays when all of its conditions hold
    }

The conditions are those of `filters`. Near duplicates and overlap with benchmarks are found elsewhere and come in as
row numbers.

Rows are ranked by hash(seed, "subset", id, occurrence): subsets are nested and hang on nothing but the rows.
Portions are disjoint and together whole: rows lie on a line by hash(seed, "portion", id, occurrence), which is cut at
equal numbers of rows, or (sizes: binomial) at equal lengths, so that a row's portion hangs on the row alone. Portions
2i and 2i + 1 of 2K are portion i of K. Drawn shares rank by hash(seed, "draw NUMBER", id, occurrence): those of other
numbers know nothing of each other, and may overlap.

A copy's number is its occurrence plus 2**32 for each earlier whole copy, so that copies rank on their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cuvee import canonical
from cuvee.data import filters, ranks
from cuvee.data.ranks import Ints, Keys
from cuvee.errors import DataError, did_you_mean

HOW_KEYS = ("amounts", "duplicates", "drop", "keep", "tagged", "excluded")
"""The last two hold ids of stages, for whoever fetches the tags and the excluded rows; nothing here reads them."""
EXCLUSIONS = ("duplicates", "overlap", "select")
AMOUNTS = ("share", "count", "tokens", "fold", "portion", "drawn", "items")
SIZES = ("equal", "binomial")
COPY = 1 << 32
"""What one more whole copy adds to a row's number."""
PIECE = 1 << 46
"""What one more piece of a split row adds to it."""

Tags = Sequence[Sequence[str]]
"""Tags of each row, in load order."""

Excluded = Mapping[str, NDArray[np.int64]]
"""Rows to leave out (load order), by what was found: ``duplicates`` or ``overlap``."""


class Rows(Protocol):
    """What choosing needs to know of rendered rows; `rendered.Rendered` offers it."""

    @property
    def keys(self) -> Keys: ...
    @property
    def prompt_keys(self) -> Keys: ...
    @property
    def occurrences(self) -> Ints: ...
    @property
    def num_tokens(self) -> Ints: ...
    @property
    def num_supervised(self) -> Ints: ...
    @property
    def num_pieces(self) -> Ints: ...
    @property
    def full_tokens(self) -> Ints: ...
    @property
    def full_supervised(self) -> Ints: ...
    @property
    def dropped(self) -> NDArray[np.bool_]: ...
    @property
    def tags(self) -> Tags: ...
    def __len__(self) -> int: ...
    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Chosen:
    """Rows of one source, ascending by row and copy.

    Args:
        rows: row indexes, (m,) int64; a row stands once for each of its copies.
        copies: number of each copy of the row, (m,) int32, from 0.
        counts: ``available``, ``heldout``, ``duplicates``, ``overlap``, ``filtered``, ``unselected`` (where rows are
            selected), ``pool`` (rows after these), ``asked`` (the amounts as text), ``rows`` (chosen), ``lost``
            (chosen, but dropped at rendering), ``pieces`` (rows of a training that come of them),
            ``supervised_tokens``, ``total_tokens``.
    """

    rows: NDArray[np.int64]
    copies: NDArray[np.int32]
    counts: dict[str, Any]


def numbers(occurrences: Ints, copies: NDArray[np.int32], pieces: NDArray[np.int16] | None = None) -> NDArray[np.int64]:
    """Return what tells equal rows, copies and pieces apart: occurrence + 2**32 * copy + 2**46 * piece, (m,)."""
    if pieces is not None and pieces.any() and copies.max() >= PIECE // COPY:
        raise DataError(f"rows that were split are repeated more than {PIECE // COPY:,} times; use a smaller share")
    found = occurrences + copies.astype(np.int64) * COPY
    return found if pieces is None else found + pieces.astype(np.int64) * PIECE


def choose(
    rendered: Rows,
    how: Mapping[str, Any],
    heldout: Fraction,
    split_seed: int,
    seed: int | None,
    excluded: Excluded | None = None,
    tags: Tags | None = None,
) -> Chosen:
    """Return the rows of one source that a mixture uses.

    Args:
        rendered: the source's rows.
        how: as in the head of this file.
        heldout: share of prompts kept out of every training.
        split_seed: seed of that split; the same for all runs of a recipe.
        seed: seed of subsets; may be None when nothing is ranked (no amount but whole shares).
        excluded: rows to leave out; a row that is named twice counts for the first of the reasons.
        tags: tags of each row besides the row's own, (n,).

    Raises:
        DataError: an amount is impossible or keeps no row, a filter is no regular expression or the rows have no
            tags; the message says what was asked, what is there and the remedy.
        ValueError: something is ranked and `seed` is None, `how` or `excluded` has unknown keys, or `tags` is
            not one entry a row.
    """
    unknown = [key for key in how if key not in HOW_KEYS]
    if unknown:
        raise ValueError(f"how.{unknown[0]} is unknown.{did_you_mean(unknown[0], HOW_KEYS)}")
    pool, counts = _pool(rendered, how, heldout, split_seed, excluded or {}, tags)
    chosen = _Selection(rendered, pool, np.zeros(len(pool), np.int32), seed)
    for amount in how.get("amounts", ()):
        if not len(chosen):
            asked = canonical.text(amount)
            raise DataError(
                f"the selection keeps none of the {counts['unselected']:,} rows, so {asked} has nothing to take; leave "
                " the source's amount out, or select `within: source`"
            )
        chosen = _amount(chosen, amount, split_seed)
    rows, copies = chosen.rows, chosen.copies
    if copies.any():
        ordered = np.lexsort((copies, rows))
        rows, copies = rows[ordered], copies[ordered]
    else:
        rows = np.sort(rows)
    lost = int(rendered.dropped[rows].sum())
    if lost and lost == len(rows):
        raise DataError(
            f"all {len(rows):,} chosen rows were lost at rendering; raise max_length or look at the render "
            "stage's reasons"
        )
    counts |= {
        "asked": [canonical.text(amount) for amount in how.get("amounts", ())],
        "rows": len(rows),
        "lost": lost,
        "pieces": int(rendered.num_pieces[rows].sum()),
        "supervised_tokens": int(rendered.num_supervised[rows].sum()),
        "total_tokens": int(rendered.num_tokens[rows].sum()),
    }
    return Chosen(rows, copies, counts)


def heldout_rows(
    rendered: Rows,
    heldout: Fraction,
    split_seed: int,
    items: int | None,
    how: Mapping[str, Any] | None = None,
    tags: Tags | None = None,
) -> NDArray[np.int64]:
    """Return the rows to measure held-out loss on: each id once, none that was lost at rendering.

    Args:
        rendered: the source's rows.
        heldout: share of prompts held out.
        split_seed: seed of the split.
        items: how many rows at most; the first by rank. None for all.
        how: as in the head of this file; only the tag rules of `drop` and `keep` count, so that a source is judged
            on what it teaches. Length rules do not: lengths hang on tokenizer and template, and items must be the
            same for every model.
        tags: tags of each row besides the row's own, (n,).

    Returns:
        Row indexes in ascending rank, (m,) int64.

    Raises:
        DataError: a filter is no regular expression or the rows have no tags.
    """
    held = _held(rendered, heldout, split_seed)
    rule = filters.tag_rule(how)
    if rule is not None:
        held = held & rule.stays(filters.united(rendered.tags, tags), filters.alike(rendered))
    rows = np.flatnonzero(held & (rendered.occurrences == 0) & ~rendered.dropped)
    keys = rendered.keys[rows]
    ranked = ranks.order(ranks.ranks(split_seed, "items", keys), keys, np.zeros(len(rows), np.int64))
    return rows[ranked[:items]].astype(np.int64)


# A sweep asks the same source again and again for other amounts, so what hangs on the rows alone is kept.


@lru_cache(maxsize=8)
def _first_order(rendered: Rows, seed: int) -> Ints:
    """Return all rows in ascending subset rank of their first copies, (n,); a subset keeps this order."""
    keys, labels = rendered.keys, rendered.occurrences
    found = ranks.order(ranks.ranks(seed, "subset", keys, labels), keys, labels)
    return found.astype(np.int32) if len(found) < 1 << 31 else found


@lru_cache(maxsize=16)
def _held(rendered: Rows, heldout: Fraction, split_seed: int) -> NDArray[np.bool_]:
    """Return which rows are held out, (n,)."""
    return ranks.below(split_seed, "heldout", rendered.prompt_keys, heldout)


# --------------------------------------------------------------------------------------------- the pool


def _pool(
    rendered: Rows,
    how: Mapping[str, Any],
    heldout: Fraction,
    split_seed: int,
    excluded: Excluded,
    tags: Tags | None,
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Return the rows that amounts are taken of, and how many went for which reason."""
    unknown = [key for key in excluded if key not in EXCLUSIONS]
    if unknown:
        raise ValueError(f"excluded.{unknown[0]} is unknown.{did_you_mean(unknown[0], EXCLUSIONS)}")
    left = np.ones(len(rendered), np.bool_)
    counts: dict[str, Any] = {"available": len(rendered)}

    def leave_out(reason: str, which: NDArray[np.bool_]) -> None:
        nonlocal left
        counts[reason] = int((left & which).sum())
        left &= ~which

    leave_out("heldout", _held(rendered, heldout, split_seed))
    again = _again(rendered, str(how.get("duplicates", "keep")))
    leave_out("duplicates", again | _named(rendered, excluded.get("duplicates")))
    leave_out("overlap", _named(rendered, excluded.get("overlap")))
    leave_out("filtered", filters.filtered(rendered, how, tags))
    if "select" in excluded:
        leave_out("unselected", _named(rendered, excluded["select"]))
    counts["pool"] = int(left.sum())
    # A selection over several sources may keep none of one of them.
    if not counts["pool"] and not counts.get("unselected"):
        raise DataError(
            f"no row is left of {counts['available']:,}: {counts['heldout']:,} held out, {counts['duplicates']:,} "
            f"duplicates, {counts['overlap']:,} overlapping, {counts['filtered']:,} filtered; lower `heldout` or "
            "change `duplicates`, `overlap`, `drop` or `keep`"
        )
    return np.flatnonzero(left).astype(np.int64), counts


def _named(rendered: Rows, rows: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Return which rows are named, (n,)."""
    found = np.zeros(len(rendered), np.bool_)
    if rows is not None:
        found[np.asarray(rows, np.int64)] = True
    return found


def _again(rendered: Rows, rule: str) -> NDArray[np.bool_]:
    if rule not in ("keep", "drop"):
        raise ValueError(f"how.duplicates is {rule!r}.{did_you_mean(rule, ('keep', 'drop'))}")
    if rule == "keep":
        return np.zeros(len(rendered), np.bool_)
    return rendered.occurrences > 0


# --------------------------------------------------------------------------------------------- the amounts


@dataclass(frozen=True)
class _Selection:
    """Rows with their copy numbers; what amounts are taken of and give."""

    rendered: Rows
    rows: NDArray[np.int64]
    copies: NDArray[np.int32]
    seed: int | None

    def __len__(self) -> int:
        return len(self.rows)

    def ranked(self) -> NDArray[np.int64]:
        """Return positions in ascending rank."""
        if self.seed is None:
            raise ValueError("an amount ranks rows, and the mixture has no seed")
        if not self.copies.any():
            place = np.full(len(self.rendered), -1, np.int64)
            place[self.rows] = np.arange(len(self.rows))
            ordered = place[_first_order(self.rendered, self.seed)]
            return ordered[ordered >= 0]
        keys = self.rendered.keys[self.rows]
        labels = numbers(self.rendered.occurrences[self.rows], self.copies)
        return ranks.order(ranks.ranks(self.seed, "subset", keys, labels), keys, labels)

    def take(self, positions: NDArray[np.int64]) -> _Selection:
        return _Selection(self.rendered, self.rows[positions], self.copies[positions], self.seed)

    def repeated(self, times: int) -> _Selection:
        """Return `times` whole copies, each with copy numbers of its own."""
        step = int(self.copies.max()) + 1
        copies = np.concatenate([self.copies + step * time for time in range(times)])
        return _Selection(self.rendered, np.tile(self.rows, times), copies.astype(np.int32), self.seed)


def _amount(chosen: _Selection, amount: Mapping[str, Any], split_seed: int) -> _Selection:
    name = next(iter(amount), "")
    if len(amount) != 1 or name not in AMOUNTS:
        raise ValueError(f"an amount is exactly one of {', '.join(AMOUNTS)}, got {dict(amount)}")
    if name == "portion":
        return _portion(chosen, **amount[name])
    if name == "drawn":
        return _drawn(chosen, int(amount[name]["number"]), Fraction(amount[name]["share"]))
    if name == "share":
        return _share(chosen, Fraction(amount[name]))
    if name == "fold":
        return _fold(chosen, amount[name], split_seed)
    if name == "items":
        return _items(chosen, Fraction(amount[name]["of"]), int(amount[name]["most"]), split_seed)
    return (_count if name == "count" else _tokens)(chosen, int(amount[name]))


def _share(chosen: _Selection, share: Fraction) -> _Selection:
    n = len(chosen)
    wanted = share.numerator * n // share.denominator
    if wanted <= 0:
        raise DataError(
            f"a share of {share} of {n:,} rows is no row; the smallest share that keeps one is 1/{n}, or say count: 1"
        )
    whole, rest = divmod(wanted, n)
    if not rest:
        return chosen if whole == 1 else chosen.repeated(whole)
    if not whole:
        return chosen.take(chosen.ranked()[:rest])
    copies = chosen.repeated(whole + 1)
    # The remainder is nested by the rank of the rows themselves, so 1.25 holds what 0.25 holds twice.
    positions = np.concatenate([np.arange(whole * n), whole * n + chosen.ranked()[:rest]])
    return copies.take(positions)


def _portion(chosen: _Selection, number: int, of: int, sizes: str) -> _Selection:
    """Take one of several portions of rows that lie on a line by a hash of their own."""
    if sizes not in SIZES or not 0 <= number < of or chosen.seed is None:
        raise ValueError(f"portion {number} of {of}, sizes {sizes!r}, seed {chosen.seed}")
    n, rendered = len(chosen), chosen.rendered
    keys = rendered.keys[chosen.rows]
    labels = numbers(rendered.occurrences[chosen.rows], chosen.copies)
    found = ranks.ranks(chosen.seed, "portion", keys, labels)
    if sizes == "equal":
        ordered = ranks.order(found, keys, labels)
        taken = np.sort(ordered[number * n // of : (number + 1) * n // of])
    else:
        # The portion of a hash h is floor(h * of / 2**64): the edges are the least hashes of the portions.
        edges = [-(-(edge << 64) // of) for edge in (number, number + 1)]
        below = np.ones(n, np.bool_) if edges[1] >> 64 else found < np.uint64(edges[1])
        taken = np.flatnonzero(below & (found >= np.uint64(edges[0])))
    if not len(taken):
        raise DataError(f"portion {number + 1} of {of} of {n:,} rows has no row; use fewer portions or more rows")
    return chosen.take(taken)


def _drawn(chosen: _Selection, number: int, share: Fraction) -> _Selection:
    """Take a share of the rows, of at most all, by a draw that has a number of its own."""
    if number < 0 or not 0 < share <= 1 or chosen.seed is None:
        raise ValueError(f"draw {number} of a share of {share}, seed {chosen.seed}")
    n, rendered = len(chosen), chosen.rendered
    wanted = share.numerator * n // share.denominator
    if not wanted:
        raise DataError(f"a drawn share of {share} of {n:,} rows is no row; the smallest that keeps one is 1/{n}")
    keys = rendered.keys[chosen.rows]
    labels = numbers(rendered.occurrences[chosen.rows], chosen.copies)
    ordered = ranks.order(ranks.ranks(chosen.seed, f"draw {number}", keys, labels), keys, labels)
    return chosen.take(np.sort(ordered[:wanted]))


def _count(chosen: _Selection, count: int) -> _Selection:
    n = len(chosen)
    if count <= 0:
        raise DataError(f"count: {count} keeps no row of {n:,}; say count: 1 or more")
    if count > n:
        raise DataError(
            f"count: {count:,} asked, {n:,} rows are there; say count: {n} or less, or share: "
            f"{Fraction(count, n)} to repeat rows on purpose"
        )
    return chosen if count == n else chosen.take(chosen.ranked()[:count])


def _tokens(chosen: _Selection, tokens: int) -> _Selection:
    """Take rows in rank order until the next one would exceed `tokens` supervised tokens."""
    each = chosen.rendered.num_supervised[chosen.rows]
    there = int(each.sum())
    if tokens > there:
        raise DataError(
            f"tokens: {tokens:,} asked, {there:,} supervised tokens are there; say tokens: {there} or less, "
            "or a share above 1 in its place to repeat rows on purpose"
        )
    ranked = chosen.ranked()
    fitting = int(np.searchsorted(np.cumsum(each[ranked]), tokens, side="right"))
    if not fitting:
        raise DataError(
            f"tokens: {tokens:,} keeps no row: the first by rank has {int(each[ranked[0]]):,} supervised tokens; "
            f"say tokens: {int(each[ranked[0]])} or more"
        )
    return chosen.take(ranked[:fitting])


def _fold(chosen: _Selection, fold: Mapping[str, Any], split_seed: int) -> _Selection:
    """Take the rows of one fold, or all others; the rows of one prompt lie in the same fold."""
    found = ranks.ranks(split_seed, "fold", chosen.rendered.prompt_keys[chosen.rows])
    number = (found >> np.uint64(32)) * np.uint64(fold["of"]) >> np.uint64(32)
    inside = number == np.uint64(fold["number"])
    taken = np.flatnonzero(inside == bool(fold["inside"]))
    if not len(taken):
        raise DataError(f"fold {fold['number']} of {fold['of']} of {len(chosen):,} rows is no row; say fewer folds")
    return chosen.take(taken)


def _items(chosen: _Selection, heldout: Fraction, most: int, split_seed: int) -> _Selection:
    """Take the first rows that held-out loss is measured on, of a pool that holds nothing out."""
    held = heldout_rows(chosen.rendered, heldout, split_seed, None)
    rows = held[np.isin(held, chosen.rows)][:most]
    if not len(rows):
        raise DataError(f"none of {len(chosen):,} rows is held out at a share of {heldout}; raise `heldout`")
    return chosen.take(np.flatnonzero(np.isin(chosen.rows, rows)))
