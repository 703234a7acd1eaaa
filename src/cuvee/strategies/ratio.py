"""Ratio: special sources and the general source in one training, each side at a share of its own.

Dong et al., arXiv 2310.05492, section 3.4 (RQ3): one side is held fixed while the other grows.

    runs:
      - {strategy: ratio, general: general, special_share: [1, 1/4, 1/16]}                      # general fixed
      - {strategy: ratio, general: general, general_share: [1, 1/4, 1/16]}                      # special fixed
      - {strategy: ratio, general: general, general_share: 1/64, special_share: [1, 1/4, 1/16]}
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
from cuvee.strategies._steps import pick, rest, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    general: name of the general source; all others are special.
    special_share: of each special source.
    general_share: of the general source.
    """

    general: str
    special_share: Annotated[Share, Field(gt=0)] = Fraction(1)
    general_share: Annotated[Share, Field(gt=0)] = Fraction(1)


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Trained:
    """Return the model trained once on the union of both sides."""
    general = pick(sources, params.general, "general").share(params.general_share)
    special = [source.share(params.special_share) for source in rest(sources, params.general, "general")]
    return train_on(start, [*special, general], hyper)
