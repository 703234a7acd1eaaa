"""Another package's GPU kernels in a model, on request: `liger-kernel`'s norms, rotary positions and SwiGLU.

The loss stays ours, since it is made at the supervised positions only. Not run on a GPU by us yet: the first batch's
check compares packed with unpacked loss under the same kernels, so it would not see a wrong one.

Source: Hsu et al., Liger Kernel, arXiv 2410.10989.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from cuvee.errors import UsageError
from cuvee.runtime import Runtime


def check(runtime: Runtime) -> None:
    """Refuse kernels that cannot be had here.

    Raises:
        UsageError: with the remedy.
    """
    if runtime.kernels == "stock":
        return
    if find_spec("liger_kernel") is None:
        raise UsageError("--kernels liger needs the package liger-kernel; pip install 'cuvee[liger]'")
    if runtime.device == "cpu":
        raise UsageError("--kernels liger runs on GPUs only, and the device is the CPU; leave --kernels away")


def put(model: Any, runtime: Runtime) -> None:
    """Put the kernels that the runtime names into a model, in place; architectures they do not know stay as they are.

    Raises:
        UsageError: as `check`.
    """
    check(runtime)
    if runtime.kernels != "stock":
        theirs = importlib.import_module("liger_kernel.transformers")
        theirs._apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
