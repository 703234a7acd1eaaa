"""Elastic weight consolidation: each weight is held by as much as the Fisher information says it matters.

    (lambda / 2) sum_i F_i (theta_i - theta_0,i)^2        F: the diagonal of `cuvee.engine.fisher`, at theta_0

Source: Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, arXiv 1612.00796,
equation 3, for one earlier task: what the starting model knows of the source that the Fisher information is taken on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from cuvee.engine.regularisers._anchor import Anchor
from cuvee.errors import ModelError

NAME = "ewc"


def of_weights(weight: float, weights: Mapping[str, Tensor], starts: Mapping[str, Tensor], fisher: Path) -> Anchor:
    """Return the penalty of a full training.

    Args:
        weight: lambda.
        weights, starts: as in `Anchor`.
        fisher: the safetensors file with F.

    Raises:
        ModelError: the file is of another model.
    """
    return Anchor(NAME, weight, weights, starts, _read(fisher, weights))


def _read(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        for name, weight in weights.items():
            if shapes.get(name) != tuple(weight.shape):
                raise ModelError(f"{path}: the Fisher information has no {name} {tuple(weight.shape)}: another model's")
        return {name: file.get_tensor(name).float().to(weight.device) for name, weight in weights.items()}
