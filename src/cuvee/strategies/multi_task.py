"""Multi-task: all sources mixed, one training.

Dong et al., arXiv 2310.05492, section 3.5, strategy 1: ``theta = SFT(theta_0, M + C + G)``.

    runs: [{strategy: multi_task}]
"""

from __future__ import annotations

from collections.abc import Mapping

from cuvee import protocols
from cuvee.protocols import Hyper, Ingredient
from cuvee.stage import Model, Trained
from cuvee.strategies._steps import train_on

VERSION = 1


class Params(protocols.Params):
    """No parameters."""


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Trained:
    """Return the model trained once on the union of all sources."""
    return train_on(start, sources.values(), hyper)
