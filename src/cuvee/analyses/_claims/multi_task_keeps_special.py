"""Multi-task training keeps special abilities better than mixed sequential training, and costs general ability."""

from __future__ import annotations

from cuvee.analyses._amounts import setting
from cuvee.analyses._claims._evidence import Evidence, Outcome

FINDING = "Multi-task training keeps special abilities, and costs general ability, against mixed sequential training."
SOURCE = "Dong et al., arXiv 2310.05492, section 3.5, table 1"
NEEDS = "{strategy: multi_task} and {strategy: mixed_sequential, ...} with the same training settings"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a pair of runs: better on every special ability, worse on general ability."""
    found = []
    for multi in evidence.runs("multi_task"):
        if multi.params.get("share", 1) != 1 or multi.params.get("count") is not None or evidence.common is None:
            continue
        for mixed in evidence.runs("mixed_sequential"):
            if setting(multi) != setting(mixed):
                continue
            tests = {
                m: evidence.test(m, evidence.sample(multi, m), evidence.sample(mixed, m))
                for m in (*evidence.special, evidence.common)
            }
            parts = [
                (m.ability, evidence.falls(t) if m == evidence.common else evidence.rises(t), t)
                for m, t in tests.items()
                if t is not None
            ]
            if parts:
                found.append(evidence.together(f"{multi.name} minus {mixed.name}", parts))
    return found
