"""A quadratic pull of each weight to where it started, equally strong for all or each with a strength of its own.

value = (a / 2) sum_i F_i (theta_i - theta_0,i)^2        gradient_i = a F_i (theta_i - theta_0,i)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Anchor:
    """See the module.

    Args:
        name: of the regulariser.
        weight: a.
        weights: the weights as the optimiser holds them, float32, by name.
        starts: theta_0, by name, in the precision of the model.
        strengths: F by name; 1 for every weight when absent.
    """

    def __init__(
        self,
        name: str,
        weight: float,
        weights: Mapping[str, Tensor],
        starts: Mapping[str, Tensor],
        strengths: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.name, self.weight = name, weight
        self._weights, self._starts, self._strengths = weights, starts, strengths

    @torch.no_grad()
    def add(self) -> Tensor:
        """Add the gradient; return the value."""
        total = torch.zeros((), dtype=torch.float64, device=next(iter(self._weights.values())).device)
        for name, weight in self._weights.items():
            if weight.grad is None:  # never updated, so it is where it started
                continue
            away = weight - self._starts[name].float()
            pull = away * self._strengths[name] if self._strengths else away
            weight.grad.add_(pull, alpha=self.weight)
            total += (pull * away).sum(dtype=torch.float64)
        return (total * (self.weight / 2)).float()
