"""What one process of a training holds in memory, item by item, from the model's shape.

    one process, or ddp     weights + gradient + two moments (+ float32 copies where the model is in bfloat16)
    fsdp                    the same divided by the number of processes, and the layers that are gathered at a time
    all                     activations of one micro batch, logits of its supervised positions

A layer keeps about 12 h + 4 i values a token for its backward pass (h hidden, i feed-forward width), counted on
LLaMA blocks; computed twice, it keeps its input, h, and one layer at a time has all. Attention is assumed to make no
T x T scores. What the allocator cannot use (fragments, buffers of communication libraries) comes on top.

Sources: Rajbhandari et al., ZeRO, arXiv 1910.02054, section 3 (weights, gradients, optimiser states);
Korthikanti et al., arXiv 2205.05198 (activations).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuvee.runtime import Runtime

LOSS_CHUNK = 3 * (1 << 24)
"""Bytes of the loss's working copies: `engine.loss.CHUNK` logits in float32, thrice."""


MOMENTS = {"adamw": ("two moments", 8), "sgd": ("momentum", 4), "adafactor": ("moments of rows and columns", 0)}
"""What each optimiser keeps: its name, and bytes a trained parameter."""


@dataclass(frozen=True)
class Shape:
    """A causal language model's size.

    Args:
        parameters: how many weights it has.
        layers: number of blocks.
        hidden: width of the residual stream.
        feed_forward: width inside a block.
        vocabulary: number of tokens.
    """

    parameters: int
    layers: int
    hidden: int
    feed_forward: int
    vocabulary: int

    @property
    def outer(self) -> int:
        """Weights outside the blocks: embeddings, head."""
        return self.parameters - self.layers * self.block

    @property
    def block(self) -> int:
        """Weights of one block, with embeddings and head of their own where the count allows it."""
        tables = self.vocabulary * self.hidden
        inside = self.parameters - 2 * tables
        # Tied: what is left for the blocks must fit their widths.
        expected = self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.feed_forward)
        inside = inside if abs(inside - expected) <= abs(inside + tables - expected) else inside + tables
        return max(0, inside) // self.layers


@dataclass(frozen=True)
class Item:
    """Bytes of one kind, and the arithmetic as text."""

    name: str
    bytes: int
    how: str


def shape(parameters: int, facts: Mapping[str, Any]) -> Shape:
    """Return a model's shape.

    Args:
        parameters: how many weights it has.
        facts: a Hugging Face configuration, or ``layers``, ``hidden``, ``feed_forward``, ``vocabulary``; what is
            absent is guessed: 24 layers, hidden from 12 h^2 weights a layer, feed-forward 8/3 h, 32,000 tokens.
    """
    facts = facts.get("text_config") or facts

    def first(*names: str) -> int:
        return next((int(facts[name]) for name in names if facts.get(name)), 0)

    layers = first("layers", "num_hidden_layers", "n_layer") or 24
    hidden = first("hidden", "hidden_size", "n_embd", "d_model") or max(1, round(math.sqrt(parameters / 12 / layers)))
    wide = first("feed_forward", "intermediate_size", "n_inner", "ffn_dim") or round(8 / 3 * hidden)
    return Shape(parameters, layers, hidden, wide, first("vocabulary", "vocab_size") or 32_000)


def configuration(folder: Path) -> Mapping[str, Any]:
    """Return a model folder's config.json; nothing where there is none."""
    try:
        data: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data


def of_training(
    model: Shape,
    trained: int,
    precision: str,
    runtime: Runtime,
    tokens: int,
    supervised: int,
    optimiser: str = "adamw",
) -> tuple[Item, ...]:
    """Return what one process of a training holds at its fullest.

    Args:
        model: the model.
        trained: parameters that are trained; fewer than all with LoRA.
        precision: ``float32`` or ``bfloat16``.
        runtime: processes, how they share, whether activations are computed twice.
        tokens: of one forward pass.
        supervised: those of them whose logits are made.
        optimiser: one of `MOMENTS`.
    """
    several = runtime.processes if runtime.shard == "fsdp" else 1
    return tuple(
        item
        for item in (
            *_state(model.parameters, trained, precision, several, MOMENTS[optimiser], sharded=several > 1),
            *_gathered(model, precision, several, all_trained=trained == model.parameters),
            *_passes(model, precision, tokens, supervised, twice=runtime.checkpoint_activations),
        )
        if item.bytes
    )


def _state(
    parameters: int, trained: int, precision: str, several: int, moments: tuple[str, int], *, sharded: bool
) -> list[Item]:
    width = 4 if precision == "float32" else 2
    frozen = parameters - trained
    # Adapters are in float32 whatever the model is; FSDP holds what it trains in float32 and gathers it rounded.
    copied = width == 2 and not sharded and not frozen
    held = width if copied or width == 4 else 4

    def item(name: str, count: int, size: int) -> Item:
        by = f" / {several}" if several > 1 else ""
        return Item(name, count * size // several, f"{_count(count)} x {size} B{by}")

    return [
        item("frozen weights", frozen, width),
        item("weights", trained, held),
        item("float32 copies", trained if copied else 0, 4),
        item("gradient", trained, 4),
        item("gradient of a pass", trained if copied else 0, width),
        item(moments[0], trained, moments[1]),
    ]


def _gathered(model: Shape, precision: str, several: int, *, all_trained: bool) -> list[Item]:
    """What FSDP has whole at a time: embeddings and head, two layers, and gradients on their way out."""
    if several == 1:
        return []
    width = 4 if precision == "float32" else 2
    largest = max(model.outer, model.block)
    weights = Item(
        "gathered weights",
        width * (model.outer + 2 * model.block),
        f"({_count(model.outer)} + 2 x {_count(model.block)}) x {width} B",
    )
    leaving = Item(
        "gradients on their way", (width + 4) * largest * all_trained, f"{_count(largest)} x ({width} + 4) B"
    )
    return [weights, leaving]


def _passes(model: Shape, precision: str, tokens: int, supervised: int, *, twice: bool) -> list[Item]:
    width = 4 if precision == "float32" else 2
    block = 12 * model.hidden + 4 * model.feed_forward
    kept = model.layers * model.hidden + block if twice else model.layers * block
    how = f"{model.layers} x {model.hidden} + {block}" if twice else f"{model.layers} x {block}"
    return [
        Item("activations", tokens * kept * width, f"{tokens:,} tokens x ({how}) x {width} B"),
        Item(
            "logits",
            supervised * model.vocabulary * width + LOSS_CHUNK,
            f"{supervised:,} x {model.vocabulary:,} x {width} B + {LOSS_CHUNK >> 20} MiB",
        ),
    ]


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.1f} M"
