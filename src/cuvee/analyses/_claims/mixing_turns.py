"""Mixing helps when data is scarce and hurts when it is plentiful: mixed against alone at both ends."""

from __future__ import annotations

from cuvee.analyses._claims._evidence import Evidence, Outcome

FINDING = "Mixing sources helps an ability when its data is scarce and hurts it when it is plentiful."
SOURCE = "Dong et al., arXiv 2310.05492, section 3.3, figure 3"
NEEDS = "{strategy: single, ...} and {strategy: multi_task, ...} at the same shares, two or more"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome an ability: both ends have to hold."""
    found = []
    for each in evidence.conflicts:
        if len(each.tests) < 2:
            continue
        (first_old, first_new), (last_old, last_new) = each.samples[0], each.samples[-1]
        low = evidence.test(each.measure, first_new, first_old)
        high = evidence.test(each.measure, last_new, last_old)
        if low is None or high is None:
            continue
        ends = (f"at {each.rows[0]:,.0f} rows", f"at {each.rows[-1]:,.0f} rows")
        parts = [(ends[0], evidence.rises(low), low), (ends[1], evidence.falls(high), high)]
        found.append(evidence.together(each.measure.ability, parts))
    return found
