"""`drop` and `keep`: which rows of a source pass by their tags and lengths.

    how = {
        "drop": {"tags": "code|math", "longer_than": 4000},                 # a row goes when any of these holds
        "keep": {"tags": "chat", "ignore_case": True, "answer_longer_than": 5},  # a row stays when all of these hold
    }

    tags                  regular expression that any of the row's tags must match (re.search)
    stem                  true: tags are normalised before they are matched (`tags.normalise`)
    ignore_case           true: capitals do not count
    longer_than           tokens of the row before any length rule; also shorter_than
    answer_longer_than    supervised tokens of the row before any length rule; also answer_shorter_than

Equal rows (of one id) share their tags: each of them is judged by the tags of all, so that what passes does not hang
on which of them stands first in the file.

A row that the template refuses has no length: length conditions let it pass, and it counts as lost at rendering.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cuvee.data import ranks
from cuvee.data.ranks import Ints, Keys
from cuvee.errors import DataError, did_you_mean

Tags = Sequence[Sequence[str]]
How = Mapping[str, Any]
Matches = Callable[[str], bool]

RULES = ("drop", "keep")
OPTIONS = ("stem", "ignore_case")
LENGTHS = {
    "longer_than": ("full_tokens", np.greater),
    "shorter_than": ("full_tokens", np.less),
    "answer_longer_than": ("full_supervised", np.greater),
    "answer_shorter_than": ("full_supervised", np.less),
}
CONDITIONS = ("tags", *OPTIONS, *LENGTHS)


class Rows(Protocol):
    """What the rules look at."""

    @property
    def keys(self) -> Keys: ...
    @property
    def occurrences(self) -> Ints: ...
    @property
    def full_tokens(self) -> Ints: ...
    @property
    def full_supervised(self) -> Ints: ...
    @property
    def tags(self) -> Tags: ...
    def __len__(self) -> int: ...


def filtered(rows: Rows, how: How | None, tags: Tags | None = None) -> NDArray[np.bool_]:
    """Return which rows `drop` and `keep` leave out, (n,).

    Args:
        rows: rendered rows.
        how: ``drop`` and ``keep`` as in the head of this file; other keys do not count.
        tags: tags of each row besides the row's own, (n,).

    Raises:
        DataError: a filter is no regular expression, or asks for tags and no row has any.
        ValueError: a condition is unknown, or `tags` is not one entry a row.
    """
    out = np.zeros(len(rows), np.bool_)
    for rule in RULES:
        conditions = _conditions(how, rule)
        known = rows.full_tokens > 0 if set(conditions) & set(LENGTHS) else out
        for name, (column, compare) in LENGTHS.items():
            if name in conditions:
                holds = compare(getattr(rows, column), conditions[name])
                out |= known & (holds == (rule == "drop"))
    by_tags = tag_rule(how)
    return out if by_tags is None else out | ~by_tags.stays(united(rows.tags, tags), alike(rows))


@dataclass(frozen=True)
class TagRule:
    """What `drop` and `keep` say of tags.

    Args:
        matchers: for each rule that asks for tags, whether one tag matches.
        asked: the rules as written, for messages.
    """

    matchers: Mapping[str, Matches]
    asked: str

    def stays(self, tags: Tags, keys: Keys | None = None) -> NDArray[np.bool_]:
        """Return which rows stay, (n,).

        Args:
            tags: tags of each row, (n,).
            keys: ids of the rows, (n, 16): rows of one id are judged by the tags of all of them. None where no two
                rows are equal.

        Raises:
            DataError: no row has tags.
        """
        if not any(tags):
            raise DataError(
                f"{self.asked} asks for tags, and no row of the source has any; name the column that holds them with "
                "`tags:` at the source, or have a tagger make them"
            )
        stay = np.ones(len(tags), np.bool_)
        for rule, matches in self.matchers.items():
            found = np.fromiter((any(map(matches, own)) for own in tags), np.bool_, len(tags))
            if keys is not None:
                _share(found, keys)
            stay &= found == (rule == "keep")
        return stay


def _share(found: NDArray[np.bool_], keys: Keys) -> None:
    """Let what holds for one row hold for all rows of its id."""
    rows = ranks.repeated(keys)
    if len(rows):
        first = ranks.firsts(keys[rows])
        found[rows] = np.logical_or.reduceat(found[rows], np.flatnonzero(first))[np.cumsum(first) - 1]


def alike(rows: Rows) -> Keys | None:
    """Return the rows' ids where some rows are equal, (n, 16)."""
    return rows.keys if rows.occurrences.any() else None


def tag_rule(how: How | None) -> TagRule | None:
    """Return what `drop` and `keep` say of tags; None when they say nothing of them.

    Raises:
        DataError: a filter is no regular expression.
        ValueError: a condition is unknown.
    """
    found = {rule: _conditions(how, rule) for rule in RULES}
    found = {rule: conditions for rule, conditions in found.items() if "tags" in conditions}
    if not found:
        return None
    asked = ", ".join(f"{rule}: {{tags: {conditions['tags']!r}}}" for rule, conditions in found.items())
    return TagRule({rule: _matches(rule, conditions) for rule, conditions in found.items()}, asked)


def united(own: Tags, more: Tags | None) -> Tags:
    """Return each row's own tags with those that came from elsewhere.

    Raises:
        ValueError: they are not of the same rows.
    """
    if more is None:
        return own
    if len(own) != len(more):
        raise ValueError(f"{len(more):,} rows of tags for {len(own):,} rows")
    return _United(own, more)


class _United(Sequence[Sequence[str]]):
    """Two sequences of tags, joined row by row when they are asked for."""

    def __init__(self, own: Tags, more: Tags) -> None:
        self.own, self.more = own, more

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Sequence[str]]:
        return ((*a, *b) for a, b in zip(self.own, self.more, strict=True))

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # no slices, so no overloads
        return (*self.own[index], *self.more[index])


def _conditions(how: How | None, rule: str) -> Mapping[str, Any]:
    conditions: Mapping[str, Any] = (how or {}).get(rule) or {}
    for name in conditions:
        if name not in CONDITIONS:
            raise ValueError(f"how.{rule}.{name} is unknown.{did_you_mean(name, CONDITIONS)}")
        if name in OPTIONS and "tags" not in conditions:
            raise ValueError(f"how.{rule}.{name} says how tags are matched, and how.{rule} has no tags")
    return conditions


def _matches(rule: str, conditions: Mapping[str, Any]) -> Matches:
    """Return whether a tag matches; each tag is looked at once, as rows share them."""
    try:
        pattern = re.compile(conditions["tags"], re.IGNORECASE if conditions.get("ignore_case") else 0)
    except re.error as error:
        raise DataError(f"{rule}.tags {conditions['tags']!r} is no regular expression: {error}") from None
    form = _stemmed if conditions.get("stem") else str
    return lru_cache(maxsize=1 << 16)(lambda tag: pattern.search(form(tag)) is not None)


def _stemmed(tag: str) -> str:
    from cuvee.data.tags import normalise

    return normalise(tag)
