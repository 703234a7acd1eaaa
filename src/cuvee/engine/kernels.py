"""Other packages' GPU kernels in a training, on request.

    liger   `liger-kernel`'s norms, rotary positions and SwiGLU, put into the model; the loss stays ours
    cut     `cut-cross-entropy`'s loss (`cut`), which has no logits

Not run on a GPU by us yet: the first batch's check compares packed with unpacked loss under the same kernels, so it
would not see a wrong one of liger's.

Source: Hsu et al., Liger Kernel, arXiv 2410.10989.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from cuvee.errors import UsageError
from cuvee.runtime import Runtime

PACKAGES = {"liger": ("liger_kernel", "liger-kernel"), "cut": ("cut_cross_entropy", "cut-cross-entropy")}
"""Module and package of each."""


def check(runtime: Runtime) -> None:
    """Refuse kernels that cannot be had here.

    Raises:
        UsageError: with the remedy.
    """
    name = runtime.kernels
    if name == "stock":
        return
    module, package = PACKAGES[name]
    if find_spec(module) is None:
        raise UsageError(f"--kernels {name} needs the package {package}; pip install 'cuvee[{name}]'")
    if runtime.device == "cpu":
        raise UsageError(f"--kernels {name} runs on GPUs only, and the device is the CPU; leave --kernels away")
    if name == "cut" and runtime.processes > 1 and runtime.shard == "fsdp":
        raise UsageError("--kernels cut needs the head's whole weights, which --shard fsdp divides; use --shard ddp")


def put(model: Any, runtime: Runtime) -> None:
    """Put the kernels that the runtime names into a model, in place; architectures they do not know stay as they are.

    Raises:
        UsageError: as `check`.
    """
    check(runtime)
    if runtime.kernels == "liger":
        theirs = importlib.import_module("liger_kernel.transformers")
        theirs._apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)


def token_losses(model: Any, runtime: Runtime) -> Callable[..., Any]:
    """Return the loss of a training's passes, called as `loss.token_losses`.

    Raises:
        UsageError: the kernels that the runtime names do not compute this model's loss.
    """
    from cuvee.engine import cut, loss  # with torch, which a check has no need of

    if runtime.kernels != "cut":
        return lambda *given, **more: loss.token_losses(*given, **more)
    cut.check(model)
    return cut.token_losses
