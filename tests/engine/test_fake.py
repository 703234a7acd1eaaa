"""The stand-in engine: no torch, forgetting and replay visible, resumes like the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cuvee.engine import Decoding, Prompt, fake, for_model
from cuvee.errors import ModelError, UsageError
from cuvee.protocols import TokenRow

from .conftest import RUNTIME, hyper, make_rows, silent

MATH = [TokenRow(row.ids, row.spans, 0) for row in make_rows(40)]
BOTH = [TokenRow(row.ids, row.spans, index % 2) for index, row in enumerate(make_rows(40, seed=1))]
STEPS = [list(range(i, i + 8)) for i in range(0, 40, 8)]
PROMPTS = [Prompt(str(i), [i, i + 1]) for i in range(200)]
REFERENCES = [[i, 7, 9] for i in range(200)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An untrained fake model with a tokenizer."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "fake.json").write_text('{"scale": 300.0, "decay": 1000.0}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def train(
    folder: Path, rows: Any, place: Path, names: list[str], runtime: Any = RUNTIME, progress: Any = silent
) -> Any:
    settings = hyper(part_names=names, steps_per_epoch=5)
    return fake.train(folder, rows, STEPS, settings, place / "out", place / "work", runtime, progress)


def rate(folder: Path, ability: str) -> float:
    replies = fake.generate(folder, PROMPTS, Decoding(20), [2], RUNTIME, silent, references=REFERENCES, ability=ability)
    return sum(list(r.ids) == list(ref) for r, ref in zip(replies, REFERENCES, strict=True)) / len(PROMPTS)


def loss(folder: Path, names: list[str]) -> float:
    scores = fake.score(folder, MATH, RUNTIME, silent, part_names=names)
    return sum(s.nll for s in scores) / sum(s.tokens for s in scores)


def test_training_teaches_forgetting_forgets_and_replay_repairs(base: Path, tmp_path: Path) -> None:
    train(base, MATH, tmp_path / "one", ["math"])
    learned = tmp_path / "one" / "out"
    assert rate(base, "math") == 0
    assert rate(learned, "math") > 0.5
    assert loss(learned, ["math"]) < loss(base, ["math"])
    train(learned, MATH, tmp_path / "two", ["code"])
    train(learned, BOTH, tmp_path / "mixed", ["code", "math"])
    forgot, replayed = (rate(tmp_path / name / "out", "math") for name in ("two", "mixed"))
    assert forgot < rate(learned, "math")
    assert replayed > forgot
    assert (learned / "tokenizer.json").read_text() == "{}"


def test_a_wrong_answer_differs_in_its_last_token(base: Path) -> None:
    replies = fake.generate(base, PROMPTS, Decoding(20), [2], RUNTIME, silent, references=REFERENCES, ability="math")
    assert [list(r.ids) for r in replies[:2]] == [[0, 7, 8], [1, 7, 8]]
    short = fake.generate(base, PROMPTS, Decoding(2), [2], RUNTIME, silent, references=REFERENCES, ability="math")
    assert (list(short[0].ids), short[0].finish) == ([0, 7], "length")


def test_an_interrupted_training_ends_the_same(base: Path, tmp_path: Path) -> None:
    class Breaks(list[TokenRow]):
        def __getitem__(self, index: Any) -> Any:
            if index == 25:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    every = replace(RUNTIME, checkpoint_steps=1)
    expected = train(base, BOTH, tmp_path / "whole", ["a", "b"], every)
    with pytest.raises(KeyboardInterrupt):
        train(base, Breaks(BOTH), tmp_path / "broken", ["a", "b"], every)
    summary = train(base, BOTH, tmp_path / "broken", ["a", "b"], every)
    assert summary["resumed_from"] == [3]
    for name in ("out/fake.json", "work/log.jsonl"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "broken" / name).read_text()
    same = ("steps", "first_loss", "final_loss", "supervised_tokens", "total_tokens", "loss_by_part", "layout")
    assert {k: summary[k] for k in same} == {k: expected[k] for k in same}


def test_its_log_and_summary_have_the_real_one_s_keys(base: Path, tmp_path: Path) -> None:
    said: list[Any] = []
    summary = train(base, BOTH, tmp_path, ["a", "b"], progress=said.append)
    record = json.loads((tmp_path / "work" / "log.jsonl").read_text().splitlines()[0])
    assert set(record) == {
        "step", "epoch", "loss", "lr", "grad_norm", "supervised_tokens", "total_tokens", "seconds", "parts"
    }  # fmt: skip
    assert {"layout", "peak_rss_mb", "cpu_seconds", "seconds", "resumed_from"} <= set(summary)
    assert said[-1]["step"] == said[-1]["steps"] == 5


def test_a_damaged_fake_model_is_refused(base: Path) -> None:
    (base / "fake.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        fake.score(base, MATH, RUNTIME, silent)


def test_the_fake_engine_never_imports_torch(base: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cuvee.engine import for_model;"
        f"print(for_model(Path({str(base)!r})).name, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fake", "False", "False"]
    assert for_model(base).train is fake.train


def test_without_its_packages_a_real_model_names_them_and_a_fake_one_needs_none(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"needs torch, safetensors, .*pip install 'cuvee\[train\]'"):
        for_model(tmp_path)
    assert for_model(base).name == "fake"
