"""What is asked of every merger that exists, whatever it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cuvee import components
from cuvee.merging import streaming
from tests.merging.models import folder, merged, near, tensors

EVERY = sorted(components.names("mergers"))
NAMES = [name for name in EVERY if getattr(components.find("mergers", name), "OF", "") != "adapters"]
"""Those of models; what is asked of those of adapters is in ``tests/merging/test_adapters.py``."""
NEUTRAL: dict[str, dict[str, Any]] = {
    "task_arithmetic": {"normalize": True},
    "ties": {"density": 1.0},
    "dare_linear": {"density": 1.0, "normalize": True},
    "dare_ties": {"density": 1.0, "normalize": True},
    "wise_ft": {"alpha": 1.0},
}
"""Parameters at which a method changes nothing it need not change."""

EXACT = {"linear", "slerp", "selective", "fisher"}
"""Equal models give that model bit for bit; the others go by way of a difference from the base, which rounds."""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PIECE", 16)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(path: Path, name: str, models: list[dict[str, Tensor]], base: dict[str, Tensor], **how: Any) -> Any:
    """Merge models by a method with its neutral or the given parameters."""
    folders = [folder(path / f"m{i}", model) for i, model in enumerate(models)]
    extras: tuple[Path, ...] = ()
    if getattr(components.find("mergers", name), "EXTRAS", ""):
        extras = tuple(folder(path / f"e{i}", near(base, 70 + i)) for i in range(len(models)))
    out = how.pop("out", "out")
    return merged(folders, path / out, name, base=folder(path / "base", base), extras=extras, **how)


def count(name: str, wanted: int) -> int:
    """Return how many models a method is given: as many as wanted, or what it takes."""
    least, most = components.find("mergers", name).MODELS
    return max(least, min(wanted, most or wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_models_give_that_model(tmp_path: Path, name: str, dtype: Any) -> None:
    base = tensors(0, dtype=dtype)
    model = near(base, 1)
    found = run(tmp_path, name, [model] * count(name, 3), base, **NEUTRAL.get(name, {}))
    for key, value in model.items():
        assert found[key].dtype == dtype
        if name in EXACT or dtype == torch.bfloat16:
            assert torch.equal(found[key], value), key
        else:
            torch.testing.assert_close(found[key], value, rtol=0, atol=3e-7)


def test_one_model_gives_itself(tmp_path: Path, name: str) -> None:
    if count(name, 1) > 1:
        return  # needs two: the claim above is all there is to say
    base = tensors(0)
    model = near(base, 1)
    found = run(tmp_path, name, [model], base, **NEUTRAL.get(name, {}))
    for key, value in model.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0 if name in EXACT else 3e-7)


def test_threads_pieces_and_shards_change_no_bit(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tensors(0)
    models = [near(base, i) for i in range(1, 1 + count(name, 3))]
    one = run(tmp_path, name, models, base)
    many = run(tmp_path, name, models, base, out="many", threads=4, shard_bytes=150)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert all(torch.equal(one[key], many[key]) for key in one)
    monkeypatch.setattr(streaming, "PIECE", 5)
    finer = run(tmp_path, name, models, base, out="finer")
    for key in one:  # sums over a tensor are made piece by piece
        torch.testing.assert_close(one[key], finer[key], rtol=1e-6, atol=1e-7)


def test_the_order_of_models_matters_only_where_it_says_so(tmp_path: Path, name: str) -> None:
    module = components.find("mergers", name)
    if module.ORDERED or "seed" in module.Params.model_fields or getattr(module, "EXTRAS", ""):
        return  # draws hang on the model's number, which a merge stage gives by the models' ids
    base = tensors(0)
    models = [near(base, i) for i in range(1, 4)]
    one = run(tmp_path, name, models, base)
    turned = run(tmp_path, name, models[::-1], base, out="turned")
    for key in one:
        torch.testing.assert_close(one[key], turned[key], rtol=1e-6, atol=1e-7)


def test_a_seed_is_repeatable_and_another_seed_is_another_model(tmp_path: Path, name: str) -> None:
    if "seed" not in components.find("mergers", name).Params.model_fields:
        return
    base = tensors(0)
    models = [near(base, i) for i in range(1, 4)]
    first, again, other = (
        run(tmp_path, name, models, base, out=f"{number}", seed=seed) for number, seed in enumerate((3, 3, 4))
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_float64_is_nearer_to_itself_in_float32_than_a_rounding_error(tmp_path: Path, name: str) -> None:
    base = tensors(0)
    models = [near(base, i) for i in range(1, 1 + count(name, 3))]
    narrow, wide = (
        run(tmp_path, name, models, base, out=compute, compute=compute) for compute in ("float32", "float64")
    )
    for key in narrow:
        torch.testing.assert_close(narrow[key], wide[key], rtol=1e-5, atol=1e-6)


def test_parameters_can_differ_by_tensor(tmp_path: Path, name: str) -> None:
    params = components.find("mergers", name).Params
    changes = {"weights": [1.0] + [0.0] * (count(name, 3) - 1), "t": 0.0, "alpha": 1.0}
    (key, value), *_ = [(k, v) for k, v in changes.items() if k in params.BY_TENSOR]
    base = tensors(0)
    models = [near(base, i) for i in range(1, 1 + count(name, 3))]
    how = {"density": 1.0} if "density" in params.model_fields else {}
    plain = run(tmp_path, name, models, base, out="plain", **how)
    found = run(tmp_path, name, models, base, tensors={"layers.{1-9}.*": {key: value}}, **how)
    for tensor in plain:
        if tensor.startswith("layers.1."):
            torch.testing.assert_close(found[tensor], models[0][tensor], rtol=0, atol=3e-7)
        else:
            assert torch.equal(found[tensor], plain[tensor])
