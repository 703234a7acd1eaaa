"""How much more the training loss has fallen than the held-out loss, along a run: what is learnt of the rows alone.

    ratio(s) = [train(first) - train(s)] / [heldout(base) - heldout(s)]

Fu et al., arXiv 2405.13432, pilot study, call a ratio that grows data bias. Over which steps they take the two falls
could not be read; here train(s) is the mean loss a supervised token of the `WINDOW`-th part of the run's steps that
ends at s, train(first) that of the first such part, and heldout the mean over the abilities that were measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from cuvee.protocols import RunInfo, Table

WINDOW = 20
SMALLEST = 1e-3
"""Fall of the held-out loss (nats) below which a ratio to it says nothing."""

TITLE = "Training loss and held-out loss"
_SAID = (
    "Falls are in nats a supervised token: of the training's own steps, the mean of a twentieth of them against the "
    "first twentieth, and of the held-out rows against the base, the mean over abilities; means over seeds. In the "
    "first epoch a step's rows are as new to the model as held-out ones, so the ratio tells of what is learnt by heart "
    "only from the second epoch on.",
    f"There is no ratio to a held-out loss that fell by less than {SMALLEST} nats.",
)

Falls = Mapping[float, Mapping[int, Sequence[float]]]
"""By the share of the steps that is done and by seed: the fall of the held-out loss on each ability."""


def table(runs: Iterable[RunInfo], falls: Mapping[str, Falls], where: str) -> list[Table]:
    """Return the table; none where no run of one training has its losses and a measured held-out loss."""
    infos = {(info.name, info.seed): info for info in runs}
    rows = []
    for name, by_place in falls.items():
        for done, by_seed in by_place.items():
            known = [
                (trained, fmean(values))
                for seed, values in by_seed.items()
                if (trained := fallen(infos[name, seed], done)) is not None and values
            ]
            if known:
                rows.append(_row(name, done, *(fmean(column) for column in zip(*known, strict=True))))
    return [Table(TITLE + where, list(rows[0]), rows, _SAID)] if rows else []


def fallen(run: RunInfo, done: float) -> float | None:
    """Return the fall of a run's training loss after a share of its steps; None unless it is one training."""
    if len(run.trainings) != 1 or not run.trainings[0].losses:
        return None
    losses = run.trainings[0].losses
    window = max(1, len(losses) // WINDOW)
    end = max(window, round(done * len(losses)))
    return _mean(losses[:window]) - _mean(losses[end - window : end])


def _mean(steps: Sequence[tuple[float, int]]) -> float:
    return sum(nll for nll, _ in steps) / max(1, sum(tokens for _, tokens in steps))


def _row(run: str, done: float, trained: float, heldout: float) -> dict[str, Any]:
    return {
        "run": run,
        "done": f"{done:.3g}",
        "training loss fell by": f"{trained:.3f}",
        "held-out loss fell by": f"{heldout:.3f}",
        "ratio": f"{trained / heldout:.2f}" if heldout >= SMALLEST else None,
    }
