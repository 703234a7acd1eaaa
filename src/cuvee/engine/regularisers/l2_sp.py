"""L2-SP: the squared distance to the starting point as a penalty, in place of weight decay to zero.

    (a / 2) ||theta - theta_0||^2                          theta_0: where this training starts
    with an adapter: (a / 2) sum over its layers of ||s (B A - B_0 A_0)||^2, the same distance of the folded weights

Source: Li, Grandvalet and Davoine, Explicit Inductive Bias for Transfer Learning with Convolutional Networks, ICML
2018, arXiv 1802.01483, equation 2 without its second term: no weight is new here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cuvee.engine.regularisers._anchor import Anchor

NAME = "l2_sp"


def of_weights(weight: float, weights: Mapping[str, Tensor], starts: Mapping[str, Tensor]) -> Anchor:
    """Return the penalty of a full training; arguments as in `Anchor`."""
    return Anchor(NAME, weight, weights, starts)


class OfAdapter:
    """The penalty of an adapter, through products of its small factors: the full B A is never made.

    ||B A||^2 = <B'B, A A'>, and with A_0, B_0 the factors at the start

    ||B A - B_0 A_0||^2 = <B'B, A A'> - 2 <B_0'B, A_0 A'> + <B_0'B_0, A_0 A_0'>

    Args:
        weight: a.
        layers: A (rank, in), B (out, rank) and scale s of each layer; A and B are the trained tensors.
    """

    name = NAME

    def __init__(self, weight: float, layers: Sequence[tuple[Tensor, Tensor, float]]) -> None:
        self.weight = weight
        self._layers = [(a, b, a.detach().clone(), b.detach().clone(), scale) for a, b, scale in layers]

    def add(self) -> Tensor:
        """Add the gradient; return the value."""
        with torch.enable_grad():
            # In float64: near the start the three products nearly cancel.
            parts = [scale**2 * _distance(a, b, a0, b0) for a, b, a0, b0, scale in self._layers]
            value = torch.stack(parts).sum() * (self.weight / 2)
            torch.autograd.backward(value)
        return value.detach().float()


def _distance(a: Tensor, b: Tensor, a0: Tensor, b0: Tensor) -> Tensor:
    a, b, a0, b0 = (tensor.double() for tensor in (a, b, a0, b0))
    return ((b.T @ b) * (a @ a.T)).sum() - 2 * ((b0.T @ b) * (a0 @ a.T)).sum() + ((b0.T @ b0) * (a0 @ a0.T)).sum()
