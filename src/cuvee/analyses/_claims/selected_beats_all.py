"""A few rows chosen by learnability beat all of them: each such selection of at most a tenth against all rows."""

from __future__ import annotations

import re

from cuvee.analyses._claims._evidence import Evidence, Outcome
from cuvee.protocols import NOTHING_SELECTED, RunInfo

FINDING = "About 6 % of the rows, chosen by learnability, teach more than all of them."
SOURCE = "Zhou et al. (LoBaSS), arXiv 2310.13008, abstract"
NEEDS = "{strategy: multi_task} and {strategy: multi_task, select: {by: lobass, share: 0.06}}"

MOST = 0.1
"""Share of the rows up to which a selection counts as few."""


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a selection by learnability: every ability has to rise."""
    runs = evidence.runs("multi_task")
    found: list[Outcome] = []
    for whole in (run for run in runs if run.selection == NOTHING_SELECTED):
        for chosen in (run for run in runs if _learnable(run)):
            alike = dict(chosen.params) == dict(whole.params) and dict(chosen.training) == dict(whole.training)
            rows = _rows(whole)
            if not alike or dict(chosen.sources) != dict(whole.sources) or not 0 < _rows(chosen) <= MOST * rows:
                continue
            about = f"{chosen.name} minus {whole.name}"
            found += evidence.everywhere(about, chosen, whole, lambda _, test: evidence.rises(test))
    return found


def _learnable(run: RunInfo) -> bool:
    """Return whether LoBaSS, and it alone, chooses the rows, and those of the highest learnability."""
    found = run.selection.split("; ")
    return all(re.match(r"lobass\b", one) and not re.search(r" lowest |\d-\d", one) for one in found)


def _rows(run: RunInfo) -> int:
    return sum(portion.rows for training in run.trainings for portion in training.portions)
