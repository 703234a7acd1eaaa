"""General ability plateaus near a thousand rows: the amount nearest to that against the largest."""

from __future__ import annotations

import math

from cuvee.analyses._claims._evidence import Evidence, Outcome

FINDING = "General ability plateaus near a thousand rows: more of its data buys little."
SOURCE = "Dong et al., arXiv 2310.05492, section 3.2, figure 2 (and LIMA, arXiv 2305.11206)"
NEEDS = "{strategy: single, source: general, share: [...]} with an amount between 500 and 2,000 rows and a larger one"

NEAR = 1000
FACTOR = 2


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a curve of general ability that has an amount near a thousand rows and a larger one."""
    found = []
    for each in evidence.scaled:
        rows = each.curve.rows
        place = min(range(len(rows)), key=lambda i: abs(math.log(rows[i] / NEAR)))
        near = NEAR / FACTOR <= rows[place] <= NEAR * FACTOR
        if each.measure == evidence.common and near and place < len(rows) - 1:
            test = evidence.test(each.measure, each.samples[-1], each.samples[place])
            if test is not None:
                about = f"{each.measure.ability}, {rows[place]:,.0f} to {rows[-1]:,.0f} rows"
                found.append(evidence.outcome(about, evidence.stays(test), test))
    return found
