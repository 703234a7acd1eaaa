"""The GPU's path of attention, on the CPU with a stand-in that does what torch's documentation says of its function.

That the kernel itself does so is checked on a GPU by the first batch of every training, not here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cuvee.engine import attention, varlen  # noqa: E402

LENGTHS = (5, 5, 3, 9)


def stand_in(query: Any, key: Any, value: Any, ends_q: Any, ends_k: Any, max_q: int, max_k: int, **more: Any) -> Any:
    """Attention over (T, heads, size) by segments; window (left, 0): that many tokens to the left besides itself."""
    assert ends_q.dtype == torch.int32
    assert (max_q, max_k) == (max(LENGTHS), max(LENGTHS))
    repeats = query.shape[1] // key.shape[1]
    assert more["enable_gqa"] == (repeats > 1)
    key, value = (tensor.repeat_interleave(repeats, 1) for tensor in (key, value))
    segment = torch.bucketize(torch.arange(query.shape[0]), ends_q[1:], right=True)
    place = torch.arange(query.shape[0])
    away = place[:, None] - place[None, :]
    left, right = more["window_size"]
    assert right == 0
    seen = (segment[:, None] == segment[None, :]) & (away >= 0) & ((away <= left) if left >= 0 else True)
    scale = more["scale"] or query.shape[-1] ** -0.5
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), value)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_one_call_equals_one_a_run_of_lengths(
    heads: int, window: int | None, scaling: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    query, key, value = (torch.randn(1, n, total, 8, generator=draw) for n in (4, heads, heads))
    layer: Any = SimpleNamespace(is_causal=True)
    told = {"scaling": scaling, "sliding_window": window, attention.NAME: LENGTHS}
    expected, _ = attention.segment_attention(layer, query, key, value, None, **told)
    monkeypatch.setattr(varlen, "fits", lambda *_: True)
    monkeypatch.setattr(varlen, "function", lambda: stand_in)
    found, _ = attention.segment_attention(layer, query, key, value, None, **told)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_is_for_half_precision_on_a_gpu_and_what_the_kernel_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "function", lambda: stand_in)

    def fits(kind: str = "cuda", dtype: Any = torch.bfloat16, size: int = 64, **more: Any) -> bool:
        query: Any = SimpleNamespace(device=SimpleNamespace(type=kind), dtype=dtype, shape=(1, 4, 10, size))
        return varlen.fits(query, query, more.get("dropout", 0.0), more.get("softcap"))

    assert fits()
    assert not fits("cpu")
    assert not fits(dtype=torch.float32)
    assert not fits(size=512)
    assert not fits(dropout=0.1)
    assert not fits(softcap=2.0)
    monkeypatch.setattr(varlen, "_left", True)
    assert not fits()


def test_where_it_fails_the_check_the_slow_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that raises must not cost the flat layout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    left: list[bool] = []

    def leave() -> bool:
        left.append(True)
        return len(left) == 1

    monkeypatch.setattr(varlen, "fits", lambda *_: not left)
    monkeypatch.setattr(varlen, "function", lambda: broken)
    monkeypatch.setattr(varlen, "leave", leave)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    assert attention.supports(model) == ""
    assert left == [True]
