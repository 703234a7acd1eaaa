"""Interpolation: the models on the straight line between two, to see what lies between them.

    theta(t) = (1 - t) theta_a + t theta_b

Frankle et al., Linear mode connectivity and the lottery ticket hypothesis, ICML 2020, arXiv 1912.05671, section 2: two
trainings from one model whose straight line has no higher loss than its ends can be averaged. With ``between: base`` it
is the line of Wortsman et al., WiSE-FT, arXiv 2109.01903. The analysis `interpolation` draws the curve.

    runs: [{strategy: interpolation, between: portions, t: [0, 1/4, 1/2, 3/4, 1]}]      # two trainings, five models
    runs: [{strategy: interpolation, between: [math, code], t: [0, 1/2, 1]}]            # one training a source
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from cuvee import protocols, seeds
from cuvee.protocols import Hyper, Ingredient
from cuvee.recipe import Share
from cuvee.stage import Merged, Model, Trained
from cuvee.strategies._steps import merge_all, pick, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    between: the ``base`` and the model trained on everything; models of two random ``portions`` of the data, of the
        same data in two ``orders``, or of two sources.
    t: how far from the first to the second.
    """

    between: Literal["base", "portions", "orders"] | tuple[str, str] = "base"
    t: Annotated[Share, Field(ge=0, le=1)] = Fraction(1, 2)


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Merged:
    """Return the model at `t`.

    Raises:
        RecipeError: there is no source of a name in `between`.
    """
    t = float(params.t)
    if params.between == "base":
        trained = train_on(start, sources.values(), hyper)
        return merge_all([trained], start, hyper, {"name": "wise_ft", "params": {"alpha": t}})
    ends = _ends(sources, start, hyper, params.between)
    return merge_all(ends, start, hyper, {"name": "linear", "params": {"weights": [1 - t, t]}})


def _ends(
    sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, between: str | tuple[str, str]
) -> list[Trained]:
    if between == "portions":
        cuts = [partial(Ingredient.portion, number=number, of=2, sizes="equal") for number in (0, 1)]
        return [
            train_on(start, map(cut, sources.values()), hyper, label=f"portion {number}/2", replayed=cut)
            for number, cut in enumerate(cuts, 1)
        ]
    if between == "orders":
        seed = hyper.training()["seed"]
        drawn = [seed, seeds.stream(seed, "order 1")]  # as `data_orders` draws them
        own = [{"seed": one} for one in drawn]
        return [train_on(start, sources.values(), hyper, label=f"order {i}/2", own=e) for i, e in enumerate(own, 1)]
    return [train_on(start, [pick(sources, name, "between")], hyper) for name in between]
