"""Which rows an evaluator asks about: held-out rows of an ability's sources, or a whole benchmark file.

The tag rules of a source's `drop` and `keep` hold for its items as they do for its training rows: `hows` has one `how`
a source (see `data.parts`), of which nothing else counts. Length rules hold for training rows only, since lengths hang
on tokenizer and template, and items are the same for every model. Equal rows are one item. `items` keeps the first by
a rank that hangs on the row alone, so that a smaller number is a subset of a larger one, and the same items for every
model, run and seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee import seeds
from cuvee.data import examples as load
from cuvee.data.filters import tag_rule, united
from cuvee.data.parts import Tags, heldout_rows
from cuvee.data.rendered import Rendered
from cuvee.protocols import TokenRow
from cuvee.values import Example

How = Mapping[str, Any] | None


def examples(
    folders: Iterable[Path],
    heldout: Fraction | None,
    split_seed: int,
    items: int | None,
    hows: Sequence[How] = (),
    tags: Sequence[Tags | None] = (),
) -> list[Example]:
    """Return the items of several loaded sources.

    Args:
        folders: load stages.
        heldout: share that is held out; None takes every row, as of a benchmark file.
        split_seed: seed of the split and of the items' rank.
        items: how many; all when None.
        hows: which rows count, one for each folder; none for all rows.
        tags: tags of each folder's rows besides their own; None or nothing for none.

    Raises:
        DataError: a filter is no regular expression, or asks for tags and no row of its source has any.
    """
    found: dict[bytes, Example] = {}
    folders = list(folders)
    for folder, how, more in zip(folders, _each(hows, len(folders)), _each(tags, len(folders)), strict=True):
        for example in _passing(folder, how, more):
            if heldout is None or seeds.below(split_seed, "heldout", example.prompt_key, heldout):
                found.setdefault(example.key, example)
    ranked = sorted(found, key=lambda key: (seeds.rank(split_seed, "items", key), key))
    return [found[key] for key in ranked[:items]]


def token_rows(
    sources: Sequence[Rendered],
    heldout: Fraction,
    split_seed: int,
    items: int | None,
    hows: Sequence[How] = (),
    tags: Sequence[Tags | None] = (),
) -> tuple[list[str], list[TokenRow], int]:
    """Return (item ids, token rows with `part` set, number of held-out rows in all) of rendered sources.

    A row that was split gives one token row a piece, the later ones under the ids ``ID.1``, ``ID.2`` ...; `items`
    counts examples, the number in all counts pieces.

    Args:
        sources: render stages' rows.
        heldout: share that is held out.
        split_seed: seed of the split and of the items' rank.
        items: how many; all when None.
        hows: which rows count, one for each source; none for all rows.
        tags: tags of each source's rows besides their own; None or nothing for none.

    Raises:
        DataError: as `examples`.
    """
    found: dict[bytes, tuple[int, int]] = {}
    given = zip(sources, _each(hows, len(sources)), _each(tags, len(sources)), strict=True)
    for part, (source, how, more) in enumerate(given):
        keys = source.keys
        for row in heldout_rows(source, heldout, split_seed, None, how, more):
            found.setdefault(keys[row].tobytes(), (part, int(row)))
    ranked = sorted(found, key=lambda key: (seeds.rank(split_seed, "items", key), key))
    ids, rows = [], []
    for key in ranked[:items]:
        part, row = found[key]
        for piece in range(int(sources[part].num_pieces[row])):
            ids.append(f"{key.hex()}.{piece}" if piece else key.hex())
            rows.append(sources[part].row(row, part, piece))
    return ids, rows, sum(int(sources[part].num_pieces[row]) for part, row in found.values())


def _each(given: Sequence[Any], sources: int) -> Sequence[Any]:
    if given and len(given) != sources:
        raise ValueError(f"{len(given)} hows or tags for {sources} sources")
    return given or [None] * sources


def _passing(folder: Path, how: How, more: Tags | None) -> Iterator[Example]:
    """Yield a loaded source's examples that its tag rules let stay."""
    rule = tag_rule(how)
    if rule is None:
        yield from (example for example, _ in load.read(folder))
        return
    # Equal rows share their tags, so that all tags are looked at before the first row passes.
    keys, own = load.keys_and_tags(folder)
    stays = rule.stays(united(own, more), keys)
    yield from (example for (example, _), stay in zip(load.read(folder), stays, strict=True) if stay)
