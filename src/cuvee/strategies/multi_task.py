"""Multi-task: all sources mixed, one training; of each the same share, or the same number of rows.

Dong et al., arXiv 2310.05492, section 3.5, strategy 1: ``theta = SFT(theta_0, M + C + G)``; with shares section 3.3
(RQ2), with counts the equal amounts of appendix H (version 4).

    runs: [{strategy: multi_task}, {strategy: multi_task, share: [1/4, 1/16]}, {strategy: multi_task, count: [500]}]
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from cuvee import protocols
from cuvee.errors import RecipeError
from cuvee.protocols import Hyper, Ingredient
from cuvee.recipe import Number, Share
from cuvee.stage import Model, Trained
from cuvee.strategies._steps import train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    share: of every source.
    count: so many rows of every source, instead of a share.
    """

    share: Annotated[Share, Field(gt=0)] = Fraction(1)
    count: Annotated[Number, Field(gt=0)] | None = None


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Trained:
    """Return the model trained once on the union of all sources.

    Raises:
        RecipeError: both a share and a count are given.
    """
    if params.count is None:
        return train_on(start, [source.share(params.share) for source in sources.values()], hyper)
    if params.share != 1:
        raise RecipeError("give a share or a count, not both", key="count")
    return train_on(start, [source.count(params.count) for source in sources.values()], hyper)
