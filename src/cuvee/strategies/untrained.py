"""No training: the base model as it is, to be judged beside trained ones or by itself.

No paper: the baseline of every comparison. `cuvee evaluate` is a recipe with this one run.

    runs: [{strategy: untrained}, {strategy: multi_task}]
"""

from __future__ import annotations

from collections.abc import Mapping

from cuvee import protocols
from cuvee.protocols import Hyper, Ingredient
from cuvee.stage import Model

VERSION = 1


class Params(protocols.Params):
    """None."""


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Model:
    """Return the base model."""
    return start
