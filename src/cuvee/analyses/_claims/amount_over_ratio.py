"""The amount of an ability's data matters more than its ratio to the rest."""

from __future__ import annotations

from cuvee.analyses._claims._evidence import CONTRADICTED, SUPPORTED, UNDECIDED, Evidence, Outcome

FINDING = "The amount of an ability's own data matters more than the ratio between the sources."
SOURCE = "Dong et al., arXiv 2310.05492, section 3.4, table 4"
NEEDS = "{strategy: ratio, ...} with three or more values of special_share, and of general_share"

MORE = "more items, amounts further apart, or seeds"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome an ability: mean change per doubling of its own data against that of the rest."""
    words = {"amount": SUPPORTED, "ratio": CONTRADICTED}
    found = []
    for each in evidence.contrasts:
        to, verdict = each.measure.scale, words.get(each.reading, UNDECIDED)
        interval = f"{to.signed(each.low)}..{to.signed(each.high)}"
        effect = f"{to.signed(each.difference)} {to.unit} a doubling, amount minus ratio"
        needed = MORE if verdict == UNDECIDED else ""
        found.append(Outcome(each.measure.ability, verdict, effect, interval, None, needed))
    return found
