"""Training, scoring and generating, on token ids only. torch lives in this folder and nowhere else.

    engine = for_model(Path("models/llama"))
    engine.train(...); engine.score(...); engine.generate(...)

Importing this package imports no torch; `for_model` does, unless the folder is a fake model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cuvee.engine.decoding import Decoding, Prompt
from cuvee.engine.disk import mark_file
from cuvee.errors import UsageError, did_you_mean
from cuvee.protocols import Likelihood, Reply, Scored

PACKAGES = ("torch", "transformers", "safetensors")
"""What real models need; the extra ``train`` installs them."""

FAKE_FILE = "fake.json"
"""The file that makes a folder a fake model."""

FISHER_FILE = "fisher.safetensors"
"""Float32 values by the names that the weights have in the model's own safetensors; tied weights are there once."""


@dataclass(frozen=True)
class Engine:
    """What does the work for one kind of model folder.

    Args:
        name: ``torch`` or ``fake``.
        train: see `cuvee.engine.loop.train`.
        score: see `cuvee.engine.scoring.score`.
        generate: see `cuvee.engine.generation.generate`.
        choose: see `cuvee.engine.choices.choose`.
        fold: see `cuvee.engine.lora.fold`.
        fisher: see `cuvee.engine.fisher.fisher`.
        mark: see `cuvee.engine.marks.mark`.
        embed: see `cuvee.engine.embeddings.embed`.
        features: see `cuvee.engine.gradients.features`.
    """

    name: str
    train: Callable[..., dict[str, Any]]
    score: Callable[..., list[Likelihood]]
    generate: Callable[..., list[Reply]]
    fold: Callable[..., dict[str, Any]]
    fisher: Callable[..., dict[str, Any]]
    mark: Callable[..., dict[str, Any]]
    choose: Callable[..., list[list[Scored]]]
    embed: Callable[..., int]
    features: Callable[..., int]


GENERATORS = ("local", "vllm")
"""What can write answers for a real model: our own loop, or vLLM where it is installed."""


def for_model(folder: Path, generator: str = "local") -> Engine:
    """Return the engine that handles a model folder: the fake one where ``fake.json`` lies, else torch.

    Args:
        folder: the model.
        generator: one of `GENERATORS`; what writes answers. Training and scoring are the same with any.

    Raises:
        UsageError: a package that real models need is not installed, or there is no such generator.
    """
    if generator not in GENERATORS:
        raise UsageError(f"generator '{generator}' is not possible.{did_you_mean(generator, GENERATORS)}")
    if (folder / FAKE_FILE).is_file():
        from cuvee.engine import fake

        return Engine("fake", **{verb.name: getattr(fake, verb.name) for verb in fields(Engine)[1:]})
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise UsageError(
            f"training and judging real models needs {', '.join(absent)}, which this Python has not; "
            "pip install 'cuvee[train]'"
        )
    from cuvee.engine import choices, embeddings, fisher, generation, gradients, loop, lora, marks, scoring

    generate = generation.generate
    if generator == "vllm":
        from cuvee.engine import vllm_engine

        generate = vllm_engine.generate
    return Engine(
        name="torch",
        train=loop.train,
        score=scoring.score,
        generate=generate,
        fold=lora.fold,
        fisher=fisher.fisher,
        mark=marks.mark,
        choose=choices.choose,
        embed=embeddings.embed,
        features=gradients.features,
    )


__all__ = ["FAKE_FILE", "FISHER_FILE", "GENERATORS", "Decoding", "Engine", "Prompt", "for_model", "mark_file"]
