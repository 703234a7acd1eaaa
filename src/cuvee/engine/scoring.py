"""Negative log-likelihood of rows under a model: flat batches of rows sorted by length, results in input order.

The longest rows are scored in both layouts: a model that only differs there would pass the short probe made when it is
loaded. Finished batches are written down as they come, so that a
stopped scoring goes on where it was. A prompt that several rows share goes through the model once (`prompts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuvee.engine import loading, prompts
from cuvee.engine.disk import Journal, Ticker
from cuvee.engine.flat import count, flatten
from cuvee.engine.generation import context
from cuvee.engine.head import has_body, plain_head, token_statistics
from cuvee.protocols import Likelihood, Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime

PROBED = 32
"""Tokens on which a model's head by itself is compared with the whole model."""

CPU_TOKENS = 1024
"""Tokens of a pass on a CPU: more of them leave its cache (3,900 against 3,300 tokens a second at 4,096)."""

COMPARED = 2
"""Rows, the longest, that are scored in both layouts."""

EVERY = 1 << 62
"""A journal is cut to its whole lines; all of them count."""


def score(
    model_folder: Path,
    rows: TokenRows,
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    part_names: Sequence[str] = (),
    entropy: bool = False,
    each: bool = False,
    journal: Path | None = None,
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
        entropy: sum up the entropies of the predictions of the supervised tokens as well.
        each: keep the loss of every supervised token as well.
        journal: file of the finished batches; what it holds already is not computed again. It must belong to the same
            model, rows and precision, as a stage's work folder does.

    Raises:
        ModelError: the model cannot be loaded or cannot take the rows.
    """
    scores: list[Likelihood | None] = [None] * len(rows)
    log = Journal(journal) if journal else None
    if log:
        _take_up(log, scores)
    left = [index for index, one in enumerate(scores) if one is None]
    if left:
        loading.set_threads(runtime)
        device = loading.device_of(runtime, progress)
        loaded = loading.cached(model_folder, precision, device)
        if loaded.layout == "flat" and not entropy and not each:  # a tree tells sums alone
            for index, one in _with_shared_prompts(
                loaded, model_folder, rows, left, runtime, progress, precision, journal
            ):
                scores[index] = one
            left = [index for index, one in enumerate(scores) if one is None]
        scorer = _Scorer(loaded, device, precision, progress, entropy, each)
        ticker, done = Ticker(progress, len(rows)), len(rows) - len(left)
        most = min(runtime.micro_tokens, CPU_TOKENS) if device.type == "cpu" else runtime.micro_tokens
        budget = most if loaded.layout == "flat" else 0
        with torch.inference_mode(), closing(log or _Nothing()):
            for batch in batches(rows, left, budget, COMPARED if budget else 0):
                examples = [rows[i] for i in batch]
                found = scorer.score(examples)
                for index, value in zip(batch, found, strict=True):
                    scores[index] = value
                if log:
                    log.append(_record(batch, found))
                done += len(batch)
                ticker.tick(done, sum(len(row.ids) for row in examples))
        if journal:
            _prompts_journal(journal).unlink(missing_ok=True)
    return [one for one in scores if one is not None]


def _with_shared_prompts(
    loaded: loading.Loaded,
    folder: Path,
    rows: TokenRows,
    asked: Sequence[int],
    runtime: Runtime,
    progress: Progress,
    precision: str,
    journal: Path | None,
) -> Iterable[tuple[int, Likelihood]]:
    """Return the scores of rows that share a prompt, where that saves enough, by their numbers."""
    found = prompts.groups(rows, asked, context(loaded.model))
    if not found:
        return ()
    kept = _prompts_journal(journal) if journal else None
    return prompts.score(folder, found, len(rows), runtime, progress, precision, kept).items()


def _prompts_journal(journal: Path) -> Path:
    return journal.with_suffix(".prompts.jsonl")


class _Nothing:
    """In place of a journal that nobody asked for."""

    def close(self) -> None:
        """Do nothing."""


def _record(batch: Sequence[int], found: Sequence[Likelihood]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "step": 0,
        "rows": list(batch),
        "nll": [one.nll for one in found],
        "tokens": [one.tokens for one in found],
    }
    if found[0].entropy is not None:
        record["entropy"] = [one.entropy for one in found]
    if found[0].losses is not None:
        record["losses"] = [list(one.losses or ()) for one in found]
    return record


def _take_up(log: Journal, scores: list[Likelihood | None]) -> None:
    """Fill in what an earlier attempt has scored; a line that a kill left unfinished is cut off."""
    if not log.path.exists():
        return
    log.cut(EVERY)
    for record in log.records():
        nothing = [None] * len(record["rows"])
        extra = (record.get(name, nothing) for name in ("entropy", "losses"))
        values = zip(record["nll"], record["tokens"], *extra, strict=True)
        for index, value in zip(record["rows"], values, strict=True):
            scores[index] = Likelihood(*value)


def batches(rows: TokenRows, asked: Sequence[int], budget: int, first: int = 0) -> Iterator[list[int]]:
    """Yield row indexes, longest first, in batches of at most `budget` tokens; at least one row each.

    The first batch has at least `first` rows with supervised tokens, whatever the budget: one segment by itself says
    nothing of how a model takes several.
    """
    known = getattr(rows, "lengths", None)
    lengths = {i: int(known[i]) if known is not None else len(rows[i].ids) for i in asked}
    batch: list[int] = []
    held, lacking = 0, first
    # Longest first: the largest forward pass comes at once, not after an hour.
    for index in sorted(asked, key=lambda i: -lengths[i]):
        if batch and lacking <= 0 and held + lengths[index] > budget:
            yield batch
            batch, held = [], 0
        batch.append(index)
        held += lengths[index]
        if lacking > 0:
            lacking -= count(rows[index]) > 0
    if batch:
        yield batch


class _Scorer:
    """Scores batches in the layout that the first one allows."""

    def __init__(
        self,
        loaded: loading.Loaded,
        device: torch.device,
        precision: str,
        progress: Progress,
        entropy: bool,
        each: bool,
    ) -> None:
        self.loaded, self.device, self.precision, self.progress = loaded, device, precision, progress
        self.entropy, self.each = entropy, each
        self.losses: list[list[float]] = []
        self.layout, self.chunked, self.tiled, self.checked = loaded.layout, False, False, False

    def score(self, examples: Sequence[TokenRow]) -> list[Likelihood]:
        """Score one batch; rows without supervised tokens take no part in it."""
        tokens = [count(row) for row in examples]
        asked = [number for number, n in enumerate(tokens) if n]
        sums = np.zeros((2, len(examples)))
        losses: list[list[float] | None] = [[] if self.each else None for _ in examples]
        if asked:
            rows = [examples[number] for number in asked]
            loading.check_fit(self.loaded.model, rows)
            sums[:, asked] = self._sums(rows) if self.checked else self._first(rows)
            for number, found in zip(asked, self.losses, strict=False):
                losses[number] = found
        entropies = sums[1].tolist() if self.entropy else [None] * len(examples)
        return [
            Likelihood(float(total), *rest) for total, *rest in zip(sums[0], tokens, entropies, losses, strict=True)
        ]

    def _first(self, rows: Sequence[TokenRow]) -> NDArray[np.float64]:
        """Score rows, the longest of them in both layouts, and stay with the single one where they differ."""
        self.checked = True
        self.chunked = self._head_agrees(rows[-1])
        if self.loaded.obstacle:
            return self._sums(rows)
        flat = self._sums(rows)
        self.layout = "single"
        single = self._sums(rows[:COMPARED])
        far = loading.distance(float(flat[0, :COMPARED].sum()), float(single[0].sum()))
        if not far <= loading.TOLERANCE[self.precision]:
            note = f"one example a forward pass: flat and single loss of the longest rows differ by {far:.1e}"
            self.progress({"note": note})
            return self._sums(rows) if self.each else self._joined(single, rows[COMPARED:])
        self.layout = "flat"
        return self._sums(rows) if self.each else flat

    def _joined(self, first: NDArray[np.float64], rest: Sequence[TokenRow]) -> NDArray[np.float64]:
        return np.concatenate([first, self._sums(rest)], axis=1) if rest else first

    def _head_agrees(self, row: TokenRow) -> bool:
        """Return whether body and head apart give what the model gives; looked at on the beginning of one row."""
        model = self.loaded.model
        if not has_body(model):
            return False
        ids = row.ids[:PROBED]
        flat = flatten([TokenRow(ids, [(0, len(ids))])], self.device)
        self.loaded.use("single")
        try:
            self.tiled = plain_head(model)
            apart, whole = (
                float(token_statistics(model, flat, segments=False, chunked=chunked, tiled=self.tiled)[0].sum())
                for chunked in (True, False)
            )
        except (AttributeError, TypeError, IndexError, KeyError, ValueError):
            return False  # a head that wants more than hidden states
        return loading.distance(apart, whole) <= loading.TOLERANCE[self.precision]

    def _sums(self, rows: Sequence[TokenRow]) -> NDArray[np.float64]:
        """Return each row's summed nll and entropy, (2, rows); entropies are 0 unless asked for.

        With `each`, `losses` are afterwards those of the rows' single tokens.
        """
        self.losses = []
        self.loaded.use(self.layout)
        groups = [rows] if self.layout == "flat" else [[row] for row in rows]
        found = []
        for group in groups:
            flat = flatten(group, self.device)
            nll, entropy = token_statistics(
                self.loaded.model,
                flat,
                segments=self.layout == "flat",
                chunked=self.chunked,
                tiled=self.tiled,
                entropy=self.entropy,
            )
            sums = np.zeros((2, len(group)))
            for line, values in zip(sums, (nll, entropy), strict=True):
                if values is not None:
                    line[:] = np.bincount(flat.owner, weights=values.cpu().numpy(), minlength=len(group))
            found.append(sums)
            if self.each:
                ends = np.cumsum(np.bincount(flat.owner, minlength=len(group)))[:-1]
                self.losses += [part.tolist() for part in np.split(nll.cpu().numpy(), ends)]
        return np.concatenate(found, axis=1)
