"""The diagonal of a model's Fisher information on given rows, one value a weight.

    F_i = (1 / N) sum_n ( d/d theta_i  sum_t log p_theta(y_nt | x_n, t) )^2

over N rows and the supervised positions t of each. x_n, t is the row before the position. The square is taken of each
row's whole gradient, never of a mean over several rows.

labels ``sampled``   y_nt is drawn from p_theta(. | x_n, t), each position by itself. The terms of different positions
                     have mean 0 given what comes before them, so the cross terms vanish in expectation, and F estimates
                     the Fisher information of the answers' tokens without bias.
labels ``data``      y_nt is the row's own token: the empirical Fisher, which is another matrix (Kunstner, Balles and
                     Hennig, arXiv 1905.12558) and what many codes compute.

Source: Kirkpatrick et al., arXiv 1612.00796, section 2; Matena and Raffel, Merging Models with Fisher-Weighted
Averaging, arXiv 2111.09832, equations 5 and 6.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cuvee import preemption
from cuvee.engine import FISHER_FILE, loading
from cuvee.engine.disk import Checkpoints, Ticker, fingerprint, write_text
from cuvee.engine.flat import count, flatten
from cuvee.engine.loss import nll, supervised_logits
from cuvee.errors import StageFailed, UsageError, did_you_mean
from cuvee.protocols import Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime

LABELS = ("sampled", "data")


def fisher(
    model_folder: Path,
    rows: TokenRows,
    chosen: Sequence[int],
    draws: Sequence[int],
    settings: Mapping[str, Any],
    out: Path,
    runtime: Runtime,
    progress: Progress,
) -> dict[str, Any]:
    """Write the diagonal Fisher information of a model.

    Args:
        model_folder: the model, at whose weights it is taken.
        rows: the examples as token ids.
        chosen: indexes of the rows that count.
        draws: a seed of each of them, for ``sampled``.
        settings: labels (one of `LABELS`), precision (of the passes; squares are summed in float32).
        out: folder that gets `FISHER_FILE` and ``fisher.json``; one that was begun there is taken up.
        runtime: device and threads.
        progress: told {"step", "steps", "tokens"} about five times a second.

    Returns:
        rows, supervised_tokens, total_tokens, parameters, mean, largest, zeros (weights of value 0), seconds.

    Raises:
        ModelError: the model cannot be loaded or cannot take the rows.
        StageFailed: a gradient is not finite, or no row has a supervised token.
        Stopped: SIGTERM came; a checkpoint is written.
    """
    if settings["labels"] not in LABELS:
        raise UsageError(f"labels '{settings['labels']}' is not possible.{did_you_mean(settings['labels'], LABELS)}")
    loading.forget()
    loading.set_threads(runtime)
    loaded = loading.load(model_folder, settings["precision"], loading.device_of(runtime, progress))
    loaded.use(loaded.layout)
    asked = [(index, draw) for index, draw in zip(chosen, draws, strict=True) if count(rows[index])]
    if not asked:
        raise StageFailed("Fisher information of no row: none of those chosen has a supervised token")
    taken = _Sums(loaded, sampled=settings["labels"] == "sampled")
    start = time.monotonic()
    checkpoints = Checkpoints(out, fingerprint({**settings, "draws": list(draws)}, [chosen], len(rows)))
    _sum(taken, rows, asked, checkpoints, runtime, progress)
    found = taken.mean(len(asked))
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
        raise StageFailed("a gradient is not finite, so there is no Fisher information; look at the model and its rows")
    out.mkdir(parents=True, exist_ok=True)
    save_file(found, out / FISHER_FILE, {"format": "pt"})
    examples = [rows[index] for index, _ in asked]
    facts = {
        "rows": len(asked),
        "supervised_tokens": sum(map(count, examples)),
        "total_tokens": sum(len(row.ids) for row in examples),
        **_told(found),
        "seconds": time.monotonic() - start,
    }
    write_text(out / "fisher.json", json.dumps({**settings, **facts}, indent=1))
    checkpoints.clear()
    return facts


def _sum(
    taken: _Sums,
    rows: TokenRows,
    asked: Sequence[tuple[int, int]],
    checkpoints: Checkpoints,
    runtime: Runtime,
    progress: Progress,
) -> None:
    """Add all rows, from where an earlier try was."""
    before = checkpoints.newest(lambda text: progress({"note": text}))
    done = int(before[1]["step"]) if before else 0
    if before:
        taken.restore(before[0])
        progress({"note": f"resumed from row {done} of {len(asked)}"})
    ticker, last, took = Ticker(progress, len(asked)), time.monotonic(), 0.0
    with preemption.patient():
        for number, (index, draw) in enumerate(asked[done:], done + 1):
            taken.add(rows[index], draw)
            ticker.tick(number, len(rows[index].ids))
            every = runtime.checkpoint_steps and number % runtime.checkpoint_steps == 0
            begun = time.monotonic()
            # Those by time are written a tenth of it at most, however large the model.
            if preemption.asked() or every or begun - last > max(runtime.checkpoint_seconds, 10 * took):
                checkpoints.write(number, taken.save, {})
                last = time.monotonic()
                took = last - begun
            if preemption.asked():
                raise preemption.Stopped


class _Sums:
    """Squared gradients of one row after another."""

    def __init__(self, loaded: loading.Loaded, *, sampled: bool) -> None:
        self.loaded, self.model, self.sampled = loaded, loaded.model, sampled
        self.weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in self.weights.items()}

    def add(self, row: TokenRow, draw: int) -> None:
        """Add one row."""
        loading.check_fit(self.model, [row])
        flat = flatten([row], next(iter(self.weights.values())).device)
        logits = supervised_logits(self.model, flat, segments=self.loaded.layout == "flat")
        targets = _drawn(logits.detach(), draw) if self.sampled else flat.targets
        torch.autograd.backward(nll(logits, targets).sum())
        with torch.no_grad():
            for name, weight in self.weights.items():
                if weight.grad is not None:
                    self.sums[name] += weight.grad.float().square_()
                    weight.grad = None

    def save(self, folder: Path) -> None:
        """Write the sums."""
        save_file({name: total.cpu().contiguous() for name, total in self.sums.items()}, folder / "sums.safetensors")

    def restore(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        for name, total in load_file(folder / "sums.safetensors").items():
            self.sums[name].copy_(total)

    def mean(self, rows: int) -> dict[str, Tensor]:
        """Return the means over so many rows, on the host."""
        return {name: (total / rows).cpu().contiguous() for name, total in self.sums.items()}


def _drawn(logits: Tensor, draw: int) -> Tensor:
    """Return a token for each position (K,) from its distribution (K, V); the draws hang on `draw` alone."""
    uniform = torch.rand(len(logits), 1, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)
    below = logits.softmax(1, dtype=torch.float64).cumsum(1)
    places = torch.searchsorted(below, uniform.to(below.device) * below[:, -1:])[:, 0]
    return places.clamp_(max=logits.shape[1] - 1)


def _told(found: Mapping[str, Tensor]) -> dict[str, Any]:
    parameters = sum(tensor.numel() for tensor in found.values())
    return {
        "parameters": parameters,
        "mean": sum(float(tensor.sum(dtype=torch.float64)) for tensor in found.values()) / parameters,
        "largest": max(float(tensor.max()) for tensor in found.values()),
        "zeros": sum(int((tensor == 0).sum()) for tensor in found.values()),
    }
