"""Negative log-likelihood of rows under a model: flat batches of rows sorted by length, results in input order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from cuvee.engine import loading
from cuvee.engine.disk import Ticker
from cuvee.engine.flat import count, flatten
from cuvee.engine.loss import token_losses
from cuvee.protocols import Likelihood, Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime


def score(
    model_folder: Path,
    rows: TokenRows,
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    part_names: Sequence[str] = (),
) -> list[Likelihood]:
    """Return the summed nll (nats) over the supervised tokens of every row, in input order.

    Args:
        model_folder: a Hugging Face folder; the last one used stays in memory.
        rows: token rows; one without supervised tokens scores 0 over 0 tokens.
        runtime: device, threads, tokens a forward pass.
        progress: told {"step", "steps", "tokens", ...} in rows about five times a second.
        precision: ``float32`` or ``bfloat16``.
        part_names: not used here; the fake engine needs it.

    Raises:
        ModelError: the model cannot be loaded or cannot take the rows.
    """
    loading.set_threads(runtime)
    device = loading.device_of(runtime)
    loaded = loading.cached(model_folder, precision, device)
    loaded.use(loaded.layout)
    scores = [Likelihood(0.0, 0)] * len(rows)
    ticker, done = Ticker(progress, len(rows)), 0
    with torch.inference_mode():
        for batch in _batches(rows, runtime.micro_tokens if loaded.layout == "flat" else 0):
            examples = [rows[i] for i in batch]
            for index, value in zip(batch, _batch(loaded, examples, device), strict=True):
                scores[index] = value
            done += len(batch)
            ticker.tick(done, sum(len(row.ids) for row in examples))
    return scores


def _batches(rows: TokenRows, budget: int) -> Iterator[list[int]]:
    """Yield row indexes, longest first, in batches of at most `budget` tokens; at least one row each."""
    lengths = [len(rows[i].ids) for i in range(len(rows))]
    batch: list[int] = []
    held = 0
    # Longest first: the largest forward pass comes at once, not after an hour.
    for index in sorted(range(len(rows)), key=lambda i: -lengths[i]):
        if batch and held + lengths[index] > budget:
            yield batch
            batch, held = [], 0
        batch.append(index)
        held += lengths[index]
    if batch:
        yield batch


def _batch(loaded: loading.Loaded, examples: Sequence[TokenRow], device: torch.device) -> list[Likelihood]:
    """Score one forward pass; rows without supervised tokens take no part in it."""
    tokens = [count(row) for row in examples]
    asked = [number for number, n in enumerate(tokens) if n]
    sums = np.zeros(len(examples))
    if asked:
        rows = [examples[number] for number in asked]
        loading.check_fit(loaded.model, rows)
        flat = flatten(rows, device)
        nll = token_losses(loaded.model, flat, segments=loaded.layout == "flat").cpu().numpy()
        sums[asked] = np.bincount(flat.owner, weights=nll, minlength=len(rows))
    return [Likelihood(float(total), n) for total, n in zip(sums, tokens, strict=True)]
