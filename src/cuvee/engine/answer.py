"""One answer on its way, for any loop that writes it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cuvee.engine.decoding import Decoding, Prompt, uniform


@dataclass(eq=False)
class Row:
    """One answer on its way.

    Args:
        number: its place among all answers.
        prompt: what is answered.
        sample: number of the answer among those to this prompt.
        settings: how tokens are chosen.
        stops: tokens that end it.
        room: how many tokens it may still get.
        ids: what is written so far.
        finish: ``stop`` or ``length`` once it is finished.
        held: tokens of it whose keys and values lie in a slot.
    """

    number: int
    prompt: Prompt
    sample: int
    settings: Decoding
    stops: frozenset[int]
    room: int
    ids: list[int] = field(default_factory=list)
    finish: str = ""
    held: int = 0

    def __post_init__(self) -> None:
        self.start: NDArray[np.int64] = np.asarray(self.prompt.ids, np.int64)

    def draw(self, position: int) -> float:
        """Return the draw for the answer's token at a position; 0 where nothing is drawn."""
        if self.settings.greedy:
            return 0.0
        return uniform(self.settings.seed, self.prompt.id, self.sample, position)

    def take(self, token: int) -> bool:
        """Take the next token; return whether the row goes on."""
        self.room -= 1
        if token in self.stops:
            self.finish = "stop"
            return False
        self.ids.append(token)
        self.finish = "" if self.room else "length"
        return not self.finish

    def context(self) -> NDArray[np.int64]:
        """Return the prompt and what is written so far."""
        return np.concatenate([self.start, np.asarray(self.ids, np.int64)])
