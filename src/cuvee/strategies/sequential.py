"""Sequential: one training a source, in a given order.

Dong et al., arXiv 2310.05492, section 3.5, strategy 2: code, then math, then general. Sources that share a
stage are written as a list: ``order: [[code, math], general]``.

    runs: [{strategy: sequential, order: [code, math, general]}]
"""

from __future__ import annotations

from collections.abc import Mapping

from cuvee import protocols
from cuvee.errors import RecipeError
from cuvee.protocols import Hyper, Ingredient
from cuvee.stage import Model, Trained
from cuvee.strategies._steps import pick, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    order: every source once, in the order of training.
    """

    order: tuple[str | tuple[str, ...], ...]


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Trained:
    """Return the model after one training for each entry of `order`."""
    stages = [(step,) if isinstance(step, str) else step for step in params.order]
    named = [name for stage in stages for name in stage]
    if sorted(named) != sorted(sources):
        for name in named:
            pick(sources, name, "order")
        raise RecipeError(
            f"must name every source once; got {', '.join(named) or 'nothing'}, the recipe has {', '.join(sources)}",
            key="order",
        )
    model: Model = start
    for number, stage in enumerate(stages):
        model = train_on(model, [sources[name] for name in stage], hyper.stage(number, len(stages)))
    assert isinstance(model, Trained)
    return model
