"""Sequential training forgets: a special ability after its own stage against the end of the run."""

from __future__ import annotations

from cuvee.analyses._claims._evidence import Evidence, Outcome
from cuvee.protocols import RunInfo

FINDING = "Sequential training forgets the special abilities that earlier stages taught."
SOURCE = "Dong et al., arXiv 2310.05492, section 3.5, table 1"
NEEDS = "{strategy: sequential, ...} measured by an evaluator with stages: all"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a run and special ability that was taught before the last stage."""
    found = []
    for run in evidence.runs("sequential"):
        for measure in evidence.special:
            stage = _taught(run, measure.ability)
            if not stage:
                continue
            test = evidence.stages(run, stage, measure)
            if test is not None:
                about = f"{measure.ability} since stage {stage} of {run.name}"
                found.append(evidence.outcome(about, evidence.falls(test), test))
    return found


def _taught(run: RunInfo, ability: str) -> int:
    """Return the last stage before the final one that taught an ability; 0 where there is none."""
    taught = [
        number
        for number, training in enumerate(run.trainings[:-1], 1)
        if any(portion.ability == ability and portion.rows for portion in training.portions)
    ]
    return max(taught, default=0)
