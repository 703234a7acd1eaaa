"""Weights column by column for as long as answers are written: the same numbers in another order in memory.

A linear layer over few rows is faster on a CPU where its weight lies as (inputs, outputs): 124 against 75 GFLOP/s at
64 rows, 81 against 67 at 32, 27 against 22 at 8 (1536 x 576, float32, MKL), level with MKL's own packed form, which
would need a second copy. In bfloat16 the order is much slower, and a GPU does not care.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

ROWS = 16
"""With fewer answers than this, turning the weights over costs more than it brings."""


@contextmanager
def by_column(model: Any, answers: int) -> Iterator[None]:
    """Hold the weights of linear layers by column where that pays, and put them back as they were."""
    weights = _weights(model) if answers >= ROWS else []
    for weight in weights:
        weight.data = weight.data.t().contiguous().t()
    try:
        yield
    finally:
        for weight in weights:
            weight.data = weight.data.contiguous()


def _weights(model: Any) -> list[torch.Tensor]:
    """Return the float32 weights of linear layers on the CPU; one that is an embedding too is read by row."""
    tables = {id(layer.weight) for layer in model.modules() if isinstance(layer, torch.nn.Embedding)}
    linear = {id(layer.weight): layer.weight for layer in model.modules() if type(layer) is torch.nn.Linear}
    return [
        weight
        for number, weight in linear.items()
        if number not in tables and weight.device.type == "cpu" and weight.dtype == torch.float32
    ]
