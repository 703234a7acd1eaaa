"""The first batch of a training, both ways: rows one after another and one a pass must have the same loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from cuvee.engine import loading
from cuvee.engine.disk import write_text
from cuvee.engine.passes import Passes
from cuvee.engine.trainee import Trainee
from cuvee.protocols import TokenRow

FILE = "checks.json"


def flat_against_single(trainee: Trainee, passes: Passes, examples: Sequence[TokenRow]) -> float:
    """Return the relative difference between the two layouts' loss on the first micro batch; leaves layout flat."""
    trainee.model.eval()
    micro = passes.micro(examples, range(len(examples)))[0]
    sums = {}
    with torch.no_grad():
        for layout in ("single", "flat"):
            trainee.loaded.use(layout)
            passes.layout = layout
            losses = (
                trainee.token_losses(trainee.model, flat, segments=passes.flat)
                for flat, _ in passes.of(examples, micro)
            )
            sums[layout] = sum(float(nll.sum()) for nll in losses)
    return loading.distance(sums["flat"], sums["single"])


def keep(work: Path, far: float) -> None:
    """Note what was measured."""
    write_text(work / FILE, json.dumps({"packed_against_unpacked": far}))


def kept(work: Path) -> float | None:
    """Return how far packed and unpacked loss of the first batch lay apart; None where nothing is packed or known."""
    path = work / FILE
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["packed_against_unpacked"])
    except (OSError, ValueError, KeyError, TypeError):  # absent, or damaged by hand: the training needs it no more
        return None
