"""Tiny random models of the usual architectures train, are saved and read again, and have transformers' own loss.

The rows are longer and shorter than the sliding windows (8 tokens), and of equal and unequal length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee.engine import attention, loading, loop, scoring  # noqa: E402
from cuvee.protocols import TokenRow  # noqa: E402

from .conftest import RUNTIME, hyper, make_rows, micro_batches, silent  # noqa: E402

FLAT = (
    *("llama", "qwen2", "qwen2-window", "qwen3", "mistral", "neox", "gpt2"),
    *("gemma", "gemma2", "gemma3", "phi", "phi3", "phi3-window"),
)
ROWS = [*make_rows(6, longest=40), *[make_rows(1, seed=5, shortest=20, longest=20)[0]] * 2]
STEPS = [list(range(8)), [1, 3, 5, 7, 0, 2, 4, 6]]
Folder = Callable[[str], Path]


def labels(row: TokenRow) -> list[int]:
    """The row's tokens where they count, else what transformers leaves out."""
    inside = {place for start, end in row.spans for place in range(max(start, 1), end)}
    return [int(token) if place in inside else -100 for place, token in enumerate(row.ids)]


PADDING = 5
"""Fewer than a window: transformers' eager attention makes NaN of a padding token that sees padding alone."""


def own_loss(folder: Path, *, padded: bool) -> float:
    """Transformers' loss in float64, each row by itself, with padding after it or without."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    total, tokens = 0.0, 0
    for row in ROWS:
        marked = labels(row)
        more = PADDING if padded else 0
        given = {
            "input_ids": torch.tensor([[*row.ids, *[0] * more]]),
            "labels": torch.tensor([[*marked, *[-100] * more]]),
            "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * more]),
        }
        number = sum(label >= 0 for label in marked)
        with torch.no_grad():
            total += float(model(**given).loss) * number
        tokens += number
    return total / tokens


def scored(folder: Path) -> float:
    """Our mean loss of all rows, eight at a time."""
    found = scoring.score(folder, ROWS, replace(RUNTIME, micro_tokens=1000), silent)
    return sum(one.nll for one in found) / sum(one.tokens for one in found)


@pytest.mark.parametrize("kind", FLAT)
def test_it_trains_and_has_transformers_own_loss_before_and_after(
    kind: str, model_folder: Folder, tmp_path: Path
) -> None:
    start, out = model_folder(kind), tmp_path / "out"
    summary = loop.train(
        start,
        ROWS,
        STEPS * 2,
        hyper(learning_rate=2e-3),
        out,
        tmp_path / "work",
        replace(RUNTIME, micro_tokens=1000),
        silent,
        micro_batches=micro_batches,
    )
    assert summary["layout"] == "flat"
    assert summary["final_loss"] < summary["first_loss"]
    assert summary["first_loss"] == pytest.approx(own_loss(start, padded=False), rel=2e-6)
    for folder in (start, out):
        value = scored(folder)
        assert value == pytest.approx(own_loss(folder, padded=False), rel=2e-6)
        assert value == pytest.approx(own_loss(folder, padded=True), rel=2e-6)
    assert load_file(out / "model.safetensors").keys() == load_file(start / "model.safetensors").keys()


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3", "qwen2-window", "phi3-window"])
def test_the_windows_of_these_rows_matter(kind: str, model_folder: Folder, tmp_path: Path) -> None:
    """Without its window a model has another loss on these rows, so the test above would see one that is lost."""
    model = loading.load(model_folder(kind), "float32", torch.device("cpu")).model
    model.config.sliding_window = 4096
    loading.save(model, model_folder(kind), tmp_path / "wide")
    assert abs(own_loss(tmp_path / "wide", padded=False) / own_loss(model_folder(kind), padded=False) - 1) > 1e-4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "longest example"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "layers of type chunked_attention"),
    ],
)
def test_what_flat_rows_cannot_do_exactly_is_told_and_fed_singly(
    change: dict[str, Any], says: str, model_folder: Folder
) -> None:
    loaded = loading.load(model_folder("llama"), "float32", torch.device("cpu"))
    for name, value in change.items():
        setattr(loaded.model.config, name, value)
    assert says in attention.supports(loaded.model)


def test_a_model_fed_singly_says_why_and_trains_all_the_same(model_folder: Folder, tmp_path: Path) -> None:
    said: list[Any] = []
    summary = loop.train(
        model_folder("bloom"),
        ROWS,
        STEPS,
        hyper(),
        tmp_path / "out",
        tmp_path / "work",
        RUNTIME,
        said.append,
        micro_batches=micro_batches,
    )
    assert summary["layout"] == "single"
    assert "one example a forward pass: the architecture is not on transformers' attention interface" in said[0]["note"]
    assert summary["first_loss"] == pytest.approx(own_loss(model_folder("bloom"), padded=False), rel=2e-6)
