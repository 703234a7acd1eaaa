"""Which rows an evaluator asks about: held-out rows of an ability's sources, or a whole benchmark file.

A source's `drop` and `keep` hold for its items as they do for its training rows: `hows` has one `how` a source
(see `data.parts`), of which nothing else counts. Equal rows are one item. `items` keeps the first by a rank that
hangs on the row alone, so that a smaller number is a subset of a larger one, and the same items for every model,
run and seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee import seeds
from cuvee.data import examples as load
from cuvee.data.parts import heldout_rows, no_tags, tag_rule
from cuvee.data.rendered import Rendered
from cuvee.protocols import TokenRow
from cuvee.values import Example

How = Mapping[str, Any] | None


def examples(
    folders: Iterable[Path], heldout: Fraction | None, split_seed: int, items: int | None, hows: Sequence[How] = ()
) -> list[Example]:
    """Return the items of several loaded sources.

    Args:
        folders: load stages.
        heldout: share that is held out; None takes every row, as of a benchmark file.
        split_seed: seed of the split and of the items' rank.
        items: how many; all when None.
        hows: which rows count, one for each folder; none for all rows.

    Raises:
        DataError: a filter is no regular expression, or asks for tags and no row of its source has any.
    """
    found: dict[bytes, Example] = {}
    folders = list(folders)
    for folder, how in zip(folders, _each(hows, len(folders)), strict=True):
        for example in _passing(folder, how):
            if heldout is None or seeds.below(split_seed, "heldout", example.prompt_key, heldout):
                found.setdefault(example.key, example)
    ranked = sorted(found, key=lambda key: (seeds.rank(split_seed, "items", key), key))
    return [found[key] for key in ranked[:items]]


def token_rows(
    sources: Sequence[Rendered], heldout: Fraction, split_seed: int, items: int | None, hows: Sequence[How] = ()
) -> tuple[list[str], list[TokenRow], int]:
    """Return (item ids, token rows with `part` set, number of held-out rows in all) of rendered sources.

    Args:
        sources: render stages' rows.
        heldout: share that is held out.
        split_seed: seed of the split and of the items' rank.
        items: how many; all when None.
        hows: which rows count, one for each source; none for all rows.

    Raises:
        DataError: as `examples`.
    """
    found: dict[bytes, tuple[int, int]] = {}
    for part, (source, how) in enumerate(zip(sources, _each(hows, len(sources)), strict=True)):
        keys = source.keys
        for row in heldout_rows(source, heldout, split_seed, None, how):
            found.setdefault(keys[row].tobytes(), (part, int(row)))
    ranked = sorted(found, key=lambda key: (seeds.rank(split_seed, "items", key), key))
    rows = []
    for key in ranked[:items]:
        part, row = found[key]
        plain = sources[part].row(row)
        rows.append(TokenRow(plain.ids, plain.spans, part))
    return [key.hex() for key in ranked[:items]], rows, len(found)


def _each(hows: Sequence[How], sources: int) -> Sequence[How]:
    if hows and len(hows) != sources:
        raise ValueError(f"{len(hows)} hows for {sources} sources")
    return hows or [None] * sources


def _passing(folder: Path, how: How) -> Iterator[Example]:
    """Yield a loaded source's examples that its `drop` and `keep` let stay."""
    rule, tagged = tag_rule(how), False
    for example, _ in load.read(folder):
        tagged = tagged or bool(example.tags)
        if rule is None or rule(example.tags):
            yield example
    if rule is not None and not tagged:
        assert how is not None
        raise no_tags(how)
