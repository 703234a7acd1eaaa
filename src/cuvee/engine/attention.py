"""Attention inside each example of one flat row, for any architecture on transformers' attention interface.

A flat row holds examples one after another, (1, T) tokens without padding. Only attention lets tokens see
each other, so an architecture whose attention stays inside each example and whose positions restart at 0
computes for the flat row exactly what it computes for the examples one by one. The lengths of the examples
travel as the keyword ``cuvee_segments`` through the model's own forward to `segment_attention`, which
transformers calls in place of its own functions. No T x T mask is ever made.

Where an architecture cannot do this (no attention interface, recurrent layers, position biases, attention
sinks), `supports` says why and the layout is ``single``: one example a forward pass, stock attention.

Source: the interface is documented in transformers, "Attention Interface"; nothing is patched.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from cuvee.engine import flexible, varlen

NAME = "cuvee_segments"
"""Name of the attention function and of the keyword that carries the lengths."""

FAST = (varlen, flexible)
"""Attention of all segments in one call, the first that fits; where none does, one call a run of equal lengths."""

_REFUSED = ("position_bias", "s_aux", "head_mask", "indexer", "block_sequence_ids")
_SEEN_WINDOWS: dict[int, int] | None = None


class Unsupported(Exception):
    """The architecture asks for something that segment-wise attention does not do."""


def runs(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return neighbouring equal lengths as (count, length): each run is one batched attention call."""
    return tuple((len(list(group)), length) for length, group in groupby(lengths))


def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment of one flat row.

    Args:
        module: the attention layer.
        query: (1, heads, T, head size).
        key: (1, key heads, T, head size); key heads divide heads.
        value: (1, key heads, T, value size).
        attention_mask: must be None: transformers makes no mask for a function it has no mask for.
        scaling: factor of the scores; None is 1 / sqrt(head size).
        dropout: probability, 0 outside training.
        sliding_window: a token sees itself and the `sliding_window` - 1 tokens before it.
        softcap: scores become softcap * tanh(scores / softcap).
        kwargs: must hold the segment lengths under `NAME`.

    Returns:
        (1, T, heads, value size), and None for the weights.

    Raises:
        Unsupported: on a mask, a batch, a layer that is not causal, or an extra input of `_REFUSED`.
    """
    lengths = kwargs.get(NAME)
    _refuse(module, query, attention_mask, lengths, kwargs)
    assert lengths is not None
    if _SEEN_WINDOWS is not None and sliding_window is not None:
        _SEEN_WINDOWS[id(module)] = sliding_window
    for kernel in FAST:
        if kernel.fits(query, value, dropout, softcap):
            return kernel.attend(query, key, value, lengths, scaling, sliding_window, softcap), None
    blocks = runs(lengths)
    sizes = [count * length for count, length in blocks]
    q, k, v = (torch.split(tensor.squeeze(0), sizes, dim=1) for tensor in (query, key, value))
    outputs = [
        _block(_batched(q[i], n), _batched(k[i], n), _batched(v[i], n), scaling, dropout, sliding_window, softcap)
        for i, (n, _) in enumerate(blocks)
    ]
    flat = [out.transpose(1, 2).flatten(0, 1) for out in outputs]
    return (flat[0] if len(flat) == 1 else torch.cat(flat)).unsqueeze(0), None


def _refuse(module: torch.nn.Module, query: Tensor, mask: Tensor | None, lengths: Any, kwargs: dict[str, Any]) -> None:
    if lengths is None or query.shape[0] != 1:
        raise Unsupported("the segment lengths did not reach the attention layer")
    if mask is not None:
        raise Unsupported("the architecture makes an attention mask of its own")
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise Unsupported("a layer is not causal")
    for name in _REFUSED:
        if kwargs.get(name) is not None:
            raise Unsupported(f"a layer uses {name}")


def _batched(tensor: Tensor, count: int) -> Tensor:
    """(heads, count * length, size) -> (count, heads, length, size), a view."""
    return tensor.view(tensor.shape[0], count, -1, tensor.shape[2]).transpose(0, 1)


def _block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Attention of `count` examples of one length: (count, heads, length, value size)."""
    groups = query.shape[1] // key.shape[1]
    length = query.shape[2]
    banded = window is not None and length > window
    if softcap is None:
        mask = _causal(length, window, query.device) if banded else None
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=groups > 1,
        )
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scale / softcap)) * softcap
    scores = scores.masked_fill(~_causal(length, window, query.device), float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, dropout) @ value


def _causal(length: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean (length, length): True where the row's token may see the column's."""
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return mask if window is None else mask.triu(1 - window)


AttentionInterface.register(NAME, segment_attention)  # type: ignore[no-untyped-call,unused-ignore]


def supports(model: Any) -> str:
    """Return why the model cannot take flat rows, or an empty string where it can.

    Reads the configuration, then compares the logits of three tiny random examples in one flat row with
    those of one example at a time under the stock attention. The model is left on the attention that fits.
    """
    reason = _known_obstacle(model)
    if not reason:
        stock = model.config._attn_implementation
        reason = _probe(model)
        while reason and any(
            kernel.leave() for kernel in FAST
        ):  # one after another: not the architecture's fault, perhaps
            model.set_attn_implementation(stock)
            reason = _probe(model)
        if reason:
            model.set_attn_implementation(stock)
    return reason


def _known_obstacle(model: Any) -> str:
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return "the architecture is not on transformers' attention interface"
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {v.get("rope_type") for v in rope.values() if isinstance(v, dict)}
    if kinds & {"dynamic", "longrope"}:
        return "its rotary positions depend on the longest example of a batch"
    layers = set(getattr(config, "layer_types", None) or ())
    if layers - {"full_attention", "sliding_attention"}:
        return f"it has layers of type {', '.join(sorted(layers - {'full_attention', 'sliding_attention'}))}"
    return ""


def _probe(model: Any) -> str:
    global _SEEN_WINDOWS
    config = model.config.get_text_config()
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(config.vocab_size, (1, n), generator=draw).to(model.device) for n in (3, 5, 5)]
    places = torch.cat([torch.arange(t.shape[1], device=model.device) for t in ids])[None]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = torch.cat([model(input_ids=t, use_cache=False).logits[0] for t in ids])
            model.set_attn_implementation(NAME)
            _SEEN_WINDOWS = {}
            keep = {NAME: tuple(t.shape[1] for t in ids)}
            flat = model(input_ids=torch.cat(ids, 1), position_ids=places, use_cache=False, **keep).logits[0]
        if len(_SEEN_WINDOWS) != _windowed_layers(config):
            return "its sliding windows do not reach the attention function"
    except (Unsupported, TypeError, ValueError, RuntimeError, KeyError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    finally:
        _SEEN_WINDOWS = None
        model.train(was_training)
    far = float((alone - flat).abs().max() / alone.abs().max().clamp_min(1e-6))
    limit = 1e-4 if flat.dtype == torch.float32 else 5e-2
    return "" if far <= limit else f"flat and single logits differ by {far:.1e} (relative)"


def _windowed_layers(config: Any) -> int:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return sum(kind == "sliding_attention" for kind in kinds)
    window = getattr(config, "sliding_window", None)
    return int(config.num_hidden_layers) if window and getattr(config, "use_sliding_window", True) else 0
