"""Special abilities keep improving with their data: the largest amount against the one before it."""

from __future__ import annotations

from cuvee.analyses._claims._evidence import Evidence, Outcome

FINDING = "A special ability (the papers' mathematics) keeps improving with more of its data."
SOURCE = "Dong et al., arXiv 2310.05492, section 3.2, figure 2"
NEEDS = "{strategy: single, source: [...], share: [1, 1/4]} of a special source"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a special ability."""
    found = []
    for each in evidence.scaled:
        if each.measure in evidence.special:
            test = evidence.test(each.measure, each.samples[-1], each.samples[-2])
            if test is not None:
                rows = each.curve.rows
                about = f"{each.measure.ability}, {rows[-2]:,.0f} to {rows[-1]:,.0f} rows"
                found.append(evidence.outcome(about, evidence.rises(test), test))
    return found
