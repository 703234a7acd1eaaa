"""Kernels of other packages are put in on request, with our own loss, or refused with the remedy."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from cuvee.engine import kernels
from cuvee.errors import UsageError
from cuvee.runtime import Runtime


def test_kernels_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.check(Runtime())
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[liger\]'"):
        kernels.check(Runtime(kernels="liger", device="cuda"))
    monkeypatch.setattr(kernels, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match="GPUs only"):
        kernels.check(Runtime(kernels="liger", device="cpu"))
    with pytest.raises(UsageError, match="Did you mean 'liger'"):
        Runtime(kernels="ligre")


def test_the_loss_stays_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    theirs = ModuleType("liger_kernel.transformers")
    theirs._apply_liger_kernel_to_instance = lambda **more: told.append(more)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", theirs)
    monkeypatch.setattr(kernels, "find_spec", lambda name: object())
    kernels.put("model", Runtime())
    assert told == []
    kernels.put("model", Runtime(kernels="liger", device="cuda"))
    assert told == [{"model": "model", "cross_entropy": False, "fused_linear_cross_entropy": False}]
