"""LESS features: each row's gradient of a LoRA adapter's factors, as Adam would step, projected, of length 1.

Xia et al., LESS (arXiv 2402.04333; code princeton-nlp/LESS), for a checkpoint with moments m and v:

    g = d l(z) / d LoRA,  l the mean loss of the supervised tokens
    rows:     m' = b1 m + (1 - b1) g,  v' = b2 v + (1 - b2) g^2,  Gamma = m' / sqrt(v' + 1e-8)       no bias correction
    targets:  Gamma = g
    f = R^T Gamma / |R^T Gamma|,  R random signs (parameters, dims)

All rows of a flat batch share one backward pass: what goes into a factor and the gradient of what comes out of it are
kept for each token, and summed up row by row:

    A (rank, in):  sum_t  dL/d(A x_t)   x_t^T            B (out, rank):  sum_t  dL/d(B A x_t)   (A x_t)^T

Signs are made block by block from a seed, so the projection is the same for any batch and machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from cuvee import seeds
from cuvee.engine import loading, lora
from cuvee.engine.disk import Journal, Ticker
from cuvee.engine.embeddings import unfinished
from cuvee.engine.flat import Flat, count, flatten
from cuvee.engine.loss import token_losses
from cuvee.engine.scoring import batches
from cuvee.protocols import Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime

EPSILON = 1e-8
"""Inside the root, as in the authors' code."""

BLOCK = 1024
"""Parameters whose signs are made at once."""

KEPT_SIGNS = 1 << 30
"""Bytes of signs that stay in memory; more are made anew for each batch."""


def features(
    model_folder: Path,
    state: Path,
    rows: TokenRows,
    out: Path,
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    settings: Mapping[str, Any],
    betas: Sequence[float],
    adam: bool,
    dims: int,
    seed: int,
    journal: Path | None = None,
) -> int:
    """Write the features of all rows, (rows, dims) float16, and return dims.

    Args:
        model_folder: the weights under the adapter.
        state: adapter and moments at the end of an epoch (`loop` writes it).
        rows: token rows; one without supervised tokens has the feature 0.
        out: the ``.npy`` file, which memory maps.
        runtime: device, threads, tokens a forward pass.
        progress: told how far it is.
        precision: of the model.
        settings: of the adapter: rank, alpha, dropout, targets, rslora.
        betas: of the training's AdamW.
        adam: whether the features are those of rows (Adam's step) or of targets (the gradient).
        dims: numbers of a feature.
        seed: of the signs.
        journal: file of the finished batches.
    """
    loading.set_threads(runtime)
    loading.forget()
    device = loading.device_of(runtime, progress)
    loaded = loading.load(model_folder, precision, device)
    lora.attach(loaded.model, settings, 0, None)
    weights = {name: weight for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    restored = _restore(weights, state)
    moments = restored if adam else None
    left = unfinished(rows, out, journal)
    log = Journal(journal or out.with_suffix(".jsonl"))
    mode: Any = "r+" if out.exists() and len(left) < len(rows) else "w+"
    found = np.lib.format.open_memmap(out, mode, np.float16, (len(rows), dims))
    signs = Signs(dims, seed, device)
    flat = loaded.layout == "flat"
    loaded.use(loaded.layout)
    ticker, done = Ticker(progress, len(rows)), len(rows) - len(left)
    with closing(log):
        for batch in batches(rows, left, runtime.micro_tokens if flat else 0):
            examples = [rows[i] for i in batch]
            loading.check_fit(loaded.model, examples)
            gradients = per_row(loaded.model, list(weights), examples, device, segments=flat)
            if moments is not None:
                gradients = {name: adam_step(g, *moments[name], betas) for name, g in gradients.items()}
            found[batch] = torch.nn.functional.normalize(signs.project(gradients), dim=1).cpu().numpy()
            found.flush()
            log.append({"step": 0, "rows": list(batch)})
            done += len(batch)
            ticker.tick(done, sum(len(row.ids) for row in examples))
    if journal is None:
        log.path.unlink(missing_ok=True)
    return dims


def _restore(weights: Mapping[str, Tensor], state: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Put an epoch's adapter in place and return its moments by weight, flat."""
    moments = {}
    with safe_open(state, "pt") as file, torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(file.get_tensor(f"weight.{name}"))
            first, second = (file.get_tensor(f"state.{kind}.{name}") for kind in ("exp_avg", "exp_avg_sq"))
            moments[name] = (first.flatten().to(weight.device), second.flatten().to(weight.device))
    return moments


def adam_step(gradient: Tensor, first: Tensor, second: Tensor, betas: Sequence[float]) -> Tensor:
    """Return Gamma of gradients (rows, parameters) with moments (parameters,)."""
    one, two = (float(beta) for beta in betas)
    step: Tensor = (one * first + (1 - one) * gradient) / torch.sqrt(
        two * second + (1 - two) * gradient.square() + EPSILON
    )
    return step


def per_row(
    model: Any, names: Sequence[str], rows: Sequence[TokenRow], device: torch.device, *, segments: bool
) -> dict[str, Tensor]:
    """Return each row's gradient of its mean loss by parameter, (rows, parameters of it) float32.

    Args:
        model: with an adapter, its weights alone needing gradients.
        names: of those weights.
        rows: of one flat batch, or one at a time.
        device: of the model.
        segments: whether the model takes several rows in one pass.
    """
    groups = [rows] if segments else [[row] for row in rows]
    found = [_of_pass(model, names, group, flatten(group, device), segments) for group in groups]
    return {name: torch.cat([one[name] for one in found]) for name in names}


def _of_pass(
    model: Any, names: Sequence[str], rows: Sequence[TokenRow], flat: Flat, segments: bool
) -> dict[str, Tensor]:
    factors = {name: model.get_submodule(name.removesuffix(".weight")) for name in names}
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
            inputs[name], outputs[name] = given[0].detach(), out

        return hook

    hooks = [factor.register_forward_hook(keep(name)) for name, factor in factors.items()]
    try:
        nll = token_losses(model, flat, segments=segments)
    finally:
        for hook in hooks:
            hook.remove()
    each = torch.tensor([1 / max(1, count(row)) for row in rows], device=nll.device)
    loss = (nll * each[torch.from_numpy(flat.owner).to(nll.device)]).sum()
    grads = torch.autograd.grad(loss, [outputs[name] for name in names])
    return {name: _sums(grad[0], inputs[name][0], flat.lengths) for name, grad in zip(names, grads, strict=True)}


def _sums(out: Tensor, given: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return for each row the sum of outer products of its tokens, (rows, out * in) float32."""
    parts = zip(torch.split(out.float(), list(lengths)), torch.split(given.float(), list(lengths)), strict=True)
    return torch.stack([(g.T @ x).flatten() for g, x in parts])


class Signs:
    """Random signs (parameters, dims), the same for a seed on any machine and for any order of asking.

    Args:
        dims: columns.
        seed: of the draws.
        device: where products are made.
    """

    def __init__(self, dims: int, seed: int, device: torch.device) -> None:
        self.dims, self.seed, self.device = dims, seed, device
        self._kept: dict[int, Tensor] = {}

    def block(self, number: int) -> Tensor:
        """Return the signs of one block of parameters, (BLOCK, dims) int8."""
        if number in self._kept:
            return self._kept[number]
        draw = torch.Generator().manual_seed(seeds.stream(self.seed, f"signs {number}"))
        signs = torch.randint(0, 2, (BLOCK, self.dims), generator=draw, dtype=torch.int8).mul_(2).sub_(1)
        signs = signs.to(self.device)
        if (len(self._kept) + 1) * BLOCK * self.dims <= KEPT_SIGNS:
            self._kept[number] = signs
        return signs

    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return the gradients' products with the signs over sqrt(dims), (rows, dims); parameters by name."""
        whole = torch.cat([gradients[name] for name in sorted(gradients)], dim=1)
        found = torch.zeros(whole.shape[0], self.dims, device=self.device)
        for number, part in enumerate(torch.split(whole, BLOCK, dim=1)):
            found += part @ self.block(number)[: part.shape[1]].float()
        return found / math.sqrt(self.dims)
