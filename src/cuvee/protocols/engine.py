"""What an engine is given and returns: rows of tokens, likelihoods, replies; and who hears of its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as the model sees it.

    Args:
        ids: token ids, (length,).
        spans: supervised token ranges as [start, end) pairs, in order.
        part: number of the source inside the mixture, for per-source losses.
    """

    ids: Sequence[int]
    spans: Sequence[tuple[int, int]]
    part: int = 0


class TokenRows(Protocol):
    """Random access to token rows; holds no more than it must in memory.

    Where it also has ``extent() -> (tokens of the longest row, largest token id)``, a training is refused before its
    first step if the model cannot take them, and not when it comes to the row.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> TokenRow: ...


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Summed negative log-likelihood (nats) over `tokens` supervised tokens of one row.

    `entropy` is the sum of the predictions' entropies (nats) at these tokens, `losses` are the single tokens' shares of
    `nll`, where they were asked for.
    """

    nll: float
    tokens: int
    entropy: float | None = None
    losses: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """Summed log-probability (nats) of one choice's continuation.

    Args:
        logprob: sum over its tokens.
        tokens: how many they are.
        greedy: whether each of them was the likeliest.
        cut: tokens that its context lost at the beginning, as it was too long for the model.
    """

    logprob: float
    tokens: int
    greedy: bool
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """Generated token ids without the stop token; finish is ``stop`` or ``length``."""

    ids: Sequence[int]
    finish: str


Progress = Callable[[Mapping[str, Any]], None]
"""Receives small facts while work goes on: step, steps, tokens, loss, seconds."""


class Tracker(Protocol):
    """Shows a training's curves somewhere; see `cuvee.trackers`."""

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Take the values of one step, by name; `seconds` is Unix time."""

    def close(self) -> None:
        """Write what is left; nothing follows."""
