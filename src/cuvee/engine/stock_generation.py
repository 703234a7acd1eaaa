"""Answers by transformers' own `generate`, for what our loop cannot feed: recurrent layers, position biases, sinks.

Prompts of one length make a batch, so nothing is ever padded: any architecture computes what it computes for one alone.
Which token comes next is decided by `sampling.choose`, as in our own loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from cuvee.engine.answer import Row
from cuvee.engine.decoding import Decoding
from cuvee.engine.sampling import choose
from cuvee.errors import ModelError


class _Chooser(LogitsProcessor):  # type: ignore[misc,unused-ignore]
    """Leaves only the token that `choose` picks."""

    def __init__(self, rows: Sequence[Row], length: int, settings: Decoding) -> None:
        self.rows, self.length, self.settings = rows, length, settings

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        position = input_ids.shape[1] - self.length
        draws = [row.draw(position) for row in self.rows]
        tokens = choose(scores, draws, self.settings)
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens[:, None], 0.0)


def generate(model: Any, rows: Sequence[Row], settings: Decoding, stops: Sequence[int], budget: int) -> Iterator[Row]:
    """Yield each row when its batch is finished.

    Args:
        model: on its stock attention.
        rows: answers to be written, the longest prompt first.
        settings: how tokens are chosen.
        stops: tokens that end an answer.
        budget: tokens of prompts and answers of one batch.
    """
    for length, group in groupby(rows, lambda row: len(row.prompt.ids)):
        waiting = list(group)
        most = max(1, budget // (length + settings.max_new_tokens))
        for at in range(0, len(waiting), most):
            yield from _batch(model, waiting[at : at + most], settings, stops)


def _batch(model: Any, rows: Sequence[Row], settings: Decoding, stops: Sequence[int]) -> Iterator[Row]:
    ids = torch.tensor([list(map(int, row.prompt.ids)) for row in rows], device=model.device)
    own = model.generation_config
    # A model folder may bring penalties and a temperature of its own, which generate would mix in.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call,unused-ignore]
        max_new_tokens=rows[0].room, do_sample=False, eos_token_id=list(stops) or None, pad_token_id=0
    )
    try:
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=LogitsProcessorList([_Chooser(rows, ids.shape[1], settings)]),
        )
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"transformers cannot generate with this model: {first}") from error
    finally:
        model.generation_config = own
    for row, tokens in zip(rows, found[:, ids.shape[1] :].tolist(), strict=True):
        next(token for token in tokens if not row.take(token))
        yield row
