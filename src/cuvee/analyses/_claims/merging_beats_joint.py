"""Models of portions, merged, beat one model trained on everything."""

from __future__ import annotations

from cuvee.analyses._amounts import setting
from cuvee.analyses._claims._evidence import Evidence, Outcome
from cuvee.analyses._claims.average_suffices import merger

FINDING = "Models trained on portions and averaged beat one model trained on everything at once."
SOURCE = "Fu et al. (Disperse-Then-Merge), arXiv 2405.13432"
NEEDS = "{strategy: disperse_then_merge, portions: 4, merger: linear} and {strategy: multi_task}"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a number of portions: every ability has to rise."""
    found: list[Outcome] = []
    for joint in evidence.runs("multi_task"):
        if joint.params.get("share", 1) != 1 or joint.params.get("count") is not None:
            continue
        for merged in evidence.runs("disperse_then_merge"):
            if merger(merged) != "linear" or setting(merged) != setting(joint):
                continue
            about = f"{merged.name} minus {joint.name}"
            found += evidence.everywhere(about, merged, joint, lambda _, test: evidence.rises(test))
    return found
