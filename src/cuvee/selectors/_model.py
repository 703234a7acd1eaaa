"""Whose losses or hidden states a selector looks at: the run's base, another model, or one of the recipe's graph.

model: builtin:smollm2                     a base model of its own, with the pool as its tokenizer renders it
model: train-3f9a1c20                      a model that the store holds, by its stage
model: {run: all rows}                     what an earlier run of the recipe ends with
model: {run: two steps, step: 1}           what its first training ends with
model: {trained: {epochs: 1}, share: 1/10} the base after a training on a tenth of the pool
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from cuvee import protocols
from cuvee.protocols import Pool
from cuvee.recipe import Share
from cuvee.stage import Model


class Other(protocols.Params):
    """Args:
    path: a base model: a folder, a hub id, builtin:NAME, or a stage of the store that holds a model.
    run: name of an earlier run of the recipe; of it the model is taken with the same base and seed.
    step: which of that run's models, from 1; the last when absent.
    trained: settings of a training on the pool where they differ from the run's.
    share: of the pool that this training sees; all when absent.
    """

    path: str | None = None
    run: str | None = None
    step: Annotated[int, Field(ge=1)] | None = None
    trained: Mapping[str, Any] | None = None
    share: Annotated[Share, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Other:
        if sum(one is not None for one in (self.path, self.run, self.trained)) != 1:
            raise ValueError("names a model by exactly one of path, run ({run: NAME}) and trained ({trained: {}})")
        if self.step is not None and self.run is None:
            raise ValueError("step counts the models of a run; name the run")
        if self.share is not None and self.trained is None:
            raise ValueError("share is of the pool that a model is trained on; say trained: {} beside it")
        return self


def _by_path(given: Any) -> Any:
    return {"path": given} if isinstance(given, str) else given


Scorer = Annotated[Other, BeforeValidator(_by_path)]
"""A selector's parameter `model`."""


def of(pool: Pool, asked: Other | None) -> tuple[Model, Pool]:
    """Return the model and the pool as its tokenizer renders it.

    Raises:
        CuveeError: there is no such model or run.
    """
    if asked is None:
        return pool.base, pool
    if asked.path is not None:
        return pool.other(asked.path)
    if asked.run is not None:
        return pool.of_run(asked.run, asked.step), pool
    return pool.trained(asked.trained or {}, asked.share), pool
