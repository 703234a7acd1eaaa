"""What stands in for a model when a dry run meets lm-evaluation-harness: likelihoods drawn by hash, empty answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM


class Draws(LM):  # type: ignore[misc,unused-ignore]
    """The same numbers for the same texts; nothing of them says anything about a model."""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return a log-probability for each continuation, and that it is not the likeliest."""
        return [(_draw(*request.args), False) for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return a log-probability for each text."""
        return [_draw(*request.args) for request in requests]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return an empty answer to each request."""
        return ["" for _ in requests]

    def apply_chat_template(self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the turns' texts."""
        return "\n".join(turn["content"] for turn in chat_history)

    @property
    def tokenizer_name(self) -> str:
        """A name for the harness' own records."""
        return "fake"


def _draw(*texts: str) -> float:
    """Return a number between -16 and 0."""
    digest = hashlib.sha256("\0".join(texts).encode()).digest()
    return -16 * int.from_bytes(digest[:4], "little") / 2**32
