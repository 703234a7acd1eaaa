"""Cross-entropy at the supervised positions only, summed in float32, without a second copy of the logits.

The model is asked for logits at the kept positions alone (its own `logits_to_keep`), so that whatever it
does after its head (softcap, scale) applies. The loss then works through the (K, V) logits in chunks of
positions; for a backward pass each chunk is overwritten by its own gradient, so no further buffer of that
size exists, and a model in bfloat16 never has more than a chunk of its logits in float32.

    nll_k = log sum_v exp(z_kv) - z_k,y(k)          d nll_k / d z_kv = softmax(z_k)_v - [v = y(k)]
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from cuvee.engine import attention
from cuvee.engine.flat import Flat

CHUNK = 1 << 22
"""Logits worked on at once: 16 MiB in float32, about a processor's cache."""


class _TokenLoss(torch.autograd.Function):
    """nll (K,) of logits (K, V); turns the logits into their gradient in place."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        nll = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        rows = max(1, CHUNK // logits.shape[1])
        # detach shares memory and version: if the model still needs its logits, autograd says so loudly.
        parts, goals, outs = (torch.split(t, rows) for t in (logits.detach(), targets, nll))
        for part, goal, out in zip(parts, goals, outs, strict=True):
            _chunk(part, goal, out, wanted)
        if wanted:
            ctx.buffer = logits.detach()
        return nll

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        buffer: Tensor = ctx.buffer
        del ctx.buffer
        return buffer.mul_(grad[:, None].to(buffer.dtype)), None


def _chunk(logits: Tensor, targets: Tensor, nll: Tensor, wanted: bool) -> None:
    """Write the nll of one chunk into `nll`; with `wanted`, the gradient over the logits."""
    work = logits if wanted and logits.dtype == torch.float32 else logits.float()
    if not wanted:
        torch.sub(work.logsumexp(1), work.gather(1, targets[:, None])[:, 0], out=nll)
        return
    work.sub_(work.amax(1, keepdim=True))
    right = work.gather(1, targets[:, None])
    total = work.exp_().sum(1, keepdim=True)
    torch.sub(total.log(), right, out=nll[:, None])
    work.div_(total)
    work.scatter_add_(1, targets[:, None], torch.full_like(right, -1.0))
    if work is not logits:
        logits.copy_(work)


def takes_positions(model: Any) -> bool:
    """Return whether the model's forward can be asked for logits at chosen positions."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def token_losses(model: Any, flat: Flat, *, segments: bool) -> Tensor:
    """Return the negative log-likelihood of each supervised token, (K,) float32, differentiable.

    Args:
        model: a causal language model.
        flat: the forward pass; with `segments` false it must hold one example.
        segments: whether the model is on segment-wise attention.
    """
    return nll(supervised_logits(model, flat, segments=segments), flat.targets)


def nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of tokens (K,) under logits (K, V), which are overwritten."""
    loss: Tensor = _TokenLoss.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss


def supervised_logits(model: Any, flat: Flat, *, segments: bool) -> Tensor:
    """Return the logits at the positions whose next token is supervised, (K, V); arguments as in `token_losses`."""
    extra = inputs(flat, segments=segments)
    if takes_positions(model):
        logits: Tensor = model(input_ids=flat.ids, use_cache=False, logits_to_keep=flat.keep, **extra).logits.squeeze(0)
        return logits
    return torch.index_select(model(input_ids=flat.ids, use_cache=False, **extra).logits.squeeze(0), 0, flat.keep)


def inputs(flat: Flat, *, segments: bool) -> dict[str, Any]:
    """Return what a forward pass is given besides its tokens."""
    return {attention.NAME: flat.lengths, "position_ids": flat.positions} if segments else {}
