"""Answers of a model: a table of slots, one flat forward pass a step, finished rows refilled at once.

A step feeds one token of every row that is being written and, where slots are free, the prompts that come next (see
`kv_cache`). A prompt that begins like one whose keys and values lie in a slot takes them over: several samples of a
prompt, or the same shots before every question, are computed once. Where the table grows out of its memory, the last
rows go back to the queue with what they have.

Source: refilling by iteration is from Orca (Yu et al. 2022, section 3); returning rows to the queue and computing them
again is one of the two ways of vLLM (Kwon et al. 2023, section 4.5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuvee.engine import attention, decoding, kv_cache, loading, stock_generation
from cuvee.engine.answer import Row
from cuvee.engine.columns import by_column
from cuvee.engine.decoding import Decoding, Prompt
from cuvee.engine.disk import Ticker
from cuvee.engine.kv_cache import Begin, Pass, Slots
from cuvee.engine.loss import takes_positions
from cuvee.engine.replies import ReplyJournal, fingerprint
from cuvee.engine.sampling import choose
from cuvee.protocols import Progress, Reply, TokenRow
from cuvee.runtime import Runtime

ROWS = 128
"""Most rows at once: wider was no faster on a CPU for a model of 1.5 million parameters (4.1 to 4.3 CPU
seconds for 600 answers of 32 tokens at 64, 128, 256 and 600 rows; 5.1 at 32)."""

CACHE_FACTOR = 8
"""Tokens held in the cache at most, as a multiple of runtime.micro_tokens: a cached token costs far less
memory than one in a training pass, which keeps all its activations."""

ROOM = 256
"""Tokens of an answer that a slot has room for at first; the table grows where answers are longer."""

SHARED = 16
"""A common beginning shorter than this is computed again rather than copied, unless it is the whole prompt."""


def generate(
    model_folder: Path,
    prompts: Sequence[Prompt],
    settings: Decoding,
    stop_ids: Sequence[int],
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    journal: Path | None = None,
    references: Sequence[Sequence[int]] = (),
    ability: str = "",
) -> list[Reply]:
    """Return the answers to every prompt: `settings.samples` to the first, then those to the second, ...

    The same request gets the same answer alone and in any company, up to floating-point ties.

    Args:
        model_folder: a Hugging Face folder; the last one used stays in memory.
        prompts: requests, each with an id of its own.
        settings: length, temperature, samples, seed.
        stop_ids: tokens that end an answer; they are not part of it. None: answers have the full length.
        runtime: device, threads, tokens a pass.
        progress: told {"step", "steps", "tokens", ...} in answers about five times a second, and {"note"}.
        precision: ``float32`` or ``bfloat16``.
        journal: file that keeps finished answers; those in it are not written again (see `replies`).
        references, ability: not used here; the fake engine needs them.

    Raises:
        ModelError: the model cannot be loaded or cannot take the prompts.
        StageFailed: a prompt is empty, there twice, or leaves no room for an answer in the model's context.
    """
    loading.set_threads(runtime)
    device = loading.device_of(runtime, progress)
    loaded = loading.cached(model_folder, precision, device)
    limit = context(loaded.model)
    decoding.check(prompts, limit)
    loading.check_fit(loaded.model, (TokenRow(prompt.ids, ()) for prompt in prompts))
    stops = frozenset(map(int, stop_ids))
    kept = ReplyJournal(journal, fingerprint(model_folder, precision, settings, stop_ids), progress)
    places = [(prompt, sample) for prompt in prompts for sample in range(settings.samples)]
    replies = [kept.get(prompt, sample) for prompt, sample in places]
    rows = [
        Row(number, *places[number], settings, stops, min(settings.max_new_tokens, limit - len(places[number][0].ids)))
        for number, reply in enumerate(replies)
        if reply is None
    ]
    rows.sort(key=lambda row: -len(row.prompt.ids))
    ticker, done = Ticker(progress, len(places)), len(places) - len(rows)
    with closing(kept), by_column(loaded.model, len(rows)), torch.inference_mode():
        for row in _answers(loaded, rows, settings, runtime.micro_tokens, progress) if rows else ():
            reply = replies[row.number] = Reply(tuple(row.ids), row.finish)
            kept.add(row.prompt, row.sample, reply)
            done += 1
            ticker.tick(done, len(row.prompt.ids) + len(row.ids))
    return [reply for reply in replies if reply is not None]


def context(model: Any) -> int:
    """Return how many tokens the model was made for; a very large number where its configuration does not say."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 1 << 60)


def _answers(
    loaded: loading.Loaded, rows: Sequence[Row], settings: Decoding, micro_tokens: int, progress: Progress
) -> Iterator[Row]:
    """Yield each row as soon as it is finished."""
    budget = CACHE_FACTOR * micro_tokens
    obstacle = loaded.obstacle or _obstacle(loaded)
    if obstacle:
        progress({"note": f"answers come from transformers' own loop, one length at a time: {obstacle}"})
        loaded.use("single")
        stops = sorted(rows[0].stops)
        yield from stock_generation.generate(loaded.model, rows, settings, stops, budget)
        return
    loaded.model.set_attn_implementation(kv_cache.NAME)
    for band in _bands(rows, budget):
        yield from Table(loaded.model, band, settings, budget, micro_tokens).run()


def _obstacle(loaded: loading.Loaded) -> str:
    """Return why the model cannot use the cache: one of its tokens, decoded, is compared with the stock attention."""
    model = loaded.model
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(model.get_input_embeddings().num_embeddings, (7,), generator=draw).to(model.device)
    slots = Slots(1, 7)
    try:
        loaded.use("single")
        alone = model(input_ids=ids[None], use_cache=False).logits[0, -1:]
        model.set_attn_implementation(kv_cache.NAME)
        forward(model, ids[:4], Pass(slots, (), (Begin(0, 0, 4),), model.device))
        forward(model, ids[4:6], Pass(slots, (), (Begin(0, 4, 2),), model.device))
        cached = forward(model, ids[6:], Pass(slots, (6,), (), model.device))
    except (attention.Unsupported, TypeError, ValueError, RuntimeError, KeyError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    far = float((alone - cached).abs().max() / alone.abs().max().clamp_min(1e-6))
    most = 1e-4 if cached.dtype == torch.float32 else 5e-2
    return "" if far <= most else f"logits with and without its cache differ by {far:.1e} (relative)"


def forward(model: Any, ids: Tensor, now: Pass) -> Tensor:
    """Return the logits after the last token of each row, (rows, vocabulary).

    Args:
        model: on `kv_cache.NAME`.
        ids: the tokens of the pass, (T,) on the device.
        now: where they belong.
    """
    last = now.last()
    extra = {"logits_to_keep": last} if takes_positions(model) else {}
    inputs = {"input_ids": ids[None], "position_ids": now.positions(), kv_cache.NAME: now}
    logits: Tensor = model(**inputs, use_cache=False, **extra).logits[0]
    return logits if extra else logits.index_select(0, last)


def _bands(rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Split rows, longest prompt first, where a table made for the longest would waste half of each slot.

    What fits one table at once is never split.
    """
    rest = list(rows)
    while rest:
        need = [len(row.start) + min(row.room, ROOM) for row in rest]
        fits = min(ROWS, budget // need[0])
        short = next((i for i, n in enumerate(need) if 2 * n < need[0]), len(rest))
        cut = len(rest) if len(rest) <= fits else short
        yield rest[:cut]
        rest = rest[cut:]


class Table:
    """Rows in slots, and those that wait for one.

    Args:
        model: on `kv_cache.NAME`.
        rows: answers to be written, the longest prompt first.
        settings: how tokens are chosen.
        budget: tokens that all slots together may have room for; one slot may exceed it.
        micro_tokens: tokens of one pass; a single prompt may exceed it.
    """

    def __init__(self, model: Any, rows: Sequence[Row], settings: Decoding, budget: int, micro_tokens: int) -> None:
        self.model, self.settings, self.budget, self.micro_tokens = model, settings, budget, micro_tokens
        self.queue, self.live = deque(rows), list[Row]()
        self.most = max(len(row.start) + row.room for row in rows)
        capacity = max(len(row.start) + min(row.room, ROOM) for row in rows)
        self.slots = Slots(self._count(capacity), capacity)
        self.texts: list[NDArray[np.int64] | None] = [None] * self.slots.count
        """The tokens whose keys and values lie at the beginning of each slot."""

    def run(self) -> Iterator[Row]:
        """Yield rows as they are finished."""
        while self.queue or self.live:
            self._make_room()
            writing = list(self.live)
            begins = self._begin()
            now = Pass(self.slots, [row.held for row in writing], begins, self.model.device)
            inputs = [np.asarray([row.ids[-1] for row in writing], np.int64)]
            for begin in begins:
                text = self.texts[begin.slot] = self.live[begin.slot].context()
                inputs.append(text[begin.past :])
                self.live[begin.slot].held = len(text)
            for row in writing:
                row.held += 1
            logits = forward(self.model, torch.from_numpy(np.concatenate(inputs)).to(self.model.device), now)
            tokens = choose(logits, [row.draw(len(row.ids)) for row in self.live], self.settings)
            finished = [row for row, token in zip(self.live, tokens.tolist(), strict=True) if not row.take(token)]
            self._close_gaps()
            yield from finished

    def _count(self, capacity: int) -> int:
        """Return how many slots there are work and memory for."""
        return max(1, min(ROWS, len(self.live) + len(self.queue), self.budget // capacity))

    def _make_room(self) -> None:
        """Widen the slots where a row would leave its own; rows that then have none go back to the queue."""
        need = max((row.held + 1 for row in self.live), default=0)
        if need <= self.slots.capacity:
            return
        capacity = min(self.most, max(need, self.slots.capacity * 3 // 2))
        count = min(self.slots.count, self._count(capacity))
        self.queue.extendleft(reversed(self.live[count:]))
        del self.live[count:], self.texts[count:]
        self.slots.resize(count, capacity)

    def _begin(self) -> list[Begin]:
        """Give free slots to rows from the queue, as many as one pass can take.

        A row whose prompt begins like one that is computed in this very pass waits for the next one.
        """
        free, tokens = self.slots.count - len(self.live), len(self.live)
        begins, waiting = list[Begin](), list[Row]()
        coming = list[NDArray[np.int64]]()
        while self.queue and len(begins) + len(waiting) < free:
            row, slot = self.queue[0], len(self.live)
            text = row.context()
            source, past = self._there(text)
            if tokens + len(text) - past > self.micro_tokens and (begins or self.live):
                break
            self.queue.popleft()
            soon = max((_shared(text, other) for other in coming), default=0)
            if soon > past:
                waiting.append(row)
                continue
            self.slots.copy(source, slot, past)
            self.texts[slot] = None
            self.live.append(row)
            begins.append(Begin(slot, past, len(text) - past))
            coming.append(text)
            tokens += len(text) - past
        self.queue.extendleft(reversed(waiting))
        return begins

    def _there(self, text: NDArray[np.int64]) -> tuple[int, int]:
        """Return the slot that holds most of a text's beginning, and how many tokens of it."""
        shared = [0 if held is None else _shared(text, held) for held in self.texts]
        best = max(range(len(shared)), key=shared.__getitem__)
        return best, shared[best]

    def _close_gaps(self) -> None:
        """Move rows from the end of the table into the slots of finished ones."""
        for slot in reversed(range(len(self.live))):
            if self.live[slot].finish:
                row, last = self.live.pop(), len(self.live)
                if slot < last:
                    self.slots.copy(last, slot, row.held)
                    self.live[slot], self.texts[slot] = row, self.texts[last]


def _shared(text: NDArray[np.int64], held: NDArray[np.int64]) -> int:
    """Return how much of a text's beginning can be taken over: never its last token, whose logits are wanted."""
    size = min(len(text), len(held))
    same = text[:size] == held[:size]
    common = min(size if same.all() else int(same.argmin()), len(text) - 1)
    return common if common >= SHARED or common == len(text) - 1 else 0
