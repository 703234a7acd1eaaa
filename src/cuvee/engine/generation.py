"""Greedy answers: batches sorted by length, key-value cache, finished rows leave the batch.

Prompts of one batch are padded on the left; padding is masked and positions count real tokens only, so a
row's answer is that of the prompt alone up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cuvee.engine import loading
from cuvee.engine.disk import Ticker
from cuvee.engine.loss import takes_positions
from cuvee.errors import StageFailed, UsageError
from cuvee.protocols import Progress, Reply, TokenRow
from cuvee.runtime import Runtime

ROWS = 128
"""Most prompts at once: wider was no faster on a CPU for a model of 1.5 million parameters (4.1 to 4.3 CPU
seconds for 600 answers of 32 tokens at 64, 128, 256 and 600 rows; 5.1 at 32)."""

CACHE_FACTOR = 8
"""Tokens held in the cache at most, as a multiple of runtime.micro_tokens: a cached token costs far less
memory than one in a training pass, which keeps all its activations."""


def generate(
    model_folder: Path,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    references: Sequence[Sequence[int]] = (),
    ability: str = "",
) -> list[Reply]:
    """Return the greedy answer to every prompt, in input order.

    Args:
        model_folder: a Hugging Face folder; the last one used stays in memory.
        prompts: token ids, at least one each.
        max_new_tokens: most tokens of an answer, its stop token included.
        stop_ids: tokens that end an answer; they are not part of it.
        runtime: device, threads, tokens a pass.
        progress: told {"step", "steps", "tokens", ...} in prompts about five times a second.
        precision: ``float32`` or ``bfloat16``.
        references, ability: not used here; the fake engine needs them.

    Raises:
        ModelError: the model cannot be loaded or cannot take the prompts.
        StageFailed: a prompt is empty or leaves no room for an answer.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    loading.set_threads(runtime)
    device = loading.device_of(runtime, progress)
    loaded = loading.cached(model_folder, precision, device)
    loaded.use("single")  # the stock attention: it knows caches and padding
    _check_prompts(loaded.model, prompts)
    stops = frozenset(int(i) for i in stop_ids)
    replies: list[Reply] = [Reply((), "length")] * len(prompts)
    ticker, done = Ticker(progress, len(prompts)), 0
    with torch.inference_mode():
        for batch in _batches([len(p) for p in prompts], max_new_tokens, runtime.micro_tokens):
            for row in _answers(loaded.model, [prompts[i] for i in batch], max_new_tokens, stops, device):
                index = batch[row.number]
                replies[index] = Reply(tuple(row.ids), row.finish)
                done += 1
                ticker.tick(done, len(prompts[index]) + len(row.ids))
    return replies


def _check_prompts(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    limit = loading.position_limit(model)
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise StageFailed(f"prompt {number} is empty; a prompt needs at least one token", stage="generate")
        if len(prompt) >= limit:
            raise StageFailed(
                f"prompt {number} has {len(prompt)} tokens and the model positions for {limit}: no room for an answer",
                stage="generate",
            )
    loading.check_fit(model, (TokenRow(prompt, ()) for prompt in prompts))


def _batches(lengths: Sequence[int], new: int, micro_tokens: int) -> Iterator[list[int]]:
    """Yield prompt numbers, longest first; a batch's prompts and answers fit the cache."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        most = lengths[order[0]] + new
        rows = max(1, min(ROWS, CACHE_FACTOR * micro_tokens // most))
        yield order[:rows]
        order = order[rows:]


@dataclass
class _Row:
    """One prompt on its way; `room` is how many tokens it may still get."""

    number: int
    room: int
    ids: list[int] = field(default_factory=list)
    finish: str = ""

    def take(self, token: int, stops: frozenset[int]) -> bool:
        """Take the next token; return whether the row goes on."""
        self.room -= 1
        if token in stops:
            self.finish = "stop"
            return False
        self.ids.append(token)
        self.finish = "" if self.room else "length"
        return not self.finish


class _Batch:
    """Unfinished rows with their padding mask, next inputs, positions and cache."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.model = model
        self.inputs, self.mask = _left_padded(prompts, device)
        self.positions = (self.mask.cumsum(1) - 1).clamp_min_(0)
        self.cache: Any = None
        self.extra = {"logits_to_keep": 1} if takes_positions(model) else {}

    def next_tokens(self) -> Tensor:
        """Return the most likely next token of each row, (rows,)."""
        result = self.model(
            input_ids=self.inputs,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            **self.extra,
        )
        self.cache = result.past_key_values
        return torch.as_tensor(result.logits[:, -1].argmax(-1))

    def advance(self, tokens: Tensor, kept: Sequence[int]) -> None:
        """Feed the new tokens of the rows that go on; the others leave the batch and the cache."""
        positions = self.positions[:, -1:]
        if len(kept) < len(tokens):
            index = torch.tensor(kept, device=tokens.device)
            tokens, positions, self.mask = (t.index_select(0, index) for t in (tokens, positions, self.mask))
            self.cache.batch_select_indices(index)
        self.inputs, self.positions = tokens[:, None], positions + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(kept), 1)], 1)


def _answers(
    model: Any, prompts: Sequence[Sequence[int]], most: int, stops: frozenset[int], device: torch.device
) -> Iterator[_Row]:
    """Yield each prompt's answer as soon as it is finished; `most` passes end them all."""
    limit = loading.position_limit(model)
    live = [_Row(number, min(most, limit - len(prompt))) for number, prompt in enumerate(prompts)]
    batch = _Batch(model, prompts, device)
    for _ in range(most):
        tokens = batch.next_tokens()
        going = [row.take(token, stops) for row, token in zip(live, tokens.tolist(), strict=True)]
        yield from (row for row, on in zip(live, going, strict=True) if not on)
        live = [row for row, on in zip(live, going, strict=True) if on]
        if not live:
            return
        batch.advance(tokens, [place for place, on in enumerate(going) if on])


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, (rows, longest) int64; the padding's own id is never looked at."""
    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
