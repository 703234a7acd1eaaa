"""A real pretrained model: the conversion, its tokenizer, a training step and an answer. `make smollm2` first."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cuvee.protocols import TokenRow

from .conftest import RUNTIME, hyper, micro_batches, silent

pytestmark = pytest.mark.real

HOME = Path(os.environ.get("CUVEE_HOME") or Path.home() / ".cache" / "cuvee")
FOLDER = HOME / "smollm2-135m-instruct"
SHARED = Path(__file__).parents[3] / "shared" / "models" / "smollm2-135m-instruct"
TEXTS = [
    "def add(a, b):\n    return a + b  # naïve, 12345 + 67",
    "Natalia sold 48/2 = 24 clips in May.\n#### 72",
    "<|im_start|>user\nWas heißt „Cuvée“? 葡萄酒 🍷<|im_end|>\n",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    """The converted model."""
    if not (FOLDER / "config.json").is_file():
        pytest.skip(f"{FOLDER} is not there: make smollm2")
    return FOLDER


def script() -> Any:
    """Import scripts/get_smollm2.py."""
    path = Path(__file__).parents[2] / "scripts" / "get_smollm2.py"
    spec = importlib.util.spec_from_file_location("get_smollm2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared")
def test_tokenizer_and_template_are_those_of_the_shared_folder(folder: Path) -> None:
    from tokenizers import Tokenizer

    ours, theirs = (Tokenizer.from_file(str(place / "tokenizer.json")) for place in (folder, SHARED))
    for text in TEXTS:
        assert ours.encode(text).ids == theirs.encode(text).ids
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text
    for place in (folder, SHARED):
        assert (place / "chat_template.jinja").read_text() == script().CHAT_TEMPLATE
    special, expected = (json.loads((p / "tokenizer_config.json").read_text()) for p in (folder, SHARED))
    assert {k: special[k] for k in expected} == expected


def test_it_answers_learns_and_packs(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    from cuvee.engine import Decoding, Prompt, for_model

    engine, tokenizer = for_model(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = tokenizer.encode("The capital of France is").ids
    (reply,) = engine.generate(folder, [Prompt("france", prompt)], Decoding(4), [2], RUNTIME, silent)
    assert "Paris" in tokenizer.decode(list(reply.ids))
    rows = [TokenRow(ids := tokenizer.encode(text).ids, [(3, len(ids))]) for text in TEXTS]
    settings = hyper(learning_rate=1e-5, warmup=0.0)
    summary = engine.train(
        folder,
        rows,
        [[0, 1, 2]] * 2,
        settings,
        tmp_path / "out",
        tmp_path / "work",
        replace(RUNTIME, micro_tokens=512),
        silent,
        micro_batches=micro_batches,
    )
    assert summary["layout"] == "flat"
    assert summary["final_loss"] < summary["first_loss"]
    scores = engine.score(tmp_path / "out", rows, RUNTIME, silent)
    assert sum(s.nll for s in scores) / sum(s.tokens for s in scores) < summary["final_loss"]
