"""What each process of `test_devices` does: many_processes.py FOLDERS PLACE, in torchrun's environment."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from cuvee import preemption
from cuvee.engine import devices, loop, loss
from cuvee.errors import StageFailed, UsageError
from tests.engine import test_loop as t
from tests.engine.conftest import RUNTIME, hyper, micro_batches

FOLDERS, PLACE = json.loads(sys.argv[1]), Path(sys.argv[2])
WORLD = devices.join(replace(RUNTIME, processes=2))
DDP, FSDP = replace(WORLD, shard="ddp"), WORLD
NARROW = replace(RUNTIME, micro_tokens=48)
LORA = {
    "method": "lora",
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "rslora": False},
}


def run(
    name: str, world: devices.World, kind: str = "llama", runtime: Any = NARROW, rows: Any = t.ROWS, **hy: Any
) -> Any:
    place = PLACE / name
    return loop.train(
        Path(FOLDERS[kind]),
        rows,
        t.STEPS,
        hyper(**hy),
        place / "out",
        place / "work",
        runtime,
        t.silent,
        micro_batches=micro_batches,
        marks=[Fraction(1, 2)],
        world=world,
    )


def refused(error: type[BaseException], name: str, *arguments: Any, **more: Any) -> str:
    try:
        run(name, *arguments, **more)
    except error as found:
        return str(found) or type(found).__name__
    raise AssertionError(f"{name} went through")


class Signals(t.Breaks):
    """Rows that ask this process to stop when row 13 is read for the second time."""

    def __getitem__(self, index: int) -> Any:
        try:
            return super().__getitem__(index)
        except t.Stop:
            os.kill(os.getpid(), signal.SIGTERM)
            return t.ROWS[index]


def scarce(most: int) -> Any:
    """Make forward passes of more than `most` tokens find no memory in the second process; return what undoes it."""
    real = loss.token_losses

    def losses(model: Any, flat: Any, *, segments: bool) -> Any:
        if WORLD.rank == 1 and flat.ids.shape[1] > most and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(model, flat, segments=segments)

    loss.token_losses = losses
    return real


def main() -> None:
    for name, world in (("ddp", DDP), ("fsdp", FSDP)):
        run(name, world)
        run(f"{name}-bf16", world, "llama-tied", precision="bfloat16")
        run(f"{name}-lora", world, **LORA)
        run(f"{name}-lora-bf16", world, precision="bfloat16", **LORA)
        run(f"{name}-resumed", world, runtime=t.EVERY)
        refused(t.Stop, f"{name}-broken", world, runtime=t.EVERY, rows=t.Breaks(13, 2))
        said = refused(StageFailed, f"{name}-nan", world, learning_rate=float("inf"))
        assert "step 2 of 8" in said, said
    run("fsdp-gpt2", FSDP, "gpt2", replace(NARROW, checkpoint_activations=True), eps=1e-6)
    run("fsdp-single", FSDP, "bloom", eps=1e-6)
    run("fsdp-sgd", FSDP, optimiser="sgd", clip=0.5)
    run("fsdp-l2_sp", FSDP, regulariser={"l2_sp": {"weight": 0.5}})
    run("ddp-kl", DDP, regulariser={"l2_sp": {"weight": 0.5}, "kl": {"weight": 0.5, "direction": "forward"}})
    assert "kl" in refused(UsageError, "fsdp-kl", FSDP, regulariser={"kl": {"weight": 0.5, "direction": "forward"}})
    assert "adafactor" in refused(UsageError, "fsdp-adafactor", FSDP, optimiser="adafactor")
    run(f"rank{WORLD.rank}", FSDP)  # folders of their own: who writes what
    preemption.listen()
    refused(preemption.Stopped, "fsdp-stopped", FSDP, rows=Signals(13, 2) if WORLD.rank else t.ROWS)
    preemption._asked = False
    real = scarce(40)
    run("ddp-memory", DDP, runtime=replace(RUNTIME, micro_tokens=200))
    try:  # the first process waits for the second, which ends
        refused(
            devices.Restart if WORLD.rank else RuntimeError,
            "fsdp-memory",
            FSDP,
            runtime=replace(RUNTIME, micro_tokens=200),
        )
    finally:
        loss.token_losses = real


if __name__ == "__main__":
    code = 0
    try:
        main()
    except BaseException:
        code = 1
        (PLACE / f"error-{WORLD.rank}").write_text(traceback.format_exc())
    os._exit(code)
