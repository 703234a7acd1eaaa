"""Every merger equals its formula, computed slowly in float64, and the golden values of the papers' definitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cuvee.merging import streaming
from cuvee.merging.noise import uniform
from tests.mergers import references
from tests.merging.models import folder, merged, near, tensors

WEIGHTS = [0.5, 0.2, 0.4]
CLOSE = {"rtol": 2e-6, "atol": 2e-6}


class Place:
    """A base, models that were trained from it, and what to compare with."""

    def __init__(self, path: Path, size: float = 0.3) -> None:
        self.path, self.count = path, 0
        self.base = tensors(0)
        self.models = [near(self.base, seed, size) for seed in (1, 2, 3)]
        self.base_folder = folder(path / "base", self.base)
        self.folders = [folder(path / f"model{i}", model) for i, model in enumerate(self.models)]

    def merged(self, name: str, models: int = 3, **params: Any) -> dict[str, Tensor]:
        self.count += 1
        return merged(self.folders[:models], self.path / f"out{self.count}", name, base=self.base_folder, **params)

    def check(self, found: dict[str, Tensor], formula: Callable[..., Any], models: int = 3) -> None:
        """Compare with `formula(base, models, name)`, all flat and in float64."""
        for name, value in found.items():
            flat = [m[name].double().flatten().numpy() for m in self.models[:models]]
            expected = formula(self.base[name].double().flatten().numpy(), flat, name)
            np.testing.assert_allclose(value.double().flatten().numpy(), expected, **CLOSE, err_msg=name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(streaming, "PIECE", 7)  # the tensors are small: pieces must be smaller
    return Place(tmp_path)


def test_linear(place: Place) -> None:
    place.check(place.merged("linear"), lambda base, models, name: references.linear(models, [1, 1, 1]))
    place.check(place.merged("linear", weights=WEIGHTS), lambda base, models, name: references.linear(models, WEIGHTS))
    place.check(
        place.merged("linear", weights=WEIGHTS, normalize=False),
        lambda base, models, name: references.linear(models, WEIGHTS, normalize=False),
    )


def test_wise_ft(place: Place) -> None:
    found = place.merged("wise_ft", 1, alpha=0.3)
    place.check(found, lambda base, models, name: 0.7 * base + 0.3 * models[0], 1)


def test_task_arithmetic(place: Place) -> None:
    place.check(
        place.merged("task_arithmetic", weights=WEIGHTS, scale=0.7),
        lambda base, models, name: references.task_arithmetic(base, models, WEIGHTS, 0.7),
    )


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(place: Place, t: float) -> None:
    place.check(place.merged("slerp", 2, t=t), lambda base, models, name: references.slerp(*models, t), 2)


def test_slerp_takes_a_line_between_models_that_nearly_point_the_same_way(tmp_path: Path) -> None:
    close = Place(tmp_path, size=0.001)
    close.check(close.merged("slerp", 2, t=0.25), lambda base, models, name: 0.75 * models[0] + 0.25 * models[1], 2)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties(place: Place, density: float, normalize: bool) -> None:
    place.check(
        place.merged("ties", weights=WEIGHTS, density=density, scale=0.7, normalize=normalize),
        lambda base, models, name: references.ties(base, models, WEIGHTS, density, 0.7, normalize),
    )


def test_ties_over_the_whole_model_is_ties_of_the_model_as_one_vector(place: Place) -> None:
    found = place.merged("ties", density=0.3, scope="model")
    names = list(found)
    base, *models = (
        np.concatenate([m[name].double().flatten().numpy() for name in names]) for m in (place.base, *place.models)
    )
    expected = references.ties(base, models, [1, 1, 1], 0.3, 1.0, True)
    whole = np.concatenate([found[name].double().flatten().numpy() for name in names])
    np.testing.assert_allclose(whole, expected, **CLOSE)


def test_ties_of_one_tensor_is_the_same_for_both_scopes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PIECE", 64)
    base = tensors(0, {"w": (50, 10)})
    models = [folder(tmp_path / f"m{i}", near(base, i)) for i in (1, 2)]
    one, other = (
        merged(models, tmp_path / scope, "ties", base=folder(tmp_path / "b", base), scope=scope, density=0.4)
        for scope in ("tensor", "model")
    )
    assert torch.equal(one["w"], other["w"])


def test_ties_keeps_the_first_of_equal_magnitudes_in_whatever_piece_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = torch.tensor([1, -1, 2, 1, 1, -2, 1, 0, 1, -1, 1, 1], dtype=torch.float32)
    base, model = {"w": torch.zeros(12)}, {"w": steps}
    places = folder(tmp_path / "b", base), [folder(tmp_path / "m", model)]
    expected = references.ties(np.zeros(12), [steps.double().numpy()], [1], 0.5, 1.0, True)
    assert np.count_nonzero(expected) == 6
    for size in (1, 5, 100):
        monkeypatch.setattr(streaming, "PIECE", size)
        found = merged(places[1], tmp_path / f"out{size}", "ties", base=places[0], density=0.5)
        assert found["w"].tolist() == expected.tolist()


def test_ties_gives_a_sum_of_zero_the_sign_that_was_asked_for(tmp_path: Path) -> None:
    base = folder(tmp_path / "b", {"w": torch.zeros(4)})
    models = [
        folder(tmp_path / f"m{i}", {"w": torch.tensor(values)})
        for i, values in enumerate([[1.0, -1, -1, -3], [-1.0, -2, -1, -4]])
    ]
    asked = [
        merged(models, tmp_path / zero, "ties", base=base, density=1.0, zero=zero)["w"].tolist()
        for zero in ("positive", "majority")
    ]
    assert asked == [[1.0, -1.5, -1.0, -3.5], [-1.0, -1.5, -1.0, -3.5]]


@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_under_the_mask_that_was_drawn(place: Place, name: str, rescale: str) -> None:
    density = 0.4

    def formula(base: Any, models: Any, tensor: str) -> Any:
        drawn = [uniform(5, "dare", tensor, i, 0, len(base)).double().numpy() for i in range(3)]
        vectors = references.dare(base, models, [d < density for d in drawn], density, rescale)
        if name == "dare_linear":
            return base + 0.7 * sum(w * v for w, v in zip(WEIGHTS, vectors, strict=True))
        return base + 0.7 * references.agree(vectors, WEIGHTS, True)

    place.check(
        place.merged(
            name, weights=WEIGHTS, density=density, scale=0.7, rescale=rescale, seed=5, normalize=name == "dare_ties"
        ),
        formula,
    )


def test_fisher(place: Place) -> None:
    information = [{name: value.square() for name, value in tensors(9 + i).items()} for i in range(3)]
    extras = tuple(folder(place.path / f"f{i}", one) for i, one in enumerate(information))
    place.check(
        place.merged("fisher", weights=WEIGHTS, extras=extras, floor=1e-3),
        lambda base, models, name: references.fisher(
            models, [one[name].double().flatten().numpy() for one in information], WEIGHTS, 1e-3
        ),
    )


def test_fisher_divided_by_its_length_over_the_whole_model(place: Place) -> None:
    information = [{name: (i + 1) * value.square() for name, value in tensors(9).items()} for i in range(3)]
    extras = tuple(folder(place.path / f"f{i}", one) for i, one in enumerate(information))
    # The same information but for its length, which is divided out: the plain mean.
    found = place.merged("fisher", extras=extras, normalize=True, floor=1e-12)
    place.check(found, lambda base, models, name: references.linear(models, [1, 1, 1]))


class TestGolden:
    """Values worked out in the methods' own definitions."""

    def one(self, path: Path, name: str, base: list[float], *models: list[float], **params: Any) -> list[float]:
        folders = [folder(path / f"m{i}", {"w": torch.tensor(m)}) for i, m in enumerate(models)]
        extras = params.pop("extras", ())
        more = tuple(folder(path / f"f{i}", {"w": torch.tensor(f)}) for i, f in enumerate(extras))
        at = folder(path / "base", {"w": torch.tensor(base)})
        return merged(folders, path / "out", name, base=at, extras=more, **params)["w"].tolist()  # type: ignore[no-any-return]

    def test_ties(self, tmp_path: Path) -> None:
        vectors = [1, -2, 0.1, 3, 0, -0.5], [2, 2, -0.3, -1, 0.2, -0.4], [-1, 1, 0.5, 2, -0.2, 0.3]
        found = self.one(tmp_path, "ties", [0.0] * 6, *([float(x) for x in v] for v in vectors), density=0.5)
        assert found == [1.5, 1.5, 0, 2.5, 0, 0]

    def test_ties_toy_of_two(self, tmp_path: Path) -> None:
        found = self.one(tmp_path, "ties", [0.0] * 4, [1, -2, 0.5, 0.1], [3, 1, -0.2, 0.05], density=0.5)
        assert found == [2, -2, 0, 0]

    def test_ties_does_not_divide_by_weights_that_cancel_but_for_rounding(self, tmp_path: Path) -> None:
        """0.7 + 0.1 - 0.8 is -6e-8 in float32."""
        how = {"weights": [0.7, 0.1, -0.8, 1.0], "density": 1.0}
        assert self.one(tmp_path, "ties", [0.0], [1.0], [1.0], [-1.0], [-0.1], **how) == pytest.approx([1.6])

    def test_slerp(self, tmp_path: Path) -> None:
        found = self.one(tmp_path, "slerp", [0.0, 0.0], [1.0, 0.0], [0.0, 2.0], t=0.5)
        assert found == pytest.approx([0.707107, 1.414214], abs=1e-6)

    def test_fisher(self, tmp_path: Path) -> None:
        found = self.one(tmp_path, "fisher", [0.0], [1.0], [3.0], extras=([4.0], [1.0]))
        assert found == pytest.approx([1.4])
