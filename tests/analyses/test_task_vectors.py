"""Task vectors of two or three elements, whose angles are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cuvee.analyses import task_vectors
from cuvee.protocols import TaskVectors, VectorPart
from cuvee.task_vectors import place


def part(layer: int | None, module: str, *taus: list[float]) -> VectorPart:
    """One tensor by its task vectors; the base's weights are all 1."""
    all_ = np.array(taus, float)
    both = (all_[:, None] != 0) & (all_[None] != 0)
    conflicts = both & (np.sign(all_)[:, None] != np.sign(all_)[None])
    size = all_.shape[1]
    return VectorPart(layer, module, size, float(size), all_ @ all_.T, both.sum(-1), conflicts.sum(-1))


def tables(*parts: VectorPart, missing: dict[str, str] | None = None) -> dict[str, Any]:
    names = ("a", "b", "c")[: len(parts[0].dots)]
    found = task_vectors.table([TaskVectors("tiny", names, parts, missing or {})], task_vectors.Params())
    return {table.title.removeprefix("Task vectors").strip(": "): table for table in found}


def test_norms_angles_and_conflicts_are_those_of_all_tensors_together() -> None:
    found = tables(part(0, "mlp", [3, 0], [0, 2]), part(None, "norm", [4, 0], [-4, 1]))
    assert [row["norm"] for row in found["norms"].rows] == ["5", "4.583"]
    assert [row["to the base"] for row in found["norms"].rows] == ["250.000%", "229.129%"]
    assert [row["elements moved"] for row in found["norms"].rows] == ["50.0%", "75.0%"]
    (row,) = found["pairs"].rows
    assert float(row["cosine"]) == pytest.approx(-16 / (5 * 21**0.5), abs=1e-3)
    assert (row["sign conflicts"], row["both moved"]) == ("100.0%", "25.0%")


def test_a_right_angle_is_ninety_degrees_and_no_conflict() -> None:
    (row,) = tables(part(0, "mlp", [1, 0], [0, 1]))["pairs"].rows
    assert (row["cosine"], row["angle (degrees)"], row["sign conflicts"]) == ("0.000", "90.0", "")


def test_layers_and_kinds_of_modules_are_told_apart() -> None:
    same, opposite = ([1, 1], [2, 2]), ([1, 1], [-1, -1])
    found = tables(
        part(1, "mlp", *opposite), part(0, "mlp", *same), part(0, "attention", *same), part(None, "embed", *same)
    )
    assert [(row["layer"], row["cosine"]) for row in found["by layer"].rows] == [
        ("0", "1.000"), ("1", "-1.000"), ("outside the layers", "1.000")
    ]  # fmt: skip
    kinds = {row["module"]: row["sign conflicts"] for row in found["by kind of module"].rows}
    assert kinds == {"mlp": "50.0%", "attention": "0.0%", "embed (outside the layers)": "0.0%"}
    (figure,) = found["by layer"].figures
    assert figure.kind == "matrix"
    cells = {(name, point["x"]): point["y"] for name, points in figure.series.items() for point in points}
    assert cells == pytest.approx({("mlp", "0"): 1, ("mlp", "1"): -1, ("attention", "0"): 1})


def test_the_matrix_of_models_has_ones_on_its_diagonal() -> None:
    (figure,) = tables(part(0, "mlp", [1, 0, 0], [1, 1, 0], [0, 0, 1]))["pairs"].figures
    cells = [[point["y"] for point in points] for points in figure.series.values()]
    expected = [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 1]]
    assert np.array(cells) == pytest.approx(np.array(expected))


def test_many_layers_are_drawn_in_bands_and_listed_one_by_one() -> None:
    found = tables(*(part(layer, "mlp", [1, 0], [1, 1]) for layer in range(32)))
    (figure,) = found["by layer"].figures
    assert [point["x"] for point in figure.series["mlp"]][:2] == ["0-2", "3-5"]
    assert len(figure.series["mlp"]) <= task_vectors.MOST_COLUMNS
    assert len(found["by layer"].rows) == 32


def test_an_unmoved_model_has_no_angle() -> None:
    (row,) = tables(part(0, "mlp", [1, 0], [0, 0]))["pairs"].rows
    assert (row["cosine"], row["angle (degrees)"]) == ("", "")


def test_one_model_has_a_norm_and_no_pair() -> None:
    found = tables(part(0, "mlp", [3, 4]), part(1, "mlp", [0, 0]))
    assert list(found) == ["norms", "by layer", "by kind of module"]
    assert "cosine" not in found["by layer"].rows[0]


def test_what_is_missing_is_said_with_the_remedy() -> None:
    notes = tables(part(0, "mlp", [3, 4]), missing={"b": "its weights were given up"})["norms"].notes
    assert "Not looked at: b: its weights were given up; `keep_models: all` keeps them." in notes
    (empty,) = task_vectors.table([TaskVectors("tiny", (), (), {"a": "it is not made yet"})], task_vectors.Params())
    assert empty.notes == ["Not looked at: a: it is not made yet."]


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("model.layers.3.self_attn.q_proj.weight", (3, "self_attn.q_proj")),
        ("model.layers.3.self_attn.q_proj.bias", (3, "self_attn.q_proj.bias")),
        ("model.layers.3.mlp.experts.7.up_proj.weight", (3, "mlp.experts.*.up_proj")),
        ("transformer.h.11.ln_1.weight", (11, "ln_1")),
        ("model.embed_tokens.weight", (None, "embed_tokens")),
        ("lm_head.weight", (None, "lm_head")),
    ],
)
def test_a_tensors_place_is_read_from_its_name(tensor: str, expected: tuple[int | None, str]) -> None:
    assert place(tensor) == expected
