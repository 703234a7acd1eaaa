"""A little replay beats none: DMT with its smallest k (1/16 at most) against mixed sequential training."""

from __future__ import annotations

from fractions import Fraction

from cuvee.analyses._amounts import setting
from cuvee.analyses._claims._evidence import Evidence, Outcome

FINDING = "DMT with a small k (the papers' 1/256) beats mixed sequential training on special and general ability both."
SOURCE = "Dong et al., arXiv 2310.05492, section 4.3, tables 1 and 5"
SMALL = Fraction(1, 16)
"""The largest k that counts as small."""

NEEDS = "{strategy: dmt, k: 1/256, ...} and {strategy: mixed_sequential, ...} with the same settings; k is at most 1/16"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a mixed sequential run: every ability has to rise."""
    found: list[Outcome] = []
    for mixed in evidence.runs("mixed_sequential"):
        sweep = [
            (Fraction(str(run.params.get("k", 0))), run)
            for run in evidence.runs("dmt")
            if setting(run) == setting(mixed)
        ]
        small = [(k, run) for k, run in sweep if 0 < k <= SMALL]
        if not small:
            continue
        k, dmt = min(small, key=lambda pair: pair[0])
        about = f"k = {k} minus {mixed.name}"
        found += evidence.everywhere(about, dmt, mixed, lambda _, test: evidence.rises(test))
    return found
