"""The processes of one training: how many there are, which one this is, and the few things that they tell each other.

    ddp     every process holds the whole model; gradients are added once an optimiser step
    fsdp    every process holds 1/n of each weight, gradient and moment; a layer is gathered while it is used

A step's examples are dealt out by length. Losses are divided by the supervised tokens of the whole step before they
are differentiated, so adding gradients over micro batches and processes gives the gradient of one mean.

Source: Rajbhandari et al., ZeRO, arXiv 1910.02054; Zhao et al., PyTorch FSDP, arXiv 2304.11277; the second form is
PyTorch's own `fully_shard`.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cuvee.protocols import TokenRow
from cuvee.runtime import Runtime

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others; `launch` ends them sooner when one of them dies."""

PATIENCE = timedelta(days=30)
"""How long they wait for what one of them does by itself, such as preparing data."""

BUCKET = 1 << 24
"""Values that are added over processes in one exchange: 64 MiB in float32."""


class Restart(Exception):
    """A process ran out of memory where the others wait for it: all must start again from the last checkpoint."""


@dataclass(frozen=True)
class World:
    """One process among those that train together; alone unless told otherwise.

    Args:
        rank: its number, from 0.
        size: how many there are.
        local: its number on its machine, which is that of its GPU.
        shard: ``ddp`` or ``fsdp``; without meaning for one process.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    shard: str = "ddp"

    @property
    def is_writer(self) -> bool:
        """Whether this process writes log, checkpoints and model, and speaks for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether this process trains by itself."""
        return self.size == 1

    @property
    def sharded(self) -> bool:
        """Whether weights are divided among the processes."""
        return self.size > 1 and self.shard == "fsdp"

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process: its own GPU of the machine."""
        return torch.device("cuda", self.local) if device.type == "cuda" and not self.alone else device

    # ------------------------------------------------------------------------------------------ exchanges

    def sum(self, tensor: Tensor) -> None:
        """Add a tensor over all processes, in place."""
        if not self.alone:
            distributed.all_reduce(tensor)

    def pool(self, own: Tensor, before: int, total: int) -> Tensor:
        """Return the columns of all processes, (k, total); `own` (k, n) begin at column `before`."""
        if self.alone:
            return own
        whole = own.new_zeros(own.shape[0], total)
        whole[:, before : before + own.shape[1]] = own
        self.sum(whole)
        return whole

    def each(self, value: float) -> list[float]:
        """Return the value of every process, by rank."""
        found = self.pool(torch.tensor([[value]], dtype=torch.float64), self.rank, self.size)
        return [float(one) for one in found[0]]

    def any(self, value: bool) -> bool:
        """Return whether it is so in any process."""
        return any(self.each(value))

    def first(self, value: float) -> float:
        """Return the writer's value."""
        return self.each(value)[0]

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.each(0.0)

    def share(self, rows: Sequence[TokenRow], rank: int | None = None) -> list[int]:
        """Return which rows one process (this one unless told) takes: the longest first to whom has fewest tokens.

        Rows keep their order; every process finds the same division.
        """
        if self.alone:
            return list(range(len(rows)))
        loads = [(0, number) for number in range(self.size)]
        owner = [0] * len(rows)
        for index in sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i)):
            load, number = heapq.heappop(loads)
            owner[index] = number
            heapq.heappush(loads, (load + len(rows[index].ids), number))
        wanted = self.rank if rank is None else rank
        return [index for index, number in enumerate(owner) if number == wanted]

    def add_gradients(self, tensors: Iterable[Tensor]) -> None:
        """Add gradients over all processes; without meaning where weights are divided, since FSDP has done so.

        A tensor that has a gradient nowhere keeps none: its moments are left alone, as in one process.
        """
        if self.alone or self.sharded:
            return
        every = list(tensors)
        there = torch.tensor([float(t.grad is not None) for t in every])
        self.sum(there)
        used = [tensor for tensor, number in zip(every, there.tolist(), strict=True) if number]
        for tensor in used:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        for group in _buckets([t.grad for t in used if t.grad is not None]):
            flat = torch.cat([grad.reshape(-1) for grad in group])
            self.sum(flat)
            for grad, added in zip(group, torch.split(flat, [grad.numel() for grad in group]), strict=True):
                grad.copy_(added.view_as(grad))

    # -------------------------------------------------------------------------------------- divided weights

    def divide(self, model: nn.Module, device: torch.device, *, compute: torch.dtype) -> None:
        """Divide a model's weights among the processes, one layer after another, each on its device from then on.

        Weights that are trained are held in float32; a forward pass sees them in `compute`, and gradients are added
        in float32. Where some are frozen (adapters), all keep the precision they have.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(device.type, (self.size,))
        whole = all(weight.requires_grad for weight in model.parameters())
        policy = MixedPrecisionPolicy(
            param_dtype=compute if whole and compute != torch.float32 else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for module in (*_layers(model), model):
            if whole:
                for weight in module.parameters():
                    weight.data = weight.data.float() if not _is_divided(weight) else weight.data
            # The outermost too: a pass that no backward pass follows, as the checks are, must leave it divided.
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)

    def own(self, weight: Any) -> Tensor:
        """Return this process's part of a weight; it shares its memory."""
        part: Tensor = weight.to_local() if _is_divided(weight) else weight
        return part

    def whole(self, part: Tensor, weight: Any) -> Tensor:
        """Return a tensor of all processes, such as a moment, from its parts; all must call this.

        Args:
            part: what this process has of it.
            weight: the weight it belongs to, which says how it is divided.
        """
        if not _is_divided(weight) or part.shape != self.own(weight).shape:
            return part
        mesh, places = weight.device_mesh, weight.placements
        with torch.no_grad():
            found = weight.from_local(part, mesh, places, run_check=False, shape=weight.shape, stride=weight.stride())
            full: Tensor = found.full_tensor()
        return full

    def read(self, file: Any, name: str, weight: Tensor | None) -> Tensor:
        """Return of a stored tensor what this process has of it.

        Args:
            file: an open safetensors file.
            name: the tensor's name there.
            weight: the weight it belongs to; None for what is not divided.
        """
        stored = file.get_slice(name)
        if weight is None or not _is_divided(weight) or stored.get_shape() != list(weight.shape):
            whole: Tensor = file.get_tensor(name)
            return whole
        rows, length = weight.shape[0], self.own(weight).shape[0]
        start = min(rows, self.rank * -(-rows // self.size))  # as torch.chunk divides
        part: Tensor = stored[start : start + length]
        return part

    def copies(self, tensors: Iterable[tuple[str, Tensor, Tensor | None]]) -> dict[str, Tensor]:
        """Return whole tensors in memory of their own on the host, for the writer; nothing for the others.

        Args:
            tensors: name, this process's part, and the weight it belongs to (None: it is not divided).
        """
        found = {}
        for name, part, weight in tensors:
            whole = part if weight is None else self.whole(part, weight)
            if self.is_writer:
                found[name] = whole.detach().to("cpu", copy=True).contiguous()
        return found

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return the Euclidean norm of divided gradients over all processes, ()."""
        square = torch.nn.utils.get_total_norm(gradients).square()
        self.sum(square)
        return square.sqrt()


def join(runtime: Runtime) -> World:
    """Join the processes that the environment names (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``), as torchrun sets it.

    They meet at the file ``CUVEE_RENDEZVOUS``, or where it is not set at ``MASTER_ADDR`` and ``MASTER_PORT``.
    """
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    world = World(rank, size, local, runtime.shard)
    if size > 1:
        cuda = runtime.device != "cpu" and torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(local)
        meeting = os.environ.get("CUVEE_RENDEZVOUS")
        distributed.init_process_group(
            # Small things of the host go over gloo.
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method=f"file://{meeting}" if meeting else "env://",
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
    return world


def patience(world: World) -> Callable[[], None]:
    """Return a `World.wait` for work that one process does while the others wait, however long; all must call this."""
    if world.alone:
        return world.wait
    group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    return lambda: distributed.all_reduce(torch.zeros(1), group=group)


def stored(world: World, weights: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Return the weight that an optimiser's tensor belongs to, such as ``state.exp_avg.<weight>``; None for others."""
    return weights.get(name.split(".", 2)[-1]) if world.sharded else None


def _is_divided(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that are gathered one at a time: those that transformers names, else the longest list."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if found:
        return [one for one in found if not any(one is not other and _inside(one, other) for other in found)]
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


def _inside(module: nn.Module, other: nn.Module) -> bool:
    return any(module is one for one in other.modules())


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors in groups of at most `BUCKET` values, or one alone."""
    group: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if group and held + tensor.numel() > BUCKET:
            yield group
            group, held = [], 0
        group.append(tensor)
        held += tensor.numel()
    if group:
        yield group
