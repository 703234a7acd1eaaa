"""A key-value cache of slots, and the attention of one forward pass over it.

A pass is one flat row without padding (see `attention`): first one new token of each row that is being written, then
the prompts that begin. The keys and values of both go into the slots; a row being written attends to its slot, a prompt
to itself, or to its slot too where a part of it was there already.

    slot 0  7 8 9 . .      pass  [4] [3] [5 6]      rows in slots 0 and 1 get tokens 4 and 3,
    slot 1  5 1 . . .                               prompt [5 6] begins in slot 2
    slot 2  . . . . .

Slots of rows being written are always the first ones: attention reads them in place, nothing is gathered or joined.
Whatever transformers' attention interface passes through reaches this cache; the model itself is the stock one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from cuvee.engine import attention

NAME = "cuvee_cache"
"""Name of the attention function and of the keyword that carries the pass."""

GROUP = 16
"""Rows of one attention call on a CPU; a call reads as far as its longest row reaches. Of 64 rows with 100 to 300
tokens, groups of 16 took 1.9 ms a layer, of 64 2.5 ms, of 1 4.6 ms. A GPU takes all rows in one call."""


class Slots:
    """Keys and values of every attention layer, (slots, key heads, capacity, head size) each.

    Args:
        count: slots.
        capacity: tokens a slot has room for.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.count, self.capacity = count, capacity
        self._layers: dict[torch.nn.Module, tuple[Tensor, Tensor]] = {}

    def of(self, layer: torch.nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, made at its first use in the shape of what it gives."""
        if layer not in self._layers:
            # Zeros, as a masked place is still multiplied: what lies there must be finite.
            self._layers[layer] = (self._empty(key), self._empty(value))
        return self._layers[layer]

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.count, like.shape[1], self.capacity, like.shape[3])

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of one slot to another."""
        if source != target:
            for pair in self._layers.values():
                for tensor in pair:
                    tensor[target, :, :tokens] = tensor[source, :, :tokens]

    def resize(self, count: int, capacity: int) -> None:
        """Change the number of slots and their room; what the first slots hold stays."""
        rows, room = min(count, self.count), min(capacity, self.capacity)
        self.count, self.capacity = count, capacity
        for layer, pair in self._layers.items():
            key, value = self._empty(pair[0]), self._empty(pair[1])
            key[:rows, :, :room], value[:rows, :, :room] = (tensor[:rows, :, :room] for tensor in pair)
            self._layers[layer] = (key, value)


@dataclass(frozen=True)
class Begin:
    """A prompt that begins in a slot; its first `past` tokens are there already, `new` of them are in the pass."""

    slot: int
    past: int
    new: int


@dataclass
class Pass:
    """One forward pass: where its tokens belong.

    Args:
        slots: the cache.
        lengths: tokens that slots 0, 1, ... hold already; each of these rows has one token in the pass.
        begins: the prompts after them, in the order of their tokens.
        device: of the model.
    """

    slots: Slots
    lengths: Sequence[int]
    begins: Sequence[Begin]
    device: torch.device
    _masks: dict[Any, Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.lengths)
        step = GROUP if self.device.type == "cpu" else max(rows, 1)
        self.groups = [range(at, min(at + step, rows)) for at in range(0, rows, step)]
        self.rows = torch.arange(rows, device=self.device)
        self.places = torch.tensor(self.lengths, dtype=torch.int64).to(self.device)

    def positions(self) -> Tensor:
        """Return the position of every token, (1, T) int64."""
        places = [*self.lengths, *(place for b in self.begins for place in range(b.past, b.past + b.new))]
        return torch.tensor([places], dtype=torch.int64).to(self.device)

    def last(self) -> Tensor:
        """Return the index of each row's last token in the pass, (rows,) int64."""
        ends = accumulate((begin.new for begin in self.begins), initial=len(self.lengths) - 1)
        next(ends)
        return torch.tensor([*range(len(self.lengths)), *ends], dtype=torch.int64).to(self.device)

    def mask(self, places: range | Sequence[int], window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to the scores of queries at `places`, (queries, most + 1); None where they see all."""
        first, most = min(places), max(places)
        if first == most and (window is None or most < window):
            return None
        key = (tuple(places), window, dtype)
        if key not in self._masks:
            seen = torch.arange(most + 1, device=self.device)[None]
            own = torch.tensor(places, dtype=torch.int64).to(self.device)[:, None]
            hidden = seen > own if window is None else (seen > own) | (seen <= own - window)
            zeros = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
            self._masks[key] = zeros.masked_fill_(hidden, float("-inf"))
        return self._masks[key]


def cache_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of one pass; shapes and arguments as in `attention.segment_attention`.

    Args:
        kwargs: must hold the `Pass` under `NAME`.

    Raises:
        attention.Unsupported: when the pass did not arrive.
    """
    now: Pass | None = kwargs.pop(NAME, None)
    if now is None:
        raise attention.Unsupported("the pass did not reach the attention layer")
    how = _How(scaling, sliding_window, softcap)
    slots = now.slots.of(module, key, value)
    _store(now, slots, key[0], value[0])
    outputs = [_rows(now, query, group, slots, how) for group in now.groups]
    at, more = len(now.lengths), {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, **kwargs}
    for fresh, run in groupby(now.begins, lambda begin: not begin.past):
        begins = list(run)
        part = slice(at, at + sum(begin.new for begin in begins))
        at = part.stop
        if fresh:
            more[attention.NAME] = tuple(begin.new for begin in begins)
            q, k, v = (tensor[:, :, part] for tensor in (query, key, value))
            outputs.append(attention.segment_attention(module, q, k, v, attention_mask, **more)[0][0])
        else:
            outputs += _continued(now, query[:, :, part], begins, slots, how)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


class _How(NamedTuple):
    """What a layer asks of its attention."""

    scaling: float | None
    window: int | None
    softcap: float | None


def _store(now: Pass, slots: tuple[Tensor, Tensor], key: Tensor, value: Tensor) -> None:
    """Put the pass's keys and values, (key heads, T, size) each, where they belong."""
    rows = len(now.lengths)
    for held, new in zip(slots, (key, value), strict=True):
        if rows:
            held[now.rows, :, now.places] = new[:, :rows].transpose(0, 1)
        at = rows
        for begin in now.begins:
            held[begin.slot, :, begin.past : begin.past + begin.new] = new[:, at : at + begin.new]
            at += begin.new


def _rows(now: Pass, query: Tensor, group: range, slots: tuple[Tensor, Tensor], how: _How) -> Tensor:
    """Attend from one token of each row of a group to its slot: (rows, heads, value size)."""
    part = slice(group.start, group.stop)
    places = now.lengths[part]
    k, v = (tensor[part, :, : max(places) + 1] for tensor in slots)
    mask = now.mask(places, how.window, query.dtype)
    q = query[0, :, part].transpose(0, 1)[:, :, None]
    return _attend(q, k, v, None if mask is None else mask[:, None, None], how)[:, 0]


def _continued(
    now: Pass, query: Tensor, begins: Sequence[Begin], slots: tuple[Tensor, Tensor], how: _How
) -> Iterator[Tensor]:
    """Attend from the rest of each prompt to the part that was there and itself: (new, heads, value size) each."""
    at = 0
    for begin in begins:
        places = range(begin.past, begin.past + begin.new)
        k, v = (tensor[begin.slot, None, :, : places.stop] for tensor in slots)
        mask = now.mask(places, how.window, query.dtype)
        yield _attend(query[:, :, at : at + begin.new], k, v, mask, how)[0]
        at += begin.new


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, how: _How) -> Tensor:
    """(rows, heads, new, size) over (rows, key heads, held, size) gives (rows, new, heads, value size).

    Heads that share a key head become further queries of it: the keys are read once, not once a head.
    """
    rows, heads, new, _ = query.shape
    shared = heads // key.shape[1]
    folded = query.reshape(rows, key.shape[1], shared * new, -1)
    if mask is not None and new > 1:
        mask = mask.repeat(shared, 1)
    if how.softcap is None:
        out = functional.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=how.scaling)
    else:
        scale = query.shape[-1] ** -0.5 if how.scaling is None else how.scaling
        scores = torch.tanh(folded @ key.transpose(-1, -2) * (scale / how.softcap)) * how.softcap
        scores = scores if mask is None else scores + mask
        out = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    return out.view(rows, heads, new, -1).transpose(1, 2)


AttentionInterface.register(NAME, cache_attention)  # type: ignore[no-untyped-call,unused-ignore]
