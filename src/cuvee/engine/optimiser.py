"""Optimisers, learning-rate schedules and float32 master weights.

    lr(i) = peak * (i + 1) / W                          for i < W = ceil(warmup * steps)
    lr(i) = peak * f((i - W) / (steps - W))             after it; f(x) = 1, 1 - x, or (1 + cos(pi x)) / 2

Warm-up, stable, decay (`wsd`, MiniCPM, arXiv 2404.06395) is constant, then linear over the last D steps:

    lr(i) = peak * (steps - i) / D                      for i >= steps - D, D = ceil(decay * steps)

Decay is decoupled (AdamW, Loshchilov and Hutter 2019) and spares vectors: norms and biases are scales and
offsets, which a pull towards zero would distort. At the default decay of 0 this changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cuvee.engine.devices import World
from cuvee.errors import UsageError, did_you_mean

SCHEDULES = ("cosine", "linear", "constant", "wsd")

OPTIMISERS = ("adamw", "adafactor", "sgd")
"""From torch. `betas` and `eps` are AdamW's; sgd has the first beta as momentum, adafactor torch's own constants."""


def learning_rate(step: int, steps: int, hyper: Mapping[str, Any]) -> float:
    """Return the rate of step `step` (from 0) of `steps`."""
    peak, warm = float(hyper["learning_rate"]), math.ceil(float(hyper["warmup"]) * steps)
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if hyper["schedule"] == "constant":
        return peak
    if hyper["schedule"] == "wsd":
        falling = math.ceil(float(hyper["decay"]) * steps)
        return peak * min(1.0, (steps - step) / falling)
    if hyper["schedule"] == "linear":
        return peak * (1 - done)
    return peak * (1 + math.cos(math.pi * done)) / 2


class Optimiser:
    """An optimiser over a model's parameters, in float32 whatever the model's own precision.

    A model in bfloat16 keeps its weights in bfloat16 for the passes; the optimiser holds float32 copies,
    gathers the gradients of all micro batches there, and writes the rounded weights back. Without them an
    update below 1/256 of a weight would be lost, and at a rate of 2e-5 nearly all are.

    Args:
        model: the model; parameters that need no gradient are left alone.
        hyper: ``optimiser`` (one of `OPTIMISERS`), ``betas``, ``eps``, ``weight_decay``, ``clip`` (0 or None: no
            clipping).
        world: the processes that train together; where they divide the weights, this one updates its part of each.
    """

    def __init__(self, model: Any, hyper: Mapping[str, Any], world: World | None = None) -> None:
        self.world = world or World()
        self.weights: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.copied = any(p.dtype != torch.float32 for p in self.weights.values())
        self.masters = {n: self._master(p) for n, p in self.weights.items()}
        self.clip = float(hyper.get("clip") or 0.0)
        decay = float(hyper["weight_decay"])
        groups = [
            {"params": [p for p in self.masters.values() if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in self.masters.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.rule = _rule(groups, hyper)

    def _master(self, weight: Tensor) -> Tensor:
        if self.world.sharded:
            return self.world.own(weight).detach().requires_grad_()
        return weight.detach().float().requires_grad_() if self.copied else weight

    def gather(self) -> None:
        """Move the gradients of one micro batch to the float32 copies; nothing to do without them."""
        if self.world.sharded:  # FSDP adds them up at the weight
            for name, weight in self.weights.items():
                self.masters[name].grad = None if weight.grad is None else self.world.own(weight.grad)
            return
        if not self.copied:
            return
        for name, weight in self.weights.items():
            if weight.grad is not None:
                master = self.masters[name]
                grad = weight.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                weight.grad = None

    def pool(self) -> None:
        """Add the gradients of all processes, once a step, before anything else is added to them."""
        self.world.add_gradients(self.masters.values())

    def step(self, rate: float) -> Tensor:
        """Clip, update, clear; return the gradient's norm before clipping, (), on the device."""
        norm = self._clip(list(self.masters.values()))
        for group in self.rule.param_groups:
            group["lr"] = rate
        self.rule.step()
        self.clear()
        self.round()
        return norm.detach()

    def _clip(self, masters: list[Tensor]) -> Tensor:
        if not self.world.sharded:
            return torch.nn.utils.clip_grad_norm_(masters, self.clip or math.inf)
        norm = self.world.norm([master.grad for master in masters if master.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(masters, self.clip or math.inf, norm)
        return norm

    def round(self) -> None:
        """Write the float32 copies back to the weights; nothing to do without them."""
        if self.copied:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(self.masters[name])

    def clear(self) -> None:
        """Drop all gradients."""
        for tensor in (*self.masters.values(), *self.weights.values()):
            tensor.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name, ``state.<moment>.<weight>``; the masters are not among it."""
        found = {}
        for name, master in self.masters.items():
            for kind, tensor in self.rule.state.get(master, {}).items():
                found[f"state.{kind}.{name}"] = tensor
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        for name, master in self.masters.items():
            state = {}
            for kind in MOMENTS:
                if f"state.{kind}.{name}" in tensors:
                    # clone: own aligned memory, as a fresh optimiser would have.
                    state[kind] = tensors[f"state.{kind}.{name}"].clone().to(master.device)
            if state:
                self.rule.state[master] = state


MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer", "row_var", "col_var", "variance")
"""What torch's optimisers keep of a weight."""


def _rule(groups: list[dict[str, Any]], hyper: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimiser; its rate is set at each step."""
    first, second = (float(b) for b in hyper["betas"])
    name = hyper.get("optimiser", "adamw")
    if name == "adamw":
        # Fused updates exist for float32 on CPU and CUDA.
        return torch.optim.AdamW(groups, lr=0.0, betas=(first, second), eps=float(hyper["eps"]), fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=first)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=0.0)
    raise UsageError(f"optimiser '{name}' is not possible.{did_you_mean(name, OPTIMISERS)}")
