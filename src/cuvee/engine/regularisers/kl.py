"""KL to the starting model at the supervised positions, beside the cross-entropy, in one pass over the logits.

    beta * mean over supervised tokens t of KL(p_theta(. | <t) || p_0(. | <t))          direction: reverse
    beta * mean over supervised tokens t of KL(p_0(. | <t) || p_theta(. | <t))          direction: forward

    d KL(p || q) / d z_v = p_v (log p_v - log q_v - KL(p || q))          d KL(q || p) / d z_v = p_v - q_v

with p the model's and q the start's distribution. The start is a frozen twin of the model. Its logits are made for a
chunk of positions at a time, from hidden states that are kept for the supervised positions alone, so the twin never
has a buffer of vocabulary times positions. The model's own logits are overwritten by their gradient, as in `loss`.

Source: Li and Hoiem, Learning without Forgetting, arXiv 1606.09282 (forward, on the new task's inputs); the reverse
direction is that of KL-regularised fine-tuning, Ziegler et al., arXiv 1909.08593, equation 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cuvee.engine import head, loss
from cuvee.engine.flat import Flat
from cuvee.engine.loading import Loaded

NAME = "kl"

Logits = Callable[[int, int], Tensor]
"""(first, last + 1) -> the start's logits at these of the supervised positions, (n, V)."""


class KL:
    """See the module.

    Args:
        weight: beta.
        direction: ``reverse`` or ``forward``.
        twin: the starting model, frozen (`frozen_twin`).
    """

    def __init__(self, weight: float, direction: str, twin: Loaded) -> None:
        self.weight, self.reverse, self.twin = weight, direction == "reverse", twin
        twin.use("single")
        self._split = _can_split(twin.model)

    def losses(self, model: Any, flat: Flat, *, segments: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return (objective, nll, weighted KL) of each supervised token, (K,) float32; the first is differentiable.

        Arguments as in `loss.token_losses`; `twin` must be on the same layout.
        """
        with torch.no_grad():
            start = self._start(flat, segments=segments)
        logits = loss.supervised_logits(model, flat, segments=segments)
        found: tuple[Tensor, Tensor, Tensor]
        found = _Losses.apply(logits, flat.targets, start, self.weight, self.reverse)  # type: ignore[no-untyped-call]
        return found

    def _start(self, flat: Flat, *, segments: bool) -> Logits:
        model = self.twin.model
        if not self._split:
            whole = loss.supervised_logits(model, flat, segments=segments)
            return lambda first, end: whole[first:end]
        extra = loss.inputs(flat, segments=segments)
        hidden = model.base_model(input_ids=flat.ids, use_cache=False, **extra)[0][0, flat.keep]
        return lambda first, end: _logits(model, hidden[first:end])


def frozen_twin(loaded: Loaded, *, shared: bool) -> Loaded:
    """Return a copy of a model that nothing trains; `shared`: on the same weights, which nothing may train either."""
    memo = {id(weight): weight for weight in loaded.model.parameters()} if shared else {}
    twin = copy.deepcopy(loaded.model, memo)
    if not shared:
        twin.requires_grad_(False)
    return Loaded(twin.eval(), loaded.stock, loaded.obstacle)


def _can_split(model: Any) -> bool:
    """Say whether body and head can be run apart: both ways must give the same bits on a few tokens."""
    if not head.has_body(model):
        return False
    ids = torch.arange(5, device=model.device)[None] % model.get_input_embeddings().num_embeddings
    try:
        with torch.no_grad():
            whole = model(input_ids=ids, use_cache=False).logits[0]
            parts = _logits(model, model.base_model(input_ids=ids, use_cache=False)[0][0])
    except (TypeError, AttributeError, ValueError, RuntimeError, KeyError):
        return False
    return whole.shape == parts.shape and torch.equal(whole, parts)


@torch.no_grad()
def _logits(model: Any, hidden: Tensor) -> Tensor:
    """Return what a model makes of its body's output (n, D), scale and softcap included: (n, V)."""
    with head.standing_in(model) as body:
        return head.head_logits(model, body, hidden)


# -------------------------------------------------------------------------------------------- both losses at once


class _Losses(torch.autograd.Function):
    """(objective, nll, weighted KL), (K,) each, of logits (K, V); turns the logits into their gradient in place."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, start: Logits, weight: float, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        nll, kl = (torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device) for _ in range(2))
        rows = max(1, loss.CHUNK // logits.shape[1])
        buffer = logits.detach()
        for first in range(0, logits.shape[0], rows):
            here = slice(first, first + rows)
            part = buffer[here]
            gradient = _chunk(
                part, start(first, first + len(part)), targets[here], nll[here], kl[here], reverse, weight
            )
            part.copy_(gradient)
        ctx.buffer = buffer
        kl.mul_(weight)
        ctx.mark_non_differentiable(nll, kl)
        return nll + kl, nll, kl

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *rest: Tensor) -> tuple[Tensor, None, None, None, None]:
        buffer: Tensor = ctx.buffer
        del ctx.buffer
        return buffer.mul_(grad[:, None].to(buffer.dtype)), None, None, None, None


def _chunk(
    logits: Tensor, start: Tensor, targets: Tensor, nll: Tensor, kl: Tensor, reverse: bool, weight: float
) -> Tensor:
    """Write nll and KL of one chunk; return the gradient of nll + weight * KL over its logits, float32."""
    log_p, log_q = logits.float().log_softmax(1), start.float().log_softmax(1)
    torch.neg(log_p.gather(1, targets[:, None])[:, 0], out=nll)
    p = log_p.exp()
    apart = log_p.sub_(log_q)  # log p - log q
    if reverse:
        torch.sum(p * apart, 1, out=kl)
        pull = apart.sub_(kl[:, None]).mul_(p)
    else:
        q = log_q.exp_()
        torch.sum(apart.mul_(q), 1, out=kl).neg_()
        pull = p - q
    gradient = p.add_(pull, alpha=weight)
    return gradient.scatter_add_(1, targets[:, None], torch.full_like(nll[:, None], -1.0))
