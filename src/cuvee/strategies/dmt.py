"""Dual-stage Mixed Fine-tuning: special sources first, then general with a share k of each special one.

Dong et al., arXiv 2310.05492, section 3.5, strategy 4:

    theta_1 = SFT(theta_0, M + C)
    theta_2 = SFT(theta_1, G + S(M, k) + S(C, k))

k = 0 is mixed sequential training, stage for stage. All k share the stage-1 model.

    runs: [{strategy: dmt, general: general, k: [1/256, 1/64, 1/16, 1/4, 1]}]
"""

from __future__ import annotations

from collections.abc import Mapping
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
    k: share of each special source that is replayed in the second stage.
    """

    general: str
    k: Annotated[Share, Field(ge=0)]


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Trained:
    """Return the model after both stages."""
    general = pick(sources, params.general, "general")
    special = rest(sources, params.general, "general")
    special_model = train_on(start, special, hyper.stage(0, 2))
    replay = [source.share(params.k) for source in special] if params.k else []
    return train_on(special_model, [general, *replay], hyper.stage(1, 2))
