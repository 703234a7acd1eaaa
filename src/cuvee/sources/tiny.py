"""Synthetic conversations of three abilities, for laptops and tests: no download, no paper.

Rows come from `sources/_tiny_world.py`: short word problems, one-line programs and instructions that a model of
one million parameters can learn, with answers that can be checked.

    math: {name: math, ability: math}     # "Anna has 3 pens ..." -> "... #### 5"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from cuvee.protocols import Estimate
from cuvee.protocols import Params as Base
from cuvee.sources import _tiny_world as world
from cuvee.values import BadRow, Example, Message

VERSION = 1
SAMPLE = 200


class Params(Base):
    """Which ability.

    Args:
        name: ``math``, ``code`` or ``general``.
    """

    name: Literal["math", "code", "general"]


def pin(params: Params, folder: Path, cache: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (identity: ability, rows and seed of the tiny world; place: none)."""
    return {"name": params.name, "rows": world.ROWS, "seed": world.SEED}, {}


def examples(params: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Example | BadRow]:
    """Yield the ability's conversations in order; the line is the row's number."""
    for number, (user, assistant) in enumerate(world.conversations(params["name"]), start=1):
        yield Example((Message("user", user), Message("assistant", assistant)), (), f"(tiny {params['name']})", number)


def estimate(params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
    """Return the known number of rows with a sample of the first ones; their kinds are mixed from the start."""
    found = islice(examples(params, where), SAMPLE)
    return Estimate(world.ROWS, True, tuple(row for row in found if isinstance(row, Example)))
