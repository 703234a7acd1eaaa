"""Training, scoring and generating, on token ids only. torch lives in this folder and nowhere else.

    engine = for_model(Path("models/llama"))
    engine.train(...); engine.score(...); engine.generate(...)

Importing this package imports no torch; `for_model` does, unless the folder is a fake model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuvee.errors import UsageError
from cuvee.protocols import Likelihood, Reply

PACKAGES = ("torch", "transformers", "safetensors")
"""What real models need; the extra ``train`` installs them."""

FAKE_FILE = "fake.json"
"""The file that makes a folder a fake model."""


@dataclass(frozen=True)
class Engine:
    """What does the work for one kind of model folder.

    Args:
        name: ``torch`` or ``fake``.
        train: see `cuvee.engine.loop.train`.
        score: see `cuvee.engine.scoring.score`.
        generate: see `cuvee.engine.generation.generate`.
    """

    name: str
    train: Callable[..., dict[str, Any]]
    score: Callable[..., list[Likelihood]]
    generate: Callable[..., list[Reply]]


def for_model(folder: Path) -> Engine:
    """Return the engine that handles a model folder: the fake one where ``fake.json`` lies, else torch.

    Raises:
        UsageError: a package that real models need is not installed.
    """
    if (folder / FAKE_FILE).is_file():
        from cuvee.engine import fake

        return Engine("fake", fake.train, fake.score, fake.generate)
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise UsageError(
            f"training and judging real models needs {', '.join(absent)}, which this Python has not; "
            "pip install 'cuvee[train]'"
        )
    from cuvee.engine import generation, loop, scoring

    return Engine("torch", loop.train, scoring.score, generation.generate)


__all__ = ["FAKE_FILE", "Engine", "for_model"]
