"""What is asked of a model that writes: prompts, and how the next token is chosen. No torch here.

prompts = [Prompt("gsm8k/17", chat.prompt(messages)), ...]
replies = engine.generate(folder, prompts, Decoding(256, temperature=0.7, samples=4), stop_ids, ...)
replies[prompt_number * 4 + sample]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cuvee import seeds
from cuvee.errors import StageFailed, UsageError


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to be answered.

    Args:
        id: names the request; the draws of its answers hang on it, so it must differ from every other's.
        ids: token ids, at least one.
    """

    id: str
    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are written.

    Args:
        max_new_tokens: most tokens of an answer, its stop token included.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: draw among the most likely tokens that together have at least this probability.
        samples: answers a prompt.
        seed: of the draws; together with request id, sample number and position it decides each of them.

    Raises:
        UsageError: on a value that makes no sense.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature is {self.temperature}; it must be 0 (greedy) or above, usually up to 1")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (no cut)")
        if self.samples < 1:
            raise UsageError(f"samples is {self.samples}; it must be at least 1")

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0


def uniform(seed: int, request: str, sample: int, position: int) -> float:
    """Return the draw in [0, 1) for one position of one answer: it hangs on nothing else."""
    return (seeds.rank(seed, f"sampling {sample}", request.encode(), position) >> 11) / 2**53


def check(prompts: Sequence[Prompt], limit: int) -> None:
    """Refuse prompts that cannot be answered.

    Args:
        prompts: any number.
        limit: tokens that prompt and answer may have together, the model's context.

    Raises:
        StageFailed: names the request that is empty, too long or there twice.
    """
    for prompt in prompts:
        if not len(prompt.ids):
            raise StageFailed(f"request {prompt.id} is empty; a prompt needs at least one token", stage="generate")
        if len(prompt.ids) >= limit:
            raise StageFailed(
                f"request {prompt.id} has {len(prompt.ids)} tokens and the model's context is {limit}: "
                "no room for an answer; shorten the prompt, use fewer shots, or leave the request out",
                stage="generate",
            )
    twice = [name for name, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    if twice:
        raise StageFailed(
            f"{len(twice)} request ids are there more than once, first {twice[0]}; "
            "an id names one request, as the draws of its answers hang on it",
            stage="generate",
        )


__all__ = ["Decoding", "Prompt", "check", "uniform"]
