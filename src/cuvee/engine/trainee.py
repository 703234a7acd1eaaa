"""What is trained: a stock model on its device, with its adapter, its optimiser, and what holds it near its start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuvee.engine import kernels, loading, lora
from cuvee.engine.devices import World
from cuvee.engine.optimiser import Optimiser
from cuvee.engine.regularisers import WeightPenalty, ewc, kl, l2_sp
from cuvee.errors import UsageError
from cuvee.protocols import TokenRows
from cuvee.runtime import Runtime


class Trainee:
    """See the module.

    Args:
        folder: the model.
        hyper: the settings, as in `loop.train`.
        runtime: kernels, activations.
        device: of this process.
        world: the processes that train together.
        adapter: with method lora, the adapter to go on with in place of a new one.
        fisher: with regulariser ewc, the file with the Fisher information.
    """

    def __init__(
        self,
        folder: Path,
        hyper: Mapping[str, Any],
        runtime: Runtime,
        device: torch.device,
        world: World,
        adapter: Path | None = None,
        fisher: Path | None = None,
    ) -> None:
        self.folder, self.hyper, self.runtime, self.device, self.world = folder, hyper, runtime, device, world
        self.adapter = adapter
        self.kl: kl.KL | None = None
        asked = hyper.get("regulariser", {})
        self.loaded, self.wrapped = self._divided() if world.sharded else self._whole(asked)
        if self.kl and runtime.kernels == "cut":
            raise UsageError("--kernels cut makes no logits, which regulariser kl compares; leave --kernels away")
        self.token_losses = kernels.token_losses(self.model, runtime)
        self.optimiser = Optimiser(self.model, hyper, world)
        self.anchors = self._anchors(asked, fisher)

    @property
    def model(self) -> Any:
        """The stock model, PEFT's layers in it where there is an adapter."""
        return self.loaded.model

    def _whole(self, asked: Mapping[str, Any]) -> tuple[loading.Loaded, Any]:
        """Return the model and PEFT's wrapper around it, None without an adapter."""
        loaded = loading.load(self.folder, self.hyper["precision"], self.device)
        kernels.put(loaded.model, self.runtime)
        if kl.NAME in asked:  # of the starting model, before an adapter is put into it
            self.kl = self._kl(loaded, asked[kl.NAME])
        return loaded, self._attach(loaded.model)

    def _divided(self) -> tuple[loading.Loaded, Any]:
        dtype = loading.dtype_of(self.hyper["precision"])
        model = loading.load_stock(self.folder, dtype)
        kernels.put(model, self.runtime)
        wrapped = self._attach(model)
        self.world.divide(model, self.device, compute=dtype)
        return loading.ready(model), wrapped

    def _attach(self, model: Any) -> Any:
        if self.hyper.get("method") != "lora":
            return None
        return lora.attach(model, self.hyper["lora"], int(self.hyper["seed"]), self.adapter)

    def _kl(self, loaded: loading.Loaded, settings: Mapping[str, Any]) -> kl.KL:
        """Return the penalty of the outputs; with LoRA the starting model shares the frozen weights."""
        twin = kl.frozen_twin(loaded, shared=self.hyper.get("method") == "lora")
        if self.adapter is not None:
            lora.freeze_with(twin.model, self.adapter)
        return kl.KL(float(settings["weight"]), settings["direction"], twin)

    def _anchors(self, asked: Mapping[str, Any], fisher: Path | None) -> list[WeightPenalty]:
        """Return the penalties of the weights, which are now those that the training starts from."""
        found: list[WeightPenalty] = []
        strengths = {name: float(settings["weight"]) for name, settings in asked.items() if name != kl.NAME}
        if self.wrapped is not None:
            if ewc.NAME in strengths:
                raise UsageError(
                    "regulariser ewc needs the Fisher information of what is trained, and an adapter is new"
                )
            if l2_sp.NAME in strengths:
                found.append(l2_sp.OfAdapter(strengths[l2_sp.NAME], lora.factors(self.wrapped)))
            return found
        weights, masters = self.optimiser.weights, self.optimiser.masters
        if strengths:
            starts = {name: self.world.own(w).detach().clone() for name, w in weights.items()}
        if l2_sp.NAME in strengths:
            found.append(l2_sp.of_weights(strengths[l2_sp.NAME], masters, starts))
        if ewc.NAME in strengths:
            if fisher is None:
                raise UsageError("regulariser ewc needs the Fisher information of the starting model")
            found.append(ewc.of_weights(strengths[ewc.NAME], masters, starts, fisher))
        return found

    def check_rows(self, rows: TokenRows) -> str:
        """Refuse rows that the model cannot take, where the rows can tell; return what is worth saying of the others.

        Raises:
            ModelError: a row is too long, or has a token that the vocabulary lacks.
        """
        extent = getattr(rows, "extent", None)
        if extent is None:
            return ""
        longest, largest = extent()
        loading.check_extent(self.model, longest, largest)
        known = loading.trained_positions(self.model)
        more = f"rows of up to {longest} tokens; the model's configuration knows {known} positions"
        return more if longest > known else ""

    def begin(self, layout: str) -> str:
        """Take a layout, and training's own mode; return what is worth saying."""
        self.loaded.use(layout)
        if self.kl:
            self.kl.twin.use(layout)
        self.model.train()
        return self._forget_activations() if self.runtime.checkpoint_activations else ""

    def _forget_activations(self) -> str:
        if not getattr(self.model, "supports_gradient_checkpointing", False):
            return "checkpoint_activations: the architecture cannot; all activations are kept"
        # The second is its name in earlier versions of transformers.
        name = "activation_checkpointing_enable"
        enable = getattr(self.model, name if hasattr(self.model, name) else "gradient_checkpointing_enable")
        # Not reentrant: the other kind loses the gradients of adapters on a frozen base.
        enable({"use_reentrant": False})
        return ""

    def tensors(self) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Yield what a training changes: weights that need a gradient (an adapter's alone with LoRA), and buffers.

        That is a name, what this process holds of it (in float32 where the optimiser does), and the weight that says
        how it is divided.
        """
        for name, weight in self.optimiser.weights.items():
            yield name, self.optimiser.masters[name], weight
        for name, buffer in self.model.named_buffers():
            yield name, buffer, None

    def penalties(self, far: Sequence[Tensor], supervised: int) -> dict[str, Tensor]:
        """Add the gradients of the weights' penalties; return all penalties, each (), of all processes together.

        Args:
            far: the weighted KL of each pass of this process.
            supervised: supervised tokens of the step.
        """
        found = {}
        if self.kl:
            found[kl.NAME] = torch.stack([torch.zeros((), device=self.device), *far]).sum() / supervised
            self.world.sum(found[kl.NAME])
        for anchor in self.anchors:
            found[anchor.name] = anchor.add()
            if self.world.sharded:  # of this process's part of the weights
                self.world.sum(found[anchor.name])
        return found

    def export(self, out: Path) -> None:
        """Save the model as an ordinary folder; the writer does, from what all hold."""
        model, wrapped = self.model, self.wrapped
        if self.world.sharded:
            if self.world.is_writer:
                # A stock model of its own in host memory takes the whole weights, one after another.
                model = loading.load_stock(self.folder, loading.dtype_of(self.hyper["precision"]))
                wrapped = self._attach(model)
            targets = dict(model.named_parameters())
            for name, weight in self.optimiser.weights.items():
                whole = self.world.whole(self.optimiser.masters[name], weight)
                if self.world.is_writer:
                    targets[name].data = whole.to("cpu", targets[name].dtype, copy=True)
        if not self.world.is_writer:
            return
        if wrapped is None:
            loading.save(model, self.folder, out)
        else:
            lora.save(wrapped, self.folder, out)
