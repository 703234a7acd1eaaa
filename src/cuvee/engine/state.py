"""A training's state on disk: what a checkpoint, a mark and the end of an epoch hold, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cuvee.engine import loading
from cuvee.engine.devices import stored
from cuvee.engine.disk import sync_file, sync_tree
from cuvee.engine.trainee import Trainee

WEIGHTS, OPTIMISER = "model.safetensors", "state.safetensors"

STATES = "states"
"""Folder of adapters with their moments at the end of each epoch, where ``states: epochs`` asks for them."""


def copied(trainee: Trainee) -> Callable[[Path], None] | None:
    """Copy weights, optimiser and random states to host memory; all processes must call this.

    Returns:
        What writes them into a folder; None where this process does not write.
    """
    weights, state = trainee.world.copies(trainee.tensors()), _moments(trainee)
    if not trainee.world.is_writer:
        return None
    if trainee.world.alone:  # several processes draw anew at each step
        state["random.cpu"] = torch.get_rng_state()
        if trainee.device.type == "cuda":
            state["random.cuda"] = torch.cuda.get_rng_state(trainee.device)

    def fill(folder: Path) -> None:
        save_file(weights, folder / WEIGHTS)
        save_file(state, folder / OPTIMISER)

    return fill


def _moments(trainee: Trainee, only: str = "") -> dict[str, Tensor]:
    """Return copies of the optimiser's tensors, of all or of those whose name begins so."""
    of, found = trainee.optimiser.weights, trainee.optimiser.tensors().items()
    return trainee.world.copies((n, t, stored(trainee.world, of, n)) for n, t in found if n.startswith(only))


def restore(trainee: Trainee, folder: Path) -> None:
    """Take up what `copied` wrote."""
    world, weights = trainee.world, trainee.optimiser.weights
    with safe_open(folder / WEIGHTS, "pt") as file, torch.no_grad():
        for name, part, weight in trainee.tensors():
            part.copy_(world.read(file, name, weight))
    trainee.optimiser.round()
    with safe_open(folder / OPTIMISER, "pt") as file:
        names = file.keys()
        state = {name: world.read(file, name, stored(world, weights, name)) for name in names}
    trainee.optimiser.restore(state)
    if "random.cpu" in state:
        torch.set_rng_state(state["random.cpu"])
    if trainee.device.type == "cuda" and "random.cuda" in state:
        torch.cuda.set_rng_state(state["random.cuda"], trainee.device)


def marked(trainee: Trainee) -> dict[str, Tensor]:
    """Return copies of the weights in the model's own precision; all processes must call this."""
    weights = trainee.world.copies(trainee.tensors())
    if trainee.world.is_writer and trainee.wrapped is None:  # adapters are in float32 whatever the model is
        dtype = loading.dtype_of(trainee.hyper["precision"])
        weights |= {name: weights[name].to(dtype) for name in trainee.optimiser.weights}
    return weights


def keep_epoch(trainee: Trainee, work: Path, epoch: int) -> None:
    """Write adapter and moments at the end of an epoch: LESS reads them. All processes must call this."""
    weights, moments = trainee.world.copies(trainee.tensors()), _moments(trainee, "state.")
    if not trainee.world.is_writer:
        return
    folder = work / STATES
    folder.mkdir(exist_ok=True)
    part, final = folder / "partial", folder / f"epoch-{epoch}.safetensors"
    save_file({**{f"weight.{name}": weight for name, weight in weights.items()}, **moments}, part)
    part.replace(final)


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, complete or absent, flushed to disk."""
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(file.name + ".partial")
    save_file(dict(weights), part)
    sync_file(part)
    part.replace(file)
    sync_tree(file.parent, files=False)
