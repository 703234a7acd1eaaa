"""The loss by cut cross-entropy: the logits of the supervised positions are never in memory, on a GPU.

    nll_k = log sum_v exp(softcap(h_k . w_v)) - softcap(h_k . w_y(k))

The model's body runs as ever; the hidden states at the kept positions and the weights of the head go to the kernels
of the package ``cut-cross-entropy``, which make blocks of logits on the chip. Whether a model's head is no more than
that is measured on a few random tokens against our own loss (`check`). Gradients are not filtered. Not run on a GPU by
us yet.

Source: Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, arXiv 2411.09009.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from cuvee.engine import attention, head, loss
from cuvee.engine.flat import Flat, flatten
from cuvee.errors import UsageError
from cuvee.protocols import TokenRow

PACKAGE = "cut_cross_entropy"

TOLERANCE = 2e-2
"""Relative difference of the probe's loss from our own; half precision rounds both."""


def token_losses(model: Any, flat: Flat, *, segments: bool) -> Tensor:
    """Return the negative log-likelihood of each supervised token, (K,) float32; as `loss.token_losses`."""
    hidden = model.base_model(input_ids=flat.ids, use_cache=False, **loss.inputs(flat, segments=segments))[0]
    kernel = importlib.import_module(PACKAGE).linear_cross_entropy
    found: Tensor = kernel(
        hidden[0, flat.keep],
        model.get_output_embeddings().weight,
        flat.targets,
        softcap=getattr(model.config.get_text_config(), "final_logit_softcapping", None),
        reduction="none",
        # The default leaves out gradients that half precision would lose; then losses and gradients are ours.
        filter_eps=None,
    )
    return found.float()


def check(model: Any) -> None:
    """Refuse a model whose loss this is not.

    Raises:
        UsageError: it is in float32, cannot be split into body and head, or its loss differs from our own.
    """
    remedy = "leave --kernels away"
    if model.dtype not in (torch.bfloat16, torch.float16):
        raise UsageError(f"--kernels cut has gradients in half precision only: precision: bfloat16, or {remedy}")
    layer = model.get_output_embeddings()
    # With an adapter in it, its product is not the stored weight's; a new adapter's 0 would hide that from the probe.
    plain = head.has_body(model) and type(layer) is torch.nn.Linear and layer.bias is None
    if not plain:
        raise UsageError(f"--kernels cut: the head of this {model.config.model_type} model is not one matrix; {remedy}")
    ids = [(7 * place + 3) % model.get_input_embeddings().num_embeddings for place in range(16)]
    flat = flatten([TokenRow(ids, [(1, 16)])], model.device)
    with torch.no_grad():
        segments = model.config._attn_implementation == attention.NAME
        ours, theirs = (each(model, flat, segments=segments) for each in (loss.token_losses, token_losses))
    far = float((ours - theirs).abs().max() / ours.abs().max())
    if not far <= TOLERANCE:
        message = f"its loss differs from our own by {far:.1e} (relative) on this {model.config.model_type} model"
        raise UsageError(f"--kernels cut: {message}; {remedy}")
