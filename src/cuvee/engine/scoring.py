"""Negative log-likelihood of rows under a model: flat batches of rows sorted by length, results in input order.

The longest row is scored in both layouts, flat between two others: a model that only differs there would pass the short
probe made when it is loaded. Where the layouts have agreed on a row as long, that is enough for the loaded model.
Finished batches are written down as they come with the layout they had, so that a stopped scoring goes on where it was
and as it was. A prompt that several rows share goes through the model once (`prompts`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

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

TOGETHER = 3
"""Rows that the first batch has at least: the longest, which is scored in both layouts, one before it, one behind."""

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
    begun = _take_up(log, scores) if log else {}
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
        scorer.go_on(begun)
        ticker, done = Ticker(progress, len(rows)), len(rows) - len(left)
        most = min(runtime.micro_tokens, CPU_TOKENS) if device.type == "cpu" else runtime.micro_tokens
        budget = most if loaded.layout == "flat" else 0
        with torch.inference_mode(), closing(log or _Nothing()):
            for batch in batches(rows, left, budget, TOGETHER if budget and not scorer.checked else 0):
                examples = [rows[i] for i in batch]
                found = scorer.score(examples)
                for index, value in zip(batch, found, strict=True):
                    scores[index] = value
                if log:
                    log.append({**_record(batch, found), **scorer.how()})
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


def _take_up(log: Journal, scores: list[Likelihood | None]) -> dict[str, Any]:
    """Fill in what an earlier attempt has scored and return its last line; a line left unfinished is cut off."""
    record: dict[str, Any] = {}
    if not log.path.exists():
        return record
    log.cut(EVERY)
    for record in log.records():
        nothing = [None] * len(record["rows"])
        extra = (record.get(name, nothing) for name in ("entropy", "losses"))
        values = zip(record["nll"], record["tokens"], *extra, strict=True)
        for index, value in zip(record["rows"], values, strict=True):
            scores[index] = Likelihood(*value)
    return record


def batches(rows: TokenRows, asked: Sequence[int], budget: int, first: int = 0) -> Iterator[list[int]]:
    """Yield row indexes, longest first, in batches of at most `budget` tokens; at least one row each.

    The first batch has at least `first` rows with supervised tokens: where the budget is too small for them, the
    shortest ones keep the longest company.
    """
    known = getattr(rows, "lengths", None)
    lengths = {i: int(known[i]) if known is not None else len(rows[i].ids) for i in asked}
    batch: list[int] = []
    held, lacking = 0, first
    # Longest first: the largest forward pass comes at once, not after an hour.
    order = deque(sorted(asked, key=lambda i: -lengths[i]))
    while order:
        full = batch and held + lengths[order[0]] > budget
        if full and lacking <= 0:
            yield batch
            batch, held = [], 0
        index = order.pop() if full and lacking > 0 else order.popleft()
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
        self.layout, self.chunked, self.tiled, self.checked = loaded.layout, False, False, False

    def how(self) -> dict[str, Any]:
        """Return how rows are scored since the first batch, for the journal."""
        return {"layout": self.layout, "chunked": self.chunked}

    def go_on(self, how: Mapping[str, Any]) -> None:
        """Score as an earlier attempt on the same rows did, so that a stop changes nothing."""
        if "layout" in how and not (how["layout"] == "flat" and self.loaded.obstacle):
            self.layout, self.chunked, self.checked = how["layout"], how["chunked"], True
            self.tiled = self.chunked and plain_head(self.loaded.model)

    def score(self, examples: Sequence[TokenRow]) -> list[Likelihood]:
        """Score one batch; rows without supervised tokens take no part in it."""
        found = [Likelihood(0.0, 0, 0.0 if self.entropy else None, [] if self.each else None)] * len(examples)
        asked = [number for number, row in enumerate(examples) if count(row)]
        if asked:
            rows = [examples[number] for number in asked]
            loading.check_fit(self.loaded.model, rows)
            for number, one in zip(asked, self._scored(rows) if self.checked else self._first(rows), strict=True):
                found[number] = one
        return found

    def _first(self, rows: Sequence[TokenRow]) -> list[Likelihood]:
        """Score rows, the longest in both layouts unless one as long was, and stay with the single one if they differ.

        A longest row by itself is no case for segments, and has nothing to be compared with.
        """
        self.checked = True
        self.chunked = self._head_agrees(rows[-1])
        if self.loaded.obstacle or len(rows) == 1:
            self.layout = "single"
            return self._scored(rows)
        second, longest, *rest = self._scored([rows[1], rows[0], *rows[2:]])
        if len(rows[0].ids) > self.loaded.agreed:
            self.layout = "single"
            alone = self._scored(rows[:1])
            far = loading.distance(longest.nll, alone[0].nll)
            if not far <= loading.TOLERANCE[self.precision]:
                note = f"one example a forward pass: flat and single loss of the longest row differ by {far:.1e}"
                self.progress({"note": note})
                return alone + self._scored(rows[1:])
            self.layout = "flat"
            if math.isfinite(alone[0].nll):  # else nothing was compared
                self.loaded.agreed = len(rows[0].ids)
        return [longest, second, *rest]

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

    def _scored(self, rows: Sequence[TokenRow]) -> list[Likelihood]:
        """Return the likelihoods of rows with supervised tokens, in the layout that holds."""
        self.loaded.use(self.layout)
        groups = [rows] if self.layout == "flat" else [[row] for row in rows]
        return [one for group in groups for one in self._pass(group)]

    def _pass(self, rows: Sequence[TokenRow]) -> Iterator[Likelihood]:
        """Yield the likelihoods of the rows of one forward pass."""
        flat = flatten(rows, self.device)
        nll, entropy = token_statistics(
            self.loaded.model,
            flat,
            segments=self.layout == "flat",
            chunked=self.chunked,
            tiled=self.tiled,
            entropy=self.entropy,
        )
        tokens = np.bincount(flat.owner, minlength=len(rows))
        ends = np.cumsum(tokens)[:-1]
        losses = np.split(nll.cpu().numpy(), ends)
        entropies = np.split(entropy.cpu().numpy(), ends) if entropy is not None else [None] * len(rows)
        for own, doubts in zip(losses, entropies, strict=True):
            yield Likelihood(
                float(own.sum(dtype=np.float64)),
                len(own),
                None if doubts is None else float(doubts.sum(dtype=np.float64)),
                own.tolist() if self.each else None,
            )
