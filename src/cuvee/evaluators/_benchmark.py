"""What evaluators of a benchmark file share: where the file is, and how answers are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from cuvee import protocols
from cuvee.errors import DataError
from cuvee.protocols import Grade
from cuvee.recipe import Columns, Declared
from cuvee.values import Example


class Params(protocols.EvaluatorParams):
    """Args:
    path: the benchmark's file, or ``hf://datasets/OWNER/NAME``; nothing is fetched unless it is named.
    columns: the format's field to the file's columns, where they are called otherwise.
    subset, split: of a hub data set.
    declared: size of the file when it is not at hand, to plan with.
    max_new_tokens: longest reply.
    samples: replies an item; more than one need a temperature.
    temperature, top_p: how replies are drawn; 0 takes the likeliest token.
    seed: of the draws; with item, sample and position it decides each of them.
    """

    path: str
    columns: dict[str, Columns] = Field(default_factory=dict)
    subset: str | None = None
    split: str | None = None
    declared: Declared | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    samples: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0

    @model_validator(mode="after")
    def _draws_differ(self) -> Params:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples: {self.samples} without a temperature are all the same; add temperature: 0.7")
        for name in ("top_p", "seed"):
            if name in self.model_fields_set and self.temperature == 0:
                raise ValueError(f"{name} is for replies that are drawn; add temperature: 0.7, or leave {name} out")
        return self


def decoding(params: Params) -> dict[str, Any]:
    """Return what decides the replies; what is drawn only matters where something is."""
    found: dict[str, Any] = {"max_new_tokens": params.max_new_tokens}
    if params.temperature:
        found |= {name: getattr(params, name) for name in ("samples", "temperature", "top_p", "seed")}
    return found


def over_samples(grades: Sequence[tuple[float, Mapping[str, Any]]]) -> Grade:
    """Return the mean over an item's replies; columns that count are summed over them, `replies` says how many.

    Items, not replies, are what tests and intervals count: replies to one question hang together.
    """
    scores = [score for score, _ in grades]
    extra = {name: sum(int(columns[name]) for _, columns in grades) for name in grades[0][1]}
    return Grade(sum(scores) / len(scores), extra={**extra, "replies": len(grades)})


def not_this(example: Example, why: str, benchmark: str) -> DataError:
    """Return the error of a row that is no item of the benchmark."""
    return DataError(f"{why}; is this {benchmark}?", path=example.path, line=example.line)
