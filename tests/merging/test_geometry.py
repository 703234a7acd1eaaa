"""Products of task vectors, compared with whole tensors in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cuvee.errors import ModelError
from cuvee.merging import geometry
from cuvee.merging.streaming import PIECE
from tests.merging.models import SHAPES, folder, near, tensors

LARGE = {**SHAPES, "layers.1.big.weight": (3, PIECE // 2 + 5)}


def test_products_are_those_of_whole_tensors_over_several_pieces(tmp_path: Path) -> None:
    base = tensors(0, LARGE)
    models = [near(base, seed) for seed in (1, 2, 3)]
    models[0]["norm.weight"] = base["norm.weight"].clone()  # one model has not moved it
    folders = [folder(tmp_path / str(n), one) for n, one in enumerate(models)]
    found = list(geometry.products(folders, folder(tmp_path / "base", base), ["a", "b", "c", "base"]))
    assert sorted(one.name for one in found) == sorted(LARGE)
    for one in found:
        below = base[one.name].double().ravel()
        taus = torch.stack([model[one.name].double().ravel() - below for model in models])
        assert one.size == below.numel()
        assert one.base == pytest.approx(float(below @ below))
        torch.testing.assert_close(torch.from_numpy(one.dots), taus @ taus.T)
        both = (taus[:, None] != 0) & (taus[None] != 0)
        assert one.moved.tolist() == both.sum(-1).tolist()
        opposite = both & (taus[:, None].sign() != taus[None].sign())
        assert one.conflicts.tolist() == opposite.sum(-1).tolist()


def test_models_of_other_dtypes_are_compared(tmp_path: Path) -> None:
    base = tensors(0)
    half = {name: value.bfloat16() for name, value in near(base, 1).items()}
    folders = [folder(tmp_path / "a", near(base, 1)), folder(tmp_path / "b", half)]
    found = list(geometry.products(folders, folder(tmp_path / "base", base), ["a", "b", "base"]))
    assert all(one.dots[0, 1] > 0 for one in found)


def test_a_model_of_other_shapes_is_refused_by_name(tmp_path: Path) -> None:
    other = tensors(1, {**SHAPES, "norm.weight": (5,)})
    folders = [folder(tmp_path / "a", tensors(1)), folder(tmp_path / "b", other)]
    with pytest.raises(ModelError, match=r"norm\.weight is \[5\] in the other"):
        list(geometry.products(folders, folder(tmp_path / "base", tensors(0)), ["one", "the other", "base"]))
