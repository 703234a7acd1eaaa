"""Log-probabilities of given continuations: what an item's choices share is computed once, and so are equal shots.

    items of one group         [shots | question 1 | its choices as a tree]
                               [shots | question 2 | its choices as a tree]     shots: one pass, kept for the group

One pass holds the trees of several items one after another without padding; only attention pads, inside blocks of trees
of like size. Each node sees the shared prefix, its ancestors and itself. Logits are made after those nodes alone that a
continuation is read from, so that the four letters of an MMLU item cost one row of logits.

A model whose attention cannot be steered so is fed one choice at a time. One choice of the first pass is scored in
both ways, and the simple one stays where they differ.

Sources: a tree of tokens under one attention mask is from SpecInfer (Miao et al., arXiv 2305.09781, section 4); a
prefix kept for many continuations from Hydragen (Juravsky et al., arXiv 2402.05099), without its split softmax.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from cuvee.engine import attention, loading
from cuvee.engine.disk import Journal, Ticker, write_text
from cuvee.engine.generation import context
from cuvee.engine.loss import CHUNK, takes_positions
from cuvee.engine.tree import Group, Ints, Tree, groups, grow, start
from cuvee.errors import ModelError
from cuvee.protocols import Progress, Scored, TokenRow
from cuvee.runtime import Runtime

NAME = "cuvee_choices"
"""Name of the attention function and of the keyword that carries the pass."""

LOGITS = 1 << 26
"""Logits of one pass at most: 256 MiB in float32."""

MASK = 1 << 23
"""Values of one block's attention mask at most: 32 MiB in float32."""


def choose(
    model_folder: Path,
    items: Sequence[Sequence[TokenRow]],
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    journal: Path | None = None,
    cut: bool = True,
    golds: Sequence[Sequence[int]] = (),
    ability: str = "",
) -> list[list[Scored]]:
    """Return the log-probability of every choice of every item, in input order.

    Args:
        model_folder: a Hugging Face folder; the last one used stays in memory.
        items: choices of each item: tokens of context and continuation, the continuation as the only span.
        runtime: device, threads, tokens a pass.
        progress: told {"step", "steps", "tokens", ...} in items about five times a second, and {"note"}.
        precision: ``float32`` or ``bfloat16``.
        journal: file that keeps finished items; those in it are not computed again.
        cut: a choice longer than the model's context loses tokens from its beginning, which `Scored.cut` counts;
            false refuses it.
        golds, ability: not used here; the fake engine needs them.

    Raises:
        ModelError: the model cannot be loaded, cannot take the rows, or a row is too long for it.
    """
    loading.set_threads(runtime)
    device = loading.device_of(runtime, progress)
    loaded = loading.cached(model_folder, precision, device)
    rows, lost = _fitted(items, context(loaded.model), cut)
    loading.check_fit(loaded.model, (row for choices in rows for row in choices))
    kept = _Kept(journal, _fingerprint(model_folder, precision), rows, progress)
    todo = [number for number in range(len(rows)) if kept.found[number] is None]
    scorer = _Scorer(loaded, device, precision, progress)
    ticker, done = Ticker(progress, len(rows)), len(rows) - len(todo)
    with closing(kept), torch.inference_mode():
        for finished, tokens in scorer.run([rows[number] for number in todo], runtime.micro_tokens):
            for index, scores in finished.items():
                kept.add(todo[index], scores)
            done += len(finished)
            ticker.tick(done, tokens)
    return [
        [Scored(one.logprob, one.tokens, one.greedy, gone) for one, gone in zip(scores or (), less, strict=True)]
        for scores, less in zip(kept.found, lost, strict=True)
    ]


def _fitted(items: Sequence[Sequence[TokenRow]], limit: int, cut: bool) -> tuple[list[list[TokenRow]], list[list[int]]]:
    """Return the rows with what is too long taken off at the front, and how many tokens that were.

    The last token of a row is predicted and not fed, so that a row may have one more than the model's context.
    """
    rows: list[list[TokenRow]] = []
    lost: list[list[int]] = []
    for number, choices in enumerate(items):
        over = [max(0, len(row.ids) - limit - 1) for row in choices]
        for row, less in zip(choices, over, strict=True):
            if less and not cut:
                raise ModelError(
                    f"item {number} has {len(row.ids)} tokens, the model takes {limit + 1}; "
                    "give fewer shots, leave the item out, or cut from the left with too_long: cut"
                )
            if less >= start(row):
                raise ModelError(
                    f"item {number} has a continuation of {len(row.ids) - start(row)} tokens, "
                    f"the model's context is {limit}; leave the item out"
                )
        rows.append([_without(row, less) if less else row for row, less in zip(choices, over, strict=True)])
        lost.append(over)
    return rows, lost


def _without(row: TokenRow, less: int) -> TokenRow:
    return TokenRow(row.ids[less:], ((start(row) - less, len(row.ids) - less),))


# ------------------------------------------------------------------------------------------------- what is kept


def _fingerprint(folder: Path, precision: str) -> str:
    files = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(folder.glob("*")) if p.is_file()]
    return hashlib.blake2b(json.dumps([files, precision]).encode(), digest_size=16).hexdigest()


def _digest(choices: Sequence[TokenRow]) -> str:
    found = hashlib.blake2b(digest_size=12)
    for row in choices:
        found.update(np.asarray([len(row.ids), start(row), *row.ids], np.int64).tobytes())
    return found.hexdigest()


class _Kept:
    """Finished items, in memory and on disk: a kill costs the pass under way only."""

    def __init__(
        self, path: Path | None, fingerprint: str, items: Sequence[Sequence[TokenRow]], progress: Progress
    ) -> None:
        self.found: list[list[Scored] | None] = [None] * len(items)
        self._journal = Journal(path) if path is not None else None
        if self._journal is None or path is None:
            return
        self._names = [_digest(choices) for choices in items]
        records = list(self._journal.records())
        if records and records[0].get("fingerprint") != fingerprint:
            progress({"note": f"{path.name} holds scores of another model; it is begun anew"})
            records = []
        elif len(records) > 1:
            progress({"note": f"{len(records) - 1} items were there already"})
        there = {record["item"]: record["scores"] for record in records[1:]}
        for number, name in enumerate(self._names):
            if name in there:
                self.found[number] = [Scored(*one) for one in there[name]]
        # Written anew, as a kill may have left a part of a line at its end.
        kept = [{"fingerprint": fingerprint}, *records[1:]]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))

    def add(self, number: int, scores: list[Scored]) -> None:
        self.found[number] = scores
        if self._journal is not None:
            told = [[one.logprob, one.tokens, one.greedy] for one in scores]
            self._journal.append({"item": self._names[number], "scores": told})

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()


# ------------------------------------------------------------------------------------------------------ passes


class Stored:
    """Keys and values of a prefix, (key heads, P, size) each, by attention layer."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.layers: dict[torch.nn.Module, tuple[Tensor, Tensor]] = {}


@dataclass(frozen=True)
class Block:
    """Trees of like size that stand one after another in a pass, and the prefix they share.

    Args:
        prefix: keys and values before them.
        index: place in the pass of each tree's nodes, (B, T) int64; 0 where a tree has fewer.
        valid: which of these are nodes, (B, T) bool.
        seen: whether a node sees another, (B, T, T) bool.
        depth: position after the prefix, (B, T) int64.
        masks: what is added to scores, by window and type; made at the first layer that asks.
    """

    prefix: Stored
    index: Tensor
    valid: Tensor
    seen: Tensor
    depth: Tensor
    masks: dict[Any, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return (B, 1, T, P + T): 0 where the row's node sees the column's token, else minus infinity."""
        if (window, dtype) not in self.masks:
            count, size = self.depth.shape
            before = self.seen.new_ones(count, size, self.prefix.tokens)
            seen = torch.cat([before, self.seen], 2)
            if window is not None:
                start = self.prefix.tokens
                places = torch.arange(start, device=self.depth.device).expand(count, start)
                places = torch.cat([places, self.depth + start], 1)
                near = self.depth[:, :, None] + start - places[:, None] < window
                # What pads a block sees itself alone, so that no row is empty.
                seen = seen & near
            zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self.masks[window, dtype] = zeros.masked_fill_(~seen, float("-inf"))[:, None]
        return self.masks[window, dtype]


@dataclass(frozen=True)
class Pass:
    """One forward pass: a prefix whose keys and values are to be stored, or blocks of trees."""

    store: Stored | None = None
    blocks: tuple[Block, ...] = ()


class _How(NamedTuple):
    scaling: float | None
    window: int | None
    softcap: float | None


def tree_attention(
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
    """Attention of one pass; shapes and arguments as in `attention.segment_attention`.

    Args:
        kwargs: must hold the `Pass` under `NAME`.

    Raises:
        attention.Unsupported: when the pass did not arrive.
    """
    now: Pass | None = kwargs.pop(NAME, None)
    if now is None:
        raise attention.Unsupported("the pass did not reach the attention layer")
    if now.store is not None:
        now.store.layers[module] = (key[0], value[0])
        more = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, **kwargs}
        more[attention.NAME] = (query.shape[2],)
        return attention.segment_attention(module, query, key, value, attention_mask, **more)
    how = _How(scaling, sliding_window, softcap)
    outputs = [_block(module, query[0], key[0], value[0], block, how) for block in now.blocks]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _block(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, block: Block, how: _How) -> Tensor:
    """Attend inside each tree of a block and to its prefix: (nodes, heads, value size)."""
    count = block.index.shape[0]
    # A node's heads lie side by side: gathered node by node, not head by head.
    q, k, v = (tensor.transpose(0, 1)[block.index].transpose(1, 2) for tensor in (query, key, value))
    if block.prefix.tokens:
        before = block.prefix.layers[module]
        k, v = (torch.cat([old.expand(count, *old.shape), new], 2) for old, new in zip(before, (k, v), strict=True))
    out = _attend(q, k, v, block.mask(how.window, query.dtype), how)
    return out.transpose(1, 2)[block.valid]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: _How) -> Tensor:
    """(B, heads, T, size) over (B, key heads, S, size) gives (B, heads, T, value size)."""
    count, heads, size, _ = query.shape
    shared = heads // key.shape[1]
    # Heads that share a key head become further queries of it: keys and values are not repeated.
    folded = query.reshape(count, key.shape[1], shared * size, -1)
    wide = mask.repeat(1, 1, shared, 1) if shared > 1 else mask
    if how.softcap is None:
        out = functional.scaled_dot_product_attention(folded, key, value, attn_mask=wide, scale=how.scaling)
    else:
        scale = query.shape[-1] ** -0.5 if how.scaling is None else how.scaling
        scores = torch.tanh(folded @ key.transpose(-1, -2) * (scale / how.softcap)) * how.softcap + wide
        out = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    return out.reshape(count, heads, size, -1)


AttentionInterface.register(NAME, tree_attention)  # type: ignore[no-untyped-call,unused-ignore]


# ----------------------------------------------------------------------------------------------------- scoring


class _Scorer:
    """Scores items as trees, or one choice at a time where the model does not allow that."""

    def __init__(self, loaded: loading.Loaded, device: torch.device, precision: str, progress: Progress) -> None:
        self.loaded, self.device, self.precision, self.progress = loaded, device, precision, progress
        vocabulary = loaded.model.get_input_embeddings().num_embeddings
        self.most_kept = max(1, LOGITS // vocabulary)

    def run(self, items: Sequence[Sequence[TokenRow]], budget: int) -> Iterator[tuple[dict[int, list[Scored]], int]]:
        """Yield the scores of some items by number, with the tokens that were computed for them."""
        if not items:
            return
        obstacle = self.loaded.obstacle
        finished: set[int] = set()
        if not obstacle:
            try:
                for number, (trees, prefix) in enumerate(self._work(items, budget)):
                    scores = self._trees(trees, prefix)
                    if number == 0 and (obstacle := self._differs(items[trees[0].item][0], scores[trees[0].item][0])):
                        break
                    finished |= scores.keys()
                    yield scores, sum(len(tree.ids) for tree in trees)
            except (attention.Unsupported, TypeError) as error:
                obstacle = str(error).splitlines()[0] if str(error) else type(error).__name__
        if obstacle:
            self.progress({"note": f"one choice a forward pass: {obstacle}"})
            self.loaded.use("single")
            for number, rows in enumerate(items):
                if number not in finished:
                    yield {number: [self._single(row) for row in rows]}, sum(len(row.ids) for row in rows)

    def _work(self, items: Sequence[Sequence[TokenRow]], budget: int) -> Iterator[tuple[list[Tree], Stored]]:
        """Yield what goes into one pass after another: trees with the prefix before them."""
        self.loaded.model.set_attn_implementation(NAME)
        for group in groups(items):
            prefix = self._stored(group)
            for trees in self._portions(group, budget):
                yield trees, prefix

    def _differs(self, row: TokenRow, scored: Scored) -> str:
        """Return why trees cannot be trusted: a choice of the first pass, whose items are long, is scored alone too."""
        self.loaded.use("single")
        single = self._single(row)
        self.loaded.model.set_attn_implementation(NAME)
        far = loading.distance(scored.logprob, single.logprob)
        if far <= loading.TOLERANCE[self.precision]:
            return ""
        return f"the log-probability of the first choice differs by {far:.1e} from that of the choice alone"

    def _portions(self, group: Group, budget: int) -> Iterator[list[Tree]]:
        """Yield the trees of one pass after another, at most `budget` tokens each; at least one tree."""
        portion: list[Tree] = []
        held = kept = 0
        for tree in group.trees:
            tokens, keep = len(tree.ids), len(tree.keep)
            if portion and (held + tokens > budget or kept + keep > self.most_kept):
                yield portion
                portion, held, kept = [], 0, 0
            portion.append(tree)
            held, kept = held + tokens, kept + keep
        if portion:
            yield portion

    def _stored(self, group: Group) -> Stored:
        """Return the prefix of a group, computed."""
        found = Stored(len(group.prefix))
        if found.tokens:
            ids = self._put(group.prefix)[None]
            places = torch.arange(found.tokens, device=self.device)[None]
            last = torch.tensor([found.tokens - 1], device=self.device)
            self._logits(ids, places, last, Pass(store=found))
        return found

    def _trees(self, trees: Sequence[Tree], prefix: Stored) -> dict[int, list[Scored]]:
        """Return the scores of the trees of one pass by item."""
        starts = np.cumsum([0, *(len(tree.ids) for tree in trees)])
        blocks = tuple(self._blocks(trees, starts[:-1], prefix))
        ids = self._put(np.concatenate([tree.ids for tree in trees]))[None]
        places = self._put(np.concatenate([tree.depth for tree in trees]) + prefix.tokens)[None]
        keep = np.concatenate([tree.keep + at for tree, at in zip(trees, starts[:-1], strict=True)])
        logits = self._logits(ids, places, self._put(keep), Pass(blocks=blocks))
        first = np.cumsum([0, *(len(tree.keep) for tree in trees[:-1])])
        rows = np.concatenate([tree.places + at for tree, at in zip(trees, first, strict=True)])
        logprobs, likeliest = _read(logits, self._put(rows), self._put(np.concatenate([t.targets for t in trees])))
        sizes = [size for tree in trees for size in tree.sizes]
        scores = iter(_scores(logprobs, likeliest, sizes))
        return {tree.item: [next(scores) for _ in tree.sizes] for tree in trees}

    def _blocks(self, trees: Sequence[Tree], starts: Ints, prefix: Stored) -> Iterator[Block]:
        """Yield blocks of neighbouring trees; they come largest first, so that neighbours are of like size."""
        at = 0
        while at < len(trees):
            size = len(trees[at].ids)
            most = max(1, MASK // max(1, size * (size + prefix.tokens)))
            yield self._one_block(trees[at : at + most], starts[at : at + most], prefix)
            at += most

    def _one_block(self, trees: Sequence[Tree], starts: Ints, prefix: Stored) -> Block:
        size = len(trees[0].ids)
        index, depth = np.zeros((2, len(trees), size), np.int64)
        valid = np.zeros((len(trees), size), bool)
        seen = np.repeat(np.eye(size, dtype=bool)[None], len(trees), 0)
        for row, (tree, at) in enumerate(zip(trees, starts, strict=True)):
            n = len(tree.ids)
            index[row, :n], depth[row, :n], valid[row, :n] = np.arange(at, at + n), tree.depth, True
            seen[row, :n, :n] = tree.ancestors()
        tensors = [torch.from_numpy(array).to(self.device) for array in (index, valid, seen, depth)]
        return Block(prefix, tensors[0], tensors[1], tensors[2], tensors[3])

    def _single(self, row: TokenRow) -> Scored:
        """Return the score of one choice under the stock attention."""
        tree = grow(0, [row], 0)
        logits = self._logits(self._put(tree.ids)[None], None, self._put(tree.keep), None)
        found = _read(logits, self._put(tree.places), self._put(tree.targets))
        return _scores(*found, tree.sizes)[0]

    def _logits(self, ids: Tensor, places: Tensor | None, keep: Tensor, now: Pass | None) -> Tensor:
        """Return the logits after the kept tokens, (K, V)."""
        model = self.loaded.model
        extra: dict[str, Any] = {} if now is None else {NAME: now, "position_ids": places}
        if takes_positions(model):
            found: Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=keep, **extra).logits[0]
            return found
        logits: Tensor = model(input_ids=ids, use_cache=False, **extra).logits[0]
        return logits.index_select(0, keep)

    def _put(self, array: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _read(logits: Tensor, rows: Tensor, targets: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the log-probability of each target, and whether it is the likeliest token; chunk by chunk in float32."""
    wanted = logits[rows, targets].float()
    tops, totals = [], []
    for part in torch.split(logits, max(1, CHUNK // logits.shape[1])):
        work = part.float()  # the logits themselves where they are float32: nothing else reads them
        top = work.amax(1)
        tops.append(top)
        totals.append(top.double() + work.sub_(top[:, None]).exp_().sum(1).double().log())
    return (wanted.double() - torch.cat(totals)[rows]).cpu().numpy(), (torch.cat(tops)[rows] == wanted).cpu().numpy()


def _scores(logprobs: NDArray[np.float64], likeliest: NDArray[np.bool_], sizes: Sequence[int]) -> list[Scored]:
    """Return each choice's sum."""
    found, at = [], 0
    for size in sizes:
        part = slice(at, at + size)
        found.append(Scored(float(logprobs[part].sum()), size, bool(likeliest[part].all())))
        at += size
    return found
