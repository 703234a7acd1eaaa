"""A vector for each row: its hidden states at one layer, pooled, of length 1.

    last_token       h_T
    mean             1/T sum_i h_i
    weighted_mean    sum_i (i / sum_j j) h_i, positions from 1        (RDS+, Ivison et al., arXiv 2503.01807)

Rows go through the model as in `scoring`: flat batches without padding, the longest first. What is finished is written
down, so that a stopped pass goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuvee.engine import attention, loading
from cuvee.engine.disk import Journal, Ticker
from cuvee.engine.flat import Flat, flatten
from cuvee.engine.scoring import EVERY, batches
from cuvee.errors import ModelError, did_you_mean
from cuvee.protocols import Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime

POOLINGS = ("weighted_mean", "mean", "last_token")


def embed(
    model_folder: Path,
    rows: TokenRows,
    out: Path,
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    layer: int = -1,
    pooling: str = "weighted_mean",
    journal: Path | None = None,
    part_names: Sequence[str] = (),
) -> int:
    """Write the vectors of all rows, (rows, width) float32, and return their width.

    Args:
        model_folder: a Hugging Face folder.
        rows: token rows; one without tokens has the vector 0.
        out: the ``.npy`` file, which memory maps.
        runtime: device, threads, tokens a forward pass.
        progress: told how far it is.
        precision: ``float32`` or ``bfloat16``.
        layer: index into the model's hidden states, 0 the embeddings, -1 the last.
        pooling: one of `POOLINGS`, over all tokens of the row.
        journal: file of the finished batches.
        part_names: not used here; the fake engine needs it.

    Raises:
        ModelError: the model cannot be loaded, has no such layer or no body to ask.
    """
    if pooling not in POOLINGS:
        raise ModelError(f"pooling '{pooling}' is not possible.{did_you_mean(pooling, POOLINGS)}")
    loading.set_threads(runtime)
    device = loading.device_of(runtime, progress)
    loaded = loading.cached(model_folder, precision, device)
    config = loaded.model.config.get_text_config()
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    if not -layers - 1 <= layer <= layers:
        raise ModelError(f"layer {layer}: the model has layers 0 (embeddings) to {layers}, or -1 to {-layers - 1}")
    log, left = Journal(journal or out.with_suffix(".jsonl")), unfinished(rows, out, journal)
    mode: Any = "r+" if out.exists() and len(left) < len(rows) else "w+"
    found = np.lib.format.open_memmap(out, mode, np.float32, (len(rows), width))
    ticker, done = Ticker(progress, len(rows)), len(rows) - len(left)
    flat = loaded.layout == "flat"
    loaded.use(loaded.layout)
    with torch.inference_mode(), closing(log):
        for batch in batches(rows, left, runtime.micro_tokens if flat else 0):
            examples = [rows[i] for i in batch]
            loading.check_fit(loaded.model, examples)
            found[batch] = _vectors(loaded.model, examples, device, flat, layer, pooling)
            found.flush()
            log.append({"step": 0, "rows": list(batch)})
            done += len(batch)
            ticker.tick(done, sum(len(row.ids) for row in examples))
    if journal is None:
        log.path.unlink(missing_ok=True)
    return width


def unfinished(rows: TokenRows, out: Path, journal: Path | None) -> list[int]:
    """Return the rows that no earlier attempt has finished."""
    if journal is None or not journal.exists() or not out.exists():
        return list(range(len(rows)))
    log = Journal(journal)
    log.cut(EVERY)
    done = {index for record in log.records() for index in record["rows"]}
    return [index for index in range(len(rows)) if index not in done]


def _vectors(
    model: Any, rows: Sequence[TokenRow], device: torch.device, flat: bool, layer: int, pooling: str
) -> NDArray[np.float32]:
    groups = [rows] if flat else [[row] for row in rows]
    return np.concatenate([_pooled(model, flatten(group, device), flat, layer, pooling) for group in groups])


def _pooled(model: Any, flat: Flat, segments: bool, layer: int, pooling: str) -> NDArray[np.float32]:
    extra: dict[str, Any] = {}
    if segments:
        extra = {attention.NAME: flat.lengths, "position_ids": flat.positions}
    last = layer == -1
    found = model.base_model(input_ids=flat.ids, use_cache=False, output_hidden_states=not last, **extra)
    states: Tensor = (found.last_hidden_state if last else found.hidden_states[layer])[0].float()
    lengths = torch.tensor(flat.lengths, device=states.device)
    weights = _weights(flat.positions[0], lengths, pooling)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    pooled = torch.zeros(len(lengths), states.shape[1], device=states.device)
    pooled.index_add_(0, owner, states * weights[:, None])
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
    return vectors


def _weights(positions: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Return each token's weight, (T,); any factor of a whole row falls away when its vector gets length 1."""
    if pooling == "mean":
        return torch.ones_like(positions, dtype=torch.float32)
    if pooling == "weighted_mean":
        return positions.float() + 1
    ends = torch.repeat_interleave(lengths, lengths) - 1
    return (positions == ends).float()
