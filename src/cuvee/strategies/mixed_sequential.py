"""Mixed sequential: the special sources mixed first, then the general source.

Dong et al., arXiv 2310.05492, section 3.5, strategy 3.

    runs: [{strategy: mixed_sequential, general: general}]
"""

from __future__ import annotations

from collections.abc import Mapping

from cuvee import protocols
from cuvee.protocols import Hyper, Ingredient
from cuvee.stage import Model, Trained
from cuvee.strategies._steps import pick, rest, train_on

VERSION = 1


class Params(protocols.Params):
    """Args:
    general: name of the source that is trained last; all others are special.
    """

    general: str


def plan(sources: Mapping[str, Ingredient], start: Model, hyper: Hyper, params: Params) -> Trained:
    """Return the model trained on the special sources, then on the general one."""
    general = pick(sources, params.general, "general")
    special_model = train_on(start, rest(sources, params.general, "general"), hyper.stage(0, 2))
    return train_on(special_model, [general], hyper.stage(1, 2))
