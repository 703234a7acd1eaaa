"""What must not move silently: ids of the demo's stages, and a short loss curve of real training.

When a change is meant to move them, delete the golden file, run the test once, and commit the new file with the
reason in the change log.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cuvee import api
from cuvee.recipe import load
from cuvee.runtime import Runtime

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"

CURVE = """\
base: builtin:tiny
sources:
  math: {path: "builtin:math", ability: math, amount: {count: 24}}
  code: {path: "builtin:code", ability: code, amount: {count: 24}}
training: {epochs: 1, learning_rate: 3e-3, batch_size: 8, max_length: 256}
runs: [{strategy: multi_task}]
evaluation: []
"""


def golden(name: str, found: object) -> object:
    path = GOLDEN / name
    if not path.exists():
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        pytest.fail(f"{path} was missing and is written now; look at it and commit it")
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_ids_of_the_demo_have_not_moved(tmp_path: Path) -> None:
    plan = api.plan(ROOT / "examples" / "demo.yaml", Runtime(tmp_path / "store"))
    found = [f"{stage.short} {stage.label}" for stage in plan.stages]
    assert found == golden("demo_ids.json", found)


def test_a_short_training_has_the_loss_curve_it_had(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CURVE, encoding="utf-8")
    outcome = api.run(load(tmp_path / "c.yaml"), Runtime(tmp_path / "store", workers=1, threads=1))
    assert outcome.failed == {}
    (log,) = (tmp_path / "store").glob("train/*/log.jsonl")
    losses = [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]
    # Other processors add in another order; a change of method moves far more than this.
    assert losses == pytest.approx(golden("loss_curve.json", losses), rel=1e-3)


def test_a_trained_model_is_an_ordinary_folder_with_its_lineage(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "c.yaml").write_text(CURVE, encoding="utf-8")
    api.run(load(tmp_path / "c.yaml"), Runtime(tmp_path / "store", workers=1, threads=1))
    (folder,) = (tmp_path / "store").glob("train/*/model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert model.num_parameters() > 0
    assert "hi" in text
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "builtin:tiny" in card
    lineage = json.loads((folder / "cuvee.json").read_text(encoding="utf-8"))["lineage"]
    assert {item["kind"] for item in lineage} == {"base", "load", "render", "mix"}
