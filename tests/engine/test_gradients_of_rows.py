"""LESS features: published golden values, plain autograd as reference, the projection's laws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

from cuvee.engine import attention, gradients, loading, loop, lora  # noqa: E402
from cuvee.engine.flat import count  # noqa: E402

from .conftest import RUNTIME, hyper, make_rows, micro_batches, silent  # noqa: E402

ROWS = [row for row in make_rows(9, seed=4) if count(row)]
SETTINGS = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "rslora": False}
CPU = torch.device("cpu")


def adapted(folder: Path) -> Any:
    loaded = loading.load(folder, "float32", CPU)
    lora.attach(loaded.model, SETTINGS, 3, None)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if weight.requires_grad:
                weight.copy_(torch.randn_like(weight) * 0.1)
                assert "lora" in name
    return loaded.model


def weights_of(model: Any) -> dict[str, Any]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def test_the_golden_step_of_adam() -> None:
    g, m, v = (torch.tensor(x, dtype=torch.float64) for x in ([[0.1, -0.2]], [0.05, 0.05], [0.01, 0.04]))
    assert gradients.adam_step(g, m, v, (0.9, 0.999))[0].tolist() == pytest.approx([0.54999973, 0.12499998])
    small = torch.tensor([[1e-5]], dtype=torch.float64)
    nothing = torch.zeros(1, dtype=torch.float64)
    # The constant stands inside the root: outside it this would be 3.065.
    assert float(gradients.adam_step(small, nothing, nothing, (0.9, 0.999))) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("segments", [True, False])
def test_gradients_of_a_batch_equal_autograd_row_by_row(segments: bool, model_folder: Callable[[str], Path]) -> None:
    model = adapted(model_folder("llama"))
    stock = model.config._attn_implementation
    names = list(weights_of(model))
    model.set_attn_implementation(attention.NAME if segments else "sdpa")
    found = gradients.per_row(model, names, ROWS, CPU, segments=segments)
    model.set_attn_implementation("sdpa")
    for number, row in enumerate(ROWS):
        ids = torch.tensor([list(row.ids)])
        odds = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0], -1)
        places = [i for start, end in row.spans for i in range(start, end) if i]
        loss = -torch.stack([odds[i - 1, row.ids[i]] for i in places]).mean()
        for name, grad in zip(names, torch.autograd.grad(loss, list(weights_of(model).values())), strict=True):
            torch.testing.assert_close(found[name][number], grad.flatten(), rtol=1e-3, atol=1e-6)
    assert stock


def test_signs_are_reproducible_and_the_projection_is_linear_and_keeps_products() -> None:
    signs, again = gradients.Signs(2048, 0, CPU), gradients.Signs(2048, 0, CPU)
    draw = torch.randn(6, 3000, generator=torch.Generator().manual_seed(1))
    whole = signs.project({"a": draw[:, :1700], "b": draw[:, 1700:]})
    again.block(2)  # another order of asking
    assert torch.equal(whole, again.project({"b": draw[:, 1700:], "a": draw[:, :1700]}))
    one, two = (signs.project({"a": draw[i : i + 1]}) for i in (0, 1))
    both = signs.project({"a": draw[:1] + 2 * draw[1:2]})
    torch.testing.assert_close(both, one + 2 * two, rtol=1e-4, atol=1e-3)
    unit, short = (torch.nn.functional.normalize(x, dim=1) for x in (draw, whole))
    error = (unit @ unit.T - short @ short.T)[~torch.eye(6, dtype=torch.bool)]
    assert float(error.square().mean().sqrt()) < 2 / 2048**0.5
    other = gradients.Signs(2048, 1, CPU).project({"a": draw})
    assert not torch.allclose(other, whole)


def test_features_are_of_length_one_and_a_stopped_pass_goes_on(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(model_folder("llama"))
    state = {f"weight.{n}": w.detach().clone() for n, w in weights_of(model).items()}
    state |= {f"state.exp_avg.{n}": torch.full_like(w, 1e-3) for n, w in weights_of(model).items()}
    state |= {f"state.exp_avg_sq.{n}": torch.full_like(w, 1e-4) for n, w in weights_of(model).items()}
    save_file(state, tmp_path / "state.safetensors")

    def features(name: str, adam: bool = True) -> Any:
        out = tmp_path / f"{name}.npy"
        given = {"settings": SETTINGS, "betas": (0.9, 0.999), "adam": adam, "dims": 64, "seed": 0}
        asked = (model_folder("llama"), tmp_path / "state.safetensors", ROWS, out, RUNTIME, silent)
        gradients.features(*asked, **given, journal=tmp_path / f"{name}.jsonl")
        return np.load(out).astype(float)

    whole, plain = features("whole"), features("plain", adam=False)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(np.ones(len(ROWS)), abs=1e-2)
    assert abs((whole * plain).sum(1)).max() < 0.99
    right, calls = gradients.per_row, []

    def stops(*given: Any, **more: Any) -> Any:
        calls.append(len(given[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return right(*given, **more)

    monkeypatch.setattr(gradients, "per_row", stops)
    with pytest.raises(KeyboardInterrupt):
        features("stopped")
    assert features("stopped") == pytest.approx(whole, abs=2e-3)
    assert sum(calls) == len(ROWS) + calls[1]


def test_a_warm_up_keeps_adapter_and_moments_at_the_end_of_each_epoch(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows, steps = make_rows(6), [[0, 1, 2], [3, 4, 5]] * 2
    settings = hyper(method="lora", lora=SETTINGS, learning_rate=1e-2, steps_per_epoch=2)

    def train(name: str, **more: Any) -> Path:
        given = ({**settings, **more}, tmp_path / name / "out", tmp_path / name, RUNTIME, silent)
        loop.train(model_folder("llama"), rows, steps, *given, micro_batches=micro_batches)
        return tmp_path / name

    kept, plain = train("kept", states="epochs"), train("plain")
    assert not (plain / "states").exists()
    assert sorted(p.name for p in (kept / "states").iterdir()) == ["epoch-1.safetensors", "epoch-2.safetensors"]
    last = load_file(kept / "states" / "epoch-2.safetensors")
    assert float(last[next(name for name in last if name.startswith("state.step"))]) == 4
    saved = load_file(kept / "out" / "adapter_model.safetensors")
    assert saved.keys() == load_file(plain / "out" / "adapter_model.safetensors").keys()
    for name, weight in saved.items():
        factor = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        torch.testing.assert_close(last[f"weight.{factor}"], weight)
