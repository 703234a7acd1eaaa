"""Option order: whether a model finds a benchmark's options likeliest in the order in which they were published.

"Training on the Benchmark Is Not All You Need", arXiv 2409.01790. The options of an item can be told in any order.
The block ``A:...`` newline ``B:...`` is scored after the question in every order j, S_j = log p(block j | question). A
model that has not seen the item has no reason to prefer order 0, the published one.

    scenario a    leaked: S_0 is the largest. Without knowledge the rank of S_0 is uniform, so that a share of 1/m of m
                  orders is first by chance. Ties are broken by a hash of the texts, never in favour of leakage.
    scenario b    any order may have leaked: how far the largest score stands out from the others, in their standard
                  deviations (`outlier`). Published with fixed thresholds of an isolation forest, which flag 28 to 63 %
                  of items that nobody has seen; the number here is compared with that of a control model only.

The score of an item is 1 where the published order is first: scenario a. `cuvee.analyses.leakage` has the exact p value
and scenario b. Items with more orders than `orders` (four options have 24, five 120) get the published one and others
drawn with replacement; the rank stays uniform under the null.

    evaluation: [{option_order: {path: mmlu_test.jsonl, ability: knowledge, stages: all}}]

What differs from the released code: any number of options (it lays out four), no stray space before D, and the first
token of the block counts. Habits of a benchmark's order (sorted numbers, "all of the above" last) break the null for
every model; a control, such as the base model, tells how far.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from cuvee import protocols, seeds
from cuvee.evaluators import _choices
from cuvee.protocols import Choices, Grade, ScoredChoice
from cuvee.recipe import Columns, Declared
from cuvee.values import Example

VERSION = 1
REQUEST_VERSION = 1
ANSWERS: Literal["choose"] = "choose"
METRIC = "published order first"
HIGHER_IS_BETTER = False
ABILITY = "leakage"
GROUPED = False
SOURCE = _choices.SOURCE


class Params(protocols.EvaluatorParams):
    """Args:
    path: the benchmark's file, or ``hf://datasets/OWNER/NAME``.
    columns, subset, split, declared: as in other evaluators of files.
    orders: orders of an item at most, the published one included.
    seed: of the orders that are drawn.
    """

    path: str
    columns: dict[str, Columns] = Field(default_factory=dict)
    subset: str | None = None
    split: str | None = None
    declared: Declared | None = None
    orders: Annotated[int, Field(ge=2, le=120)] = 24
    seed: int = 0

    @property
    def chat(self) -> bool:
        """Never: the file's text is what may have leaked."""
        return False

    @property
    def shots_path(self) -> None:
        """There are no shots."""
        return None


def request_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the scores of the orders."""
    return {"orders": params.orders, "seed": params.seed, "shots": 0, "too_long": "cut"}


def grade_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the grading: nothing."""
    return {}


def ask(example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices:
    """Return the question with its options as one block in every order, the published one first."""
    options = _choices.choices(example)
    blocks = tuple(_block([options[at] for at in order]) for order in orders(example, params["orders"], params["seed"]))
    context = f"{_choices.question(example)}:\n"
    return Choices(example.id, (context,), blocks, blocks, (0,), group=_choices.group(example), delimiter="")


def orders(example: Example, most: int, seed: int) -> list[tuple[int, ...]]:
    """Return orders of an item's options: all where they are at most `most`, else the published one and drawn ones."""
    number = len(_choices.choices(example))
    if math.factorial(number) <= most:
        return list(itertools.permutations(range(number)))
    draw = random.Random(seeds.rank(seed, "option order", example.key))  # noqa: S311 - statistics, no secret
    return [tuple(range(number)), *(tuple(draw.sample(range(number), number)) for _ in range(most - 1))]


def _block(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}:{text}" for letter, text in zip(_choices.LETTERS, options, strict=False))


def grade(scored: Sequence[ScoredChoice], params: Mapping[str, Any]) -> Grade:
    """Return 1 where the published order is first, with its rank (0 is first) among `orders`, and the outlier."""
    values = [one.logprob for one in scored]
    cut = {"context_cut": int(any(one.cut for one in scored))}
    if any(math.isnan(value) for value in values):
        return Grade(math.nan, extra={"orders": len(values), "rank": -1, "outlier": math.nan, **cut})
    larger = sum(value > values[0] for value in values[1:])
    equal = sum(value == values[0] for value in values[1:])
    rank = larger + seeds.rank(0, "option order tie", scored[0].text.encode("utf-8", "replace")) % (equal + 1)
    columns = {"orders": len(values), "rank": rank, "outlier": outlier(values)}
    return Grade(float(rank == 0), extra={**columns, **cut})


def outlier(values: Sequence[float]) -> float:
    """Return how far the largest stands out from the others, in their standard deviations; 0 where all are equal."""
    *others, top = sorted(values)
    spread = statistics.pstdev(others)
    return (top - statistics.fmean(others)) / spread if spread > 0 else 0.0
