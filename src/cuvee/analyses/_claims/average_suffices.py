"""The plain mean of models suffices: every other merger against it, on the same portions."""

from __future__ import annotations

from collections.abc import Mapping

from cuvee.analyses._amounts import setting
from cuvee.analyses._claims._evidence import Evidence, Outcome
from cuvee.protocols import RunInfo

FINDING = "The plain mean of models trained on portions suffices: elaborate mergers bring nothing more."
SOURCE = "Fu et al. (Disperse-Then-Merge), arXiv 2405.13432"
NEEDS = "{strategy: disperse_then_merge, portions: 4, merger: [linear, ties]}"


def outcomes(evidence: Evidence) -> list[Outcome]:
    """Return one outcome a merger other than the mean: no ability may gain by it what matters."""
    runs = evidence.runs("disperse_then_merge")
    found: list[Outcome] = []
    for mean in (run for run in runs if merger(run) == "linear"):
        for other in runs:
            alike = setting(other) == setting(mean) and other.params.get("portions") == mean.params.get("portions")
            if merger(other) == "linear" or not alike:
                continue
            about = f"{other.name} minus {mean.name}"
            found += evidence.everywhere(about, other, mean, lambda _, test: evidence.stays(test))
    return found


def merger(run: RunInfo) -> str:
    """Return the name of a run's merger, which comes as a name, or as ``{name, params}``."""
    asked = run.params.get("merger")
    return str(asked["name"] if isinstance(asked, Mapping) else asked)
