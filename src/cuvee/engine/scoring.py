"""Negative log-likelihood of rows under a model: flat batches of rows sorted by length, results in input order.

The first batch is scored in both layouts, as a training does: its rows are the longest, and a model that only differs
there would pass the short probe made when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

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
        progress: told {"step", "steps", "tokens", ...} in rows about five times a second and {"note"} when something
            is worth saying.
        precision: ``float32`` or ``bfloat16``.
        part_names: not used here; the fake engine needs it.

    Raises:
        ModelError: the model cannot be loaded or cannot take the rows.
    """
    loading.set_threads(runtime)
    device = loading.device_of(runtime, progress)
    loaded = loading.cached(model_folder, precision, device)
    scorer = _Scorer(loaded, device, precision, progress)
    scores = [Likelihood(0.0, 0)] * len(rows)
    ticker, done = Ticker(progress, len(rows)), 0
    with torch.inference_mode():
        for batch in _batches(rows, runtime.micro_tokens if loaded.layout == "flat" else 0):
            examples = [rows[i] for i in batch]
            for index, value in zip(batch, scorer.score(examples), strict=True):
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


class _Scorer:
    """Scores batches in the layout that the first one allows."""

    def __init__(self, loaded: loading.Loaded, device: torch.device, precision: str, progress: Progress) -> None:
        self.loaded, self.device, self.precision, self.progress = loaded, device, precision, progress
        self.layout, self.checked = loaded.layout, bool(loaded.obstacle)

    def score(self, examples: Sequence[TokenRow]) -> list[Likelihood]:
        """Score one batch; rows without supervised tokens take no part in it."""
        tokens = [count(row) for row in examples]
        asked = [number for number, n in enumerate(tokens) if n]
        sums = np.zeros(len(examples))
        if asked:
            rows = [examples[number] for number in asked]
            loading.check_fit(self.loaded.model, rows)
            sums[asked] = self._sums(rows) if self.checked else self._first(rows)
        return [Likelihood(float(total), n) for total, n in zip(sums, tokens, strict=True)]

    def _first(self, rows: Sequence[TokenRow]) -> NDArray[np.float64]:
        """Score rows in both layouts, and stay with the single one where they differ."""
        self.checked = True
        flat = self._sums(rows)
        self.layout = "single"
        single = self._sums(rows)
        far = loading.distance(float(flat.sum()), float(single.sum()))
        if not far <= loading.TOLERANCE[self.precision]:
            note = f"one example a forward pass: flat and single loss of the first batch differ by {far:.1e}"
            self.progress({"note": note})
            return single
        self.layout = "flat"
        return flat

    def _sums(self, rows: Sequence[TokenRow]) -> NDArray[np.float64]:
        """Return each row's summed nll."""
        self.loaded.use(self.layout)
        groups = [rows] if self.layout == "flat" else [[row] for row in rows]
        found = []
        for group in groups:
            flat = flatten(group, self.device)
            nll = token_losses(self.loaded.model, flat, segments=self.layout == "flat").cpu().numpy()
            found.append(np.bincount(flat.owner, weights=nll, minlength=len(group)))
        return np.concatenate(found)
