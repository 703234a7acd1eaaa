"""Single source: one training on one source alone, at a share of it.

Dong et al., arXiv 2310.05492, section 3.2 (RQ1): each source alone at 1, 1/4, 1/16, 1/64 and 1/256.

    runs: [{strategy: single, source: [math, code], share: [1, 1/4, 1/16]}]      # six runs
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from cuvee import protocols
from cuvee.protocols import Hyper, Ingredient
from cuvee.recipe import Share
from cuvee.stage import Model, Trained
from cuvee.strategies._steps import pick, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    source: its name.
    share: how much of it; smaller shares are subsets of larger ones.
    """

    source: str
    share: Annotated[Share, Field(gt=0)] = Fraction(1)


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Trained:
    """Return the model trained on the one source."""
    return train_on(start, [pick(sources, params.source, "source").share(params.share)], hyper)
