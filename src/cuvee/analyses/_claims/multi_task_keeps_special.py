"""Multi-task training keeps special abilities better than mixed sequential training, and costs general ability."""

from __future__ import annotations

from cuvee.analyses._amounts import setting
from cuvee.analyses._claims._evidence import Evidence, Outcome
from cuvee.analyses._paired import Tested
from cuvee.analyses._results import Measure

FINDING = "Multi-task training keeps special abilities, and costs general ability, against mixed sequential training."
SOURCE = "Dong et al., arXiv 2310.05492, section 3.5, table 1"
NEEDS = "{strategy: multi_task} and {strategy: mixed_sequential, ...} with the same training settings"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a pair of runs: better on every special ability, worse on general ability."""
    found: list[Outcome] = []

    def question(measure: Measure, test: Tested) -> str:
        return evidence.falls(test) if measure == evidence.common else evidence.rises(test)

    for multi in evidence.runs("multi_task"):
        if multi.params.get("share", 1) != 1 or multi.params.get("count") is not None:
            continue
        for mixed in evidence.runs("mixed_sequential"):
            if setting(multi) == setting(mixed):
                found += evidence.everywhere(f"{multi.name} minus {mixed.name}", multi, mixed, question)
    return found
