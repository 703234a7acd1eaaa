"""The gradient of one optimiser step, over micro batches and processes, and the losses that come out of its passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuvee.engine.devices import World
from cuvee.engine.flat import count
from cuvee.engine.passes import Passes
from cuvee.engine.trainee import Trainee
from cuvee.protocols import TokenRow


@dataclass(frozen=True)
class Found:
    """What the passes of one process gave.

    Args:
        nll: of the supervised tokens of each pass, on the device.
        owners: the number within the step of each token's example.
        kl: the weighted KL to the start of each pass, where the training is held by it.
    """

    nll: list[Tensor] = field(default_factory=list)
    owners: list[NDArray[np.int64]] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)


def gather(trainee: Trainee, passes: Passes, world: World, examples: Sequence[TokenRow], supervised: int) -> Found:
    """Add this process's part of a step's gradient to the weights.

    Args:
        trainee: what is trained.
        passes: how rows are fed to it.
        world: this process among the others.
        examples: the rows of the whole step.
        supervised: their supervised tokens, over which the loss is one mean.
    """
    found, share = Found(), world.share(examples)
    # FSDP divides gradients by the number of processes; here they are sums.
    divisor = supervised / (world.size if world.sharded else 1)
    for micro in passes.micro(examples, share):
        for flat, owners in passes.of(examples, micro):
            if trainee.kl:
                objective, nll, far = trainee.kl.losses(trainee.model, flat, segments=passes.flat)
                found.kl.append(far.sum())
            else:
                objective = nll = trainee.token_losses(trainee.model, flat, segments=passes.flat)
            torch.autograd.backward(objective.sum() / divisor)
            found.nll.append(nll.detach())
            found.owners.append(owners)
        trainee.optimiser.gather()
    if world.sharded:
        _keep_company(trainee, passes, world, examples)
    return found


def _keep_company(trainee: Trainee, passes: Passes, world: World, examples: Sequence[TokenRow]) -> None:
    """Do as many passes as the process with the most: divided weights are gathered by all or by none."""
    numbers = [passes.number(examples, world.share(examples, rank)) for rank in range(world.size)]
    shortest = min((i for i, row in enumerate(examples) if count(row)), key=lambda i: len(examples[i].ids))
    for _ in range(max(numbers) - numbers[world.rank]):
        for flat, _ in passes.of(examples, [shortest]):
            nll = trainee.token_losses(trainee.model, flat, segments=passes.flat)
            torch.autograd.backward(nll.sum() * 0.0)
        trainee.optimiser.gather()


def of_all(
    found: Found, world: World, examples: Sequence[TokenRow], supervised: int, device: torch.device
) -> tuple[list[Tensor], NDArray[Any]]:
    """Return nll and owner of the tokens of all processes, in order of rank; the nll still on the device."""
    if world.alone:
        return found.nll, np.concatenate(found.owners)
    before = sum(count(examples[i]) for rank in range(world.rank) for i in world.share(examples, rank))
    none = torch.zeros(0, device=device)
    owners = torch.from_numpy(np.concatenate([np.zeros(0), *found.owners])).to(none)
    nll, whose = world.pool(torch.stack([torch.cat([none, *found.nll]), owners]), before, supervised)
    return [nll], whose.cpu().numpy().astype(np.int64)
