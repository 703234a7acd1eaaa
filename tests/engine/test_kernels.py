"""Kernels of other packages are put in on request or refused with the remedy; cut cross-entropy with a stand-in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cuvee.engine import cut, kernels, loading, lora, loss  # noqa: E402
from cuvee.engine.flat import flatten  # noqa: E402
from cuvee.errors import UsageError  # noqa: E402
from cuvee.runtime import Runtime  # noqa: E402

from .conftest import make_rows  # noqa: E402


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


def stand_in(hidden: Any, weights: Any, targets: Any, *, softcap: Any, reduction: str, filter_eps: Any) -> Any:
    """What the package's documentation says of its function, with all logits."""
    assert (reduction, filter_eps) == ("none", None)
    logits = (hidden @ weights.T).float()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none").to(hidden.dtype)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = ModuleType(cut.PACKAGE)
    found.linear_cross_entropy = stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, cut.PACKAGE, found)
    return found


@pytest.mark.parametrize("kind", ["llama-tied", "gemma2", "gpt2"])
def test_cut_cross_entropy_is_the_same_loss(
    kind: str, package: ModuleType, model_folder: Callable[[str], Path]
) -> None:
    loaded = loading.load(model_folder(kind), "bfloat16", torch.device("cpu"))
    loaded.use("flat")
    cut.check(loaded.model)
    flat = flatten(make_rows(6), torch.device("cpu"))
    found, gradients = [], []
    for each in (loss.token_losses, cut.token_losses):
        nll = each(loaded.model, flat, segments=True)
        nll.mean().backward()
        found.append(nll.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in loaded.model.parameters()]).float())
        loaded.model.zero_grad()
    assert torch.allclose(*found, rtol=2e-2, atol=2e-2)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 2e-2


def test_cut_cross_entropy_is_refused_where_it_is_not_the_loss(
    package: ModuleType, model_folder: Callable[[str], Path]
) -> None:
    def model(kind: str, precision: str = "bfloat16") -> Any:
        return loading.load(model_folder(kind), precision, torch.device("cpu")).model

    with pytest.raises(UsageError, match="precision: bfloat16"):
        cut.check(model("llama", "float32"))
    with pytest.raises(UsageError, match="head of this phi model is not one matrix"):
        cut.check(model("phi"))
    pytest.importorskip("peft")
    adapted = model("llama")
    settings = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["lm_head"], "rslora": False}
    lora.attach(adapted, settings, 0, None)
    with pytest.raises(UsageError, match="not one matrix"):  # else the adapter would have no gradient
        cut.check(adapted)
    package.linear_cross_entropy = lambda *given, **more: 1.5 * stand_in(*given, **more)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="differs from our own by"):
        cut.check(model("llama"))


def test_cut_cross_entropy_needs_whole_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: object())
    kernels.check(Runtime(kernels="cut", device="cuda", processes=2, shard="ddp"))
    with pytest.raises(UsageError, match="use --shard ddp"):
        kernels.check(Runtime(kernels="cut", device="cuda", processes=2))
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[cut\]'"):
        kernels.check(Runtime(kernels="cut", device="cuda"))
