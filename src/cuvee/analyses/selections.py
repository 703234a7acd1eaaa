"""Selections side by side: what they keep of each source, how alike they are, and whether they just follow length.

Three questions that a reader of selection papers has: is the score more than length (LoBaSS/DavIR, paper: arXiv
2310.13008, reports the rank correlation of its score with length), do two methods choose the same rows, and does
another seed choose other rows? What a selection is worth is in `scores`: runs trained on each, beside random rows of
the same number.

    analyses: [scores, selections]

Overlap is measured on rows that two selections both looked at: rows kept by both over rows kept by either (Jaccard),
beside what two random choices of the same sizes would share. Correlations are Spearman's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee import protocols
from cuvee.protocols import Choice, Figure, Table

VERSION = 1
OF = "selections"


class Params(protocols.Params):
    """None."""


def table(results: Sequence[Choice], params: Params) -> list[Table]:
    """Return what each selection keeps, by source, and how alike each two are."""
    if not results:
        return [Table("Selections", ["selection"], [], ["Nothing was selected."])]
    tables = [_kept(results), _sources(results)]
    pairs = list(_pairs(results))
    if pairs:
        tables.append(_alike(pairs))
    return tables


def _kept(choices: Sequence[Choice]) -> Table:
    columns = [
        "selection",
        "pool",
        "kept",
        "share",
        "tokens a row kept",
        "tokens a row in the pool",
        "score with length",
    ]
    rows = []
    for one in choices:
        inside = one.tokens[one.kept]
        rows.append(
            {
                "selection": one.name,
                "pool": len(one.rows),
                "kept": int(one.kept.sum()),
                "share": f"{one.kept.mean():.2%}",
                "tokens a row kept": round(float(inside.mean()), 1),
                "tokens a row in the pool": round(float(one.tokens.mean()), 1),
                "score with length": _shown(spearman(one.scores, one.tokens)),
                "not kept because": "; ".join(f"{n:,} x {text}" for text, n in one.reasons.items() if text != "kept"),
            }
        )
    notes = ("Tokens are supervised ones. `score with length` is the rank correlation of score and supervised tokens.",)
    return Table("Selections: what was kept", [*columns, "not kept because"], rows, notes)


def _sources(choices: Sequence[Choice]) -> Table:
    rows, series = [], dict[str, list[dict[str, Any]]]()
    for one in choices:
        whole, tokens = max(1, int(one.kept.sum())), max(1, int(one.tokens[one.kept].sum()))
        for number, name in enumerate(one.names):
            inside = one.source == number
            kept = inside & one.kept
            share = int(kept.sum()) / whole
            rows.append(
                {
                    "selection": one.name,
                    "source": name,
                    "pool": int(inside.sum()),
                    "kept": int(kept.sum()),
                    "share of the pool's rows": f"{inside.mean():.1%}",
                    "share of the kept rows": f"{share:.1%}",
                    "share of the kept tokens": f"{int(one.tokens[kept].sum()) / tokens:.1%}",
                }
            )
            series.setdefault(name, []).append({"x": one.name, "y": 100 * share, "low": None, "high": None})
    figure = Figure("points", "Make-up of selections by source", "selection", "% of the kept rows", series)
    return Table("Selections: make-up by source", list(rows[0]), rows, figures=(figure,))


def _pairs(choices: Sequence[Choice]) -> Iterator[dict[str, Any]]:
    """Yield each two selections of one seed, and each selection with itself at another seed."""
    for one, other in combinations(choices, 2):
        again = one.selector == other.selector
        if not again and one.seed != other.seed and one.name != one.selector and other.name != other.selector:
            continue  # two selectors are compared at one seed
        _, first, second = np.intersect1d(one.rows, other.rows, assume_unique=True, return_indices=True)
        if not len(first):
            continue
        a, b = one.kept[first], other.kept[second]
        yield {
            "selection": one.name,
            "and": other.name,
            "rows both looked at": len(first),
            "kept by both": int((a & b).sum()),
            "overlap": _shown((a & b).sum() / max(1, (a | b).sum())),
            "by chance": _shown(_chance(float(a.mean()), float(b.mean()))),
            "rank correlation": _shown(spearman(one.scores[first], other.scores[second])),
        }


def _chance(a: float, b: float) -> float:
    """Return the overlap of two random choices that keep shares a and b: ab / (a + b - ab)."""
    return a * b / (a + b - a * b) if a + b else 0.0


def _alike(pairs: list[dict[str, Any]]) -> Table:
    notes = ("`overlap` is kept by both over kept by either; `by chance` is what random choices of these sizes share.",)
    return Table("Selections: how alike they are", list(pairs[0]), pairs, notes)


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Return the rank correlation of two columns over entries that both are numbers; None where one does not vary."""
    known = np.isfinite(a) & np.isfinite(b)
    ranks = [_ranks(column[known]) for column in (a, b)]
    if any(len(one) < 2 or one.std() == 0 for one in ranks):
        return None
    first, second = ranks
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return ranks from 0; equal values have their mean rank."""
    _, of, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = (np.cumsum(counts) - (counts + 1) / 2)[of]
    return found


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
