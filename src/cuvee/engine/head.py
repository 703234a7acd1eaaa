"""Losses and entropies of supervised tokens with the logits of a few positions in memory at a time.

The body of the model runs once. Its hidden states at the kept positions then go through the model's own forward in
chunks, with a stand-in in place of the body, so that whatever the model does at its head (softcap, scale) applies:

    hidden (K, H) -> logits of a chunk (C, V) -> nll_k = log sum_v exp(z_kv) - z_k,y(k)
                                                 entropy_k = log sum_v exp(z_kv) - sum_v p_kv z_kv

So memory holds C * V logits, whatever the number of rows and their length. A head that is a product and nothing else
goes through the vocabulary in tiles on a CPU (`tiles`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from cuvee.engine import tiles
from cuvee.engine.flat import Flat
from cuvee.engine.loss import CHUNK, inputs, supervised_logits

CUDA_CHUNK = 1 << 26
"""Logits worked on at once on a GPU: 256 MiB in float32."""


class _StandIn(torch.nn.Module):
    """Gives hidden states that are there already, whatever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """Return the hidden states."""
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)  # type: ignore[arg-type,unused-ignore]


def has_body(model: Any) -> bool:
    """Return whether body and head of a model can be run apart."""
    name = getattr(model, "base_model_prefix", "")
    return bool(name) and getattr(model, name, None) is not None and model.base_model is not model


def token_statistics(
    model: Any, flat: Flat, *, segments: bool, chunked: bool, tiled: bool = False, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return each supervised token's nll, (K,) float32, and the entropy (nats) of its prediction if asked for.

    Args:
        model: a causal language model.
        flat: the forward pass; with `segments` false it must hold one example.
        segments: whether the model is on segment-wise attention.
        chunked: body and head apart (`has_body`); else all logits of the pass at once.
        tiled: of a head apart, whether it is plain (`plain_head`).
        entropy: of the distribution over the vocabulary at each position, (K,).
    """
    if not chunked:
        return _statistics(supervised_logits(model, flat, segments=segments), flat.targets, entropy)
    extra = inputs(flat, segments=segments)
    hidden = model.base_model(input_ids=flat.ids, use_cache=False, **extra).last_hidden_state.squeeze(0)
    hidden = hidden.index_select(0, flat.keep)
    if tiled:
        return tiles.statistics(model.get_output_embeddings(), hidden, flat.targets, entropy)
    most = CUDA_CHUNK if hidden.device.type == "cuda" else CHUNK
    rows = max(1, most // model.get_output_embeddings().weight.shape[0])
    with standing_in(model) as body:
        found = [
            _statistics(head_logits(model, body, part), goal, entropy)
            for part, goal in zip(torch.split(hidden, rows), torch.split(flat.targets, rows), strict=True)
        ]
    nll = torch.cat([one for one, _ in found])
    return nll, torch.cat([two for _, two in found if two is not None]) if entropy else None


def plain_head(model: Any) -> bool:
    """Return whether a model's head can go through the vocabulary in tiles; it must have a body (`has_body`)."""
    layer = model.get_output_embeddings()  # some architectures look for it in the body
    with standing_in(model) as body, torch.inference_mode():
        return tiles.is_plain(layer, lambda hidden: head_logits(model, body, hidden))


def head_logits(model: Any, body: _StandIn, hidden: Tensor) -> Tensor:
    """Return the logits of hidden states (C, H): the model's forward with `body` in place of its own."""
    body.hidden = hidden[None]
    # The stand-in looks at no token; the model's forward wants some.
    tokens = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits[0]
    return logits


@contextmanager
def standing_in(model: Any) -> Iterator[_StandIn]:
    """Put a stand-in where a model's body is."""
    name = model.base_model_prefix
    body, stand_in = getattr(model, name), _StandIn()
    setattr(model, name, stand_in)
    try:
        yield stand_in
    finally:
        setattr(model, name, body)


def _statistics(logits: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """Return nll and, if asked for, entropy of logits (C, V), a chunk of positions at a time."""
    rows = max(1, (CUDA_CHUNK if logits.device.type == "cuda" else CHUNK) // logits.shape[1])
    found = [
        _chunk(part, goal, entropy)
        for part, goal in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True)
    ]
    nll = torch.cat([one for one, _ in found])
    return nll, torch.cat([two for _, two in found if two is not None]) if entropy else None


def _chunk(logits: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    work = logits.float()
    right = work.gather(1, targets[:, None])[:, 0]
    if not entropy:
        return work.logsumexp(1) - right, None
    odds = work.log_softmax(1)
    right = odds.gather(1, targets[:, None])[:, 0]
    return -right, -(odds.exp() * odds).sum(1)
