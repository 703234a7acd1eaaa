"""Too little memory: which errors say so, and what is taken instead: the same step in more and smaller passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from cuvee.engine.devices import Restart, World
from cuvee.engine.disk import write_text
from cuvee.engine.passes import Passes
from cuvee.protocols import TokenRow

FILE = "out_of_memory.json"
"""What processes that divide the weights ran out of, since all of them start again then."""

Result = TypeVar("Result")

_SAID = ("DefaultCPUAllocator", "CUDA error: out of memory", "ALLOC_FAILED")
"""What plain runtime errors say that mean it: torch's allocator on a CPU, the driver, cuBLAS and cuDNN."""


class TooLarge(Exception):
    """One row alone is too much for the memory; its text says why and what to do."""


def attempt(work: Callable[[], Result]) -> Result | None:
    """Return what `work` returns, or None where device or host had too little memory for it."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that device or host had too little memory."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in text for said in _SAID)


def anywhere(world: World, here: bool) -> bool:
    """Return whether memory was too small in some process; where weights are divided the others cannot be asked."""
    return here if world.alone or world.sharded else world.any(here)


def halve(passes: Passes, world: World, examples: Sequence[TokenRow]) -> tuple[int, int]:
    """Take half the tokens a pass from now on; return how many there were and how many there are.

    Raises:
        TooLarge: there is one row a pass already.
    """
    shares = [world.share(examples, rank) for rank in range(world.size)]
    groups = (group for share in shares for group in passes.micro(examples, share))
    largest = max(sum(len(examples[i].ids) for i in group) for group in groups)
    longest = max(len(row.ids) for row in examples)
    if not passes.flat or largest <= longest:
        raise TooLarge(
            f"out of memory with one example of at most {longest} tokens a forward pass; use "
            "--checkpoint-activations, a smaller max_length, precision: bfloat16, method: lora or fewer --workers"
        )
    before, passes.tokens = passes.tokens, max(longest, min(passes.tokens, largest) // 2)
    return before, passes.tokens


def restart(work: Path, told: Sequence[dict[str, int]], step: int) -> Restart:
    """Return what makes all processes start again, with what they need noted in `work`."""
    write_text(work / FILE, json.dumps(told))
    return Restart(f"out of memory at step {step}")


def recall(work: Path, told: list[dict[str, int]]) -> list[dict[str, int]]:
    """Return what is known of earlier shortages: `told`, or what is noted in `work` if that is more."""
    path = work / FILE
    noted: list[dict[str, int]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return noted if len(noted) > len(told) else told
