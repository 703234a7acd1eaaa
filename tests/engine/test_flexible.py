"""Flex attention under a mask of blocks is attention inside each segment; on the CPU, uncompiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cuvee.engine import attention, flexible, loading, loss  # noqa: E402
from cuvee.engine.flat import flatten  # noqa: E402

from .conftest import make_rows  # noqa: E402
from .test_gradients import reference  # noqa: E402

LENGTHS = (3, 130, 1, 127, 128, 60)


def drawn(seed: int, heads: int) -> Any:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, heads, sum(LENGTHS), 16, generator=draw)


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (8, None), (None, 2.0), (129, 2.0)])
def test_it_equals_one_call_a_segment(window: int | None, softcap: float | None) -> None:
    query, key, value = drawn(0, 4), drawn(1, 2), drawn(2, 2)
    with _unfused():
        found = flexible.attend(query, key, value, LENGTHS, None, window, softcap)
    expected, _ = attention.segment_attention(
        torch.nn.Identity(), query, key, value, None, sliding_window=window, softcap=softcap, cuvee_segments=LENGTHS
    )
    assert torch.allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("window", [None, 1, 100, 300])
def test_no_block_that_matters_is_left_out(window: int | None) -> None:
    """Against every pair of tokens."""
    owner = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    places = torch.arange(len(owner))
    seen = (owner[:, None] == owner) & (places[:, None] >= places)
    if window is not None:
        seen &= places[:, None] - places < window
    number, low = flexible.blocks(LENGTHS, window)
    for block in range(number):
        rows = seen[block * flexible.BLOCK : (block + 1) * flexible.BLOCK]
        assert int(rows.any(0).nonzero().min()) // flexible.BLOCK == low[block]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_pass_on_it_has_the_loss_of_the_float64_reference(
    kind: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss alone: torch has no backward pass of it on the CPU."""
    calls: list[int] = []
    real = flexible.attend
    monkeypatch.setattr(flexible, "fits", lambda *asked: True)
    monkeypatch.setattr(flexible, "attend", lambda *given: (calls.append(1), real(*given))[1])
    rows = make_rows(10)
    flat = flatten(rows, torch.device("cpu"))
    with _unfused(), torch.no_grad():
        loaded = loading.load(model_folder(kind), "float32", torch.device("cpu"))
        loaded.use(loaded.layout)
        nll = loss.token_losses(loaded.model, flat, segments=True)
    assert loaded.layout == "flat"
    assert calls
    assert float(nll.double().mean()) == pytest.approx(reference(model_folder(kind), rows)[0], rel=1e-6)


def test_what_neither_way_of_one_call_can_do_is_one_call_a_run_of_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float32, shape=(1, 4, 9, 64))
    small = SimpleNamespace(**{**vars(on_a_gpu), "shape": (1, 4, 9, 8)})
    on_a_cpu = SimpleNamespace(**{**vars(on_a_gpu), "device": SimpleNamespace(type="cpu")})

    def chosen(query: Any, dropout: float = 0.0) -> list[str]:
        return [kernel.__name__ for kernel in attention.FAST if kernel.fits(query, query, dropout, None)]

    assert chosen(on_a_gpu) == ["cuvee.engine.flexible"]
    assert chosen(on_a_gpu, dropout=0.1) == chosen(small) == chosen(on_a_cpu) == []
    monkeypatch.setattr(flexible, "_left", True)
    assert chosen(on_a_gpu) == []


class _unfused(warnings.catch_warnings):
    """torch warns that uncompiled flex attention makes all scores."""

    def __enter__(self) -> Any:
        found = super().__enter__()
        warnings.filterwarnings("ignore", message="flex_attention called without")
        return found
