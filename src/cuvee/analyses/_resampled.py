"""What every analysis that resamples can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cuvee.analyses._chance import RESAMPLES
from cuvee.protocols import Params


class Resampled(Params):
    """Args:
    resamples: of the bootstrap; permutations that cannot be enumerated are drawn as often, 10,000 times at least.
    seed: of both.
    """

    resamples: Annotated[int, Field(ge=2000)] = RESAMPLES
    seed: Annotated[int, Field(ge=0)] = 0
