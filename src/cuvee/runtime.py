"""How to run: device, workers, batch split, places. Never part of an id.

`canonical` refuses a `Runtime`, so it cannot slip into a stage's parameters; the manifest records it.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cuvee.errors import UsageError, did_you_mean

SHARDS = ("fsdp", "ddp")
"""How several processes share one training."""

KERNELS = ("stock", "liger", "cut")


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Runtime:
    """Everything that may differ between two machines without changing what is computed.

    Args:
        store: folder of finished stages.
        workers: stages at once; 0 means one a GPU, or on a machine without GPU one a core, at most four.
        threads: CPU threads of a worker; 0 divides the cores evenly.
        device: ``cpu``, ``cuda`` or ``auto``.
        micro_tokens: tokens of one forward pass; an optimiser step is split to stay below it.
        checkpoint_seconds: seconds between two checkpoints of a training.
        checkpoint_steps: steps between two checkpoints; 0 leaves it to the seconds.
        processes: processes that train one model together, one a GPU, or on a machine without GPU sharing its cores.
            Only trainings take several.
        shard: how they do: ``fsdp``, each holding its part of all weights, gradients and moments (less memory), or
            ``ddp``, each holding the whole model (less talk).
        kernels: ``stock``, or other packages' GPU kernels, ``liger`` or ``cut``; see `cuvee.engine.kernels`.
        track: where trainings show their curves besides their log, such as ``tensorboard``; see `cuvee.trackers`.
        checkpoint_activations: compute each layer's activations again in the backward pass instead of keeping them.
        step_sleep: seconds the fake engine waits at each step, to look at progress and interruptions.
        generator: what writes answers: ``local``, our own loop, or ``vllm`` where it is installed. Greedy answers are
            equal up to ties; drawn ones agree in distribution, since vLLM has draws of its own.
    """

    store: Path = Path(".cuvee")
    workers: int = 0
    threads: int = 0
    device: str = "auto"
    micro_tokens: int = 4096
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 0
    step_sleep: float = 0.0
    generator: str = "local"
    checkpoint_activations: bool = False
    processes: int = 1
    shard: str = "fsdp"
    track: tuple[str, ...] = ()
    kernels: str = "stock"

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", Path(self.store))
        object.__setattr__(self, "track", tuple(self.track))
        if self.shard not in SHARDS:
            raise UsageError(f"shard '{self.shard}' is not possible.{did_you_mean(self.shard, SHARDS)}")
        if self.kernels not in KERNELS:
            raise UsageError(f"kernels '{self.kernels}' are not possible.{did_you_mean(self.kernels, KERNELS)}")
        if not self.checkpoint_seconds >= 0:
            raise UsageError(f"checkpoint_seconds {self.checkpoint_seconds} is not possible; it is 0 or more")
        if self.micro_tokens < 1:
            raise UsageError(f"micro_tokens {self.micro_tokens} is not possible; a pass has at least 1 token")
        if self.processes < 1:
            raise UsageError(f"{self.processes} processes were asked for; a training needs at least 1")

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for the manifest and for a worker's command line."""
        return {**asdict(self), "store": str(self.store)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Runtime:
        """Inverse of `as_dict`."""
        return Runtime(**{**data, "store": Path(data["store"])})
