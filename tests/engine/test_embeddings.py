"""Vectors equal pooled hidden states of one row at a time, and a stopped pass goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee.engine import embeddings  # noqa: E402
from cuvee.errors import ModelError  # noqa: E402

from .conftest import RUNTIME, make_rows, silent  # noqa: E402

ROWS = make_rows(12)


def embed(folder: Path, out: Path, **more: Any) -> Any:
    embeddings.embed(folder, ROWS, out, RUNTIME, silent, **more)
    return np.load(out)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("layer", "pooling"), [(-1, "weighted_mean"), (1, "mean"), (0, "last_token")])
def test_vectors_equal_pooled_hidden_states(
    kind: str, layer: int, pooling: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    found = embed(model_folder(kind), tmp_path / "v.npy", layer=layer, pooling=pooling)
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind), attn_implementation="eager")
    for row, vector in list(zip(ROWS, found, strict=True))[::3]:
        with torch.no_grad():
            states = model(torch.tensor([list(row.ids)]), output_hidden_states=True).hidden_states[layer][0]
        n = len(row.ids)
        weights = {"mean": torch.ones(n), "last_token": torch.eye(n)[-1], "weighted_mean": torch.arange(1, n + 1)}
        expected = torch.nn.functional.normalize((states * weights[pooling][:, None]).sum(0), dim=0)
        assert vector == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_weights_of_the_positions_are_those_of_rds() -> None:
    states = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    weights = embeddings._weights(torch.arange(4), torch.tensor([4]), "weighted_mean")
    assert (weights / weights.sum()).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    found = torch.nn.functional.normalize((states * weights[:, None]).sum(0), dim=0)
    assert found.tolist() == pytest.approx([0.624695, 0.780869], abs=1e-6)


def test_a_stopped_pass_goes_on_where_it_was(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embed(model_folder("llama"), tmp_path / "whole.npy")
    right, seen = embeddings._vectors, []

    def stops(model: Any, rows: Any, *rest: Any) -> Any:
        seen.append(len(rows))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return right(model, rows, *rest)

    monkeypatch.setattr(embeddings, "_vectors", stops)
    asked = {"journal": tmp_path / "j.jsonl"}
    with pytest.raises(KeyboardInterrupt):
        embed(model_folder("llama"), tmp_path / "v.npy", **asked)
    assert embed(model_folder("llama"), tmp_path / "v.npy", **asked) == pytest.approx(expected, abs=1e-5)
    assert sum(seen) == len(ROWS) + seen[1]


def test_a_layer_that_is_not_there_is_refused(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"layers 0 \(embeddings\) to 2"):
        embed(model_folder("llama"), tmp_path / "v.npy", layer=3)
