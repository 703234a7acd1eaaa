"""Which rows an evaluator asks about: held-out rows of an ability's sources, or a whole benchmark file.

Equal rows are one item. `items` keeps the first by a rank that hangs on the row alone, so that a smaller number
is a subset of a larger one, and the same items for every model, run and seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from cuvee import seeds
from cuvee.data import examples as load
from cuvee.data.parts import heldout_rows
from cuvee.data.rendered import Rendered
from cuvee.protocols import TokenRow
from cuvee.values import Example


def examples(folders: Iterable[Path], heldout: Fraction | None, split_seed: int, items: int | None) -> list[Example]:
    """Return the items of several loaded sources.

    Args:
        folders: load stages.
        heldout: share that is held out; None takes every row, as of a benchmark file.
        split_seed: seed of the split and of the items' rank.
        items: how many; all when None.
    """
    found: dict[bytes, Example] = {}
    for folder in folders:
        for example, _ in load.read(folder):
            if heldout is None or seeds.below(split_seed, "heldout", example.prompt_key, heldout):
                found.setdefault(example.key, example)
    ranked = sorted(found, key=lambda key: (seeds.rank(split_seed, "items", key), key))
    return [found[key] for key in ranked[:items]]


def token_rows(
    sources: Sequence[Rendered], heldout: Fraction, split_seed: int, items: int | None
) -> tuple[list[str], list[TokenRow], int]:
    """Return (item ids, token rows with `part` set, number of held-out rows in all) of rendered sources."""
    found: dict[bytes, tuple[int, int]] = {}
    for part, source in enumerate(sources):
        keys = source.keys
        for row in heldout_rows(source, heldout, split_seed, None):
            found.setdefault(keys[row].tobytes(), (part, int(row)))
    ranked = sorted(found, key=lambda key: (seeds.rank(split_seed, "items", key), key))
    rows = []
    for key in ranked[:items]:
        part, row = found[key]
        plain = sources[part].row(row)
        rows.append(TokenRow(plain.ids, plain.spans, part))
    return [key.hex() for key in ranked[:items]], rows, len(found)
