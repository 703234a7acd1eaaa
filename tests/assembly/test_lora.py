"""LoRA in a plan: adapters and folds as stages, shared and given up like full trainings, told in ledger and cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cuvee import api, cost, exposure
from cuvee.errors import RecipeError, UsageError
from cuvee.plan import Plan
from cuvee.recipe import load
from cuvee.runtime import Runtime
from cuvee.store import Store

RUNTIME = {"workers": 2, "threads": 1}
SEQUENTIAL = "runs=[{strategy: sequential, order: [math, code, general]}]"


def plan(place: Path, *more: str) -> Plan:
    return api.plan(load(place / "r.yaml", list(more)), runtime(place))


def runtime(place: Path) -> Runtime:
    return Runtime(store=place / ".cuvee", **RUNTIME)  # type: ignore[arg-type]


def kinds(found: Plan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for stage in found.stages:
        counts[stage.kind] = counts.get(stage.kind, 0) + 1
    return counts


def test_every_lora_training_has_a_fold_that_is_evaluated_and_passed_on(place: Path) -> None:
    found = plan(place, "training.method=lora", SEQUENTIAL)
    (run,) = found.runs
    assert [model.kind for model in run.models] == ["fold"] * 3
    assert [model.label for model in run.models] == ["math", "code", "general"]
    first, second, _ = run.models
    assert first.one("model").id == run.base.id
    assert second.training.one("model").id == second.one("model").id == first.id
    judged = {item.grade.one("answers").one("model").id for item in found.evaluated if item.final}
    assert judged == {run.models[-1].id}


def test_continue_trains_the_first_weights_with_the_earlier_adapter(place: Path) -> None:
    fold, go_on = (plan(place, f"training={{method: lora, lora: {{between: {b}}}}}", SEQUENTIAL) for b in BETWEEN)
    (run,) = go_on.runs
    first, second, third = run.models
    assert [model.label for model in run.models] == ["math", "code", "general"]
    assert second.training.one("adapter").id == first.training.id
    assert {model.one("model").id for model in run.models} == {run.base.id}
    assert third.start.id == second.id
    assert fold.runs[0].models[0].id == first.id, "the first stage is the same work"
    assert fold.runs[0].models[1].id != second.id


BETWEEN = ("fold", "continue")


def test_runs_share_adapters_and_folds_as_they_share_trainings(place: Path) -> None:
    full, low = kinds(plan(place)), kinds(plan(place, "training.method=lora"))
    assert low["train"] == low["fold"] == full["train"]


def test_a_setting_of_lora_is_part_of_the_id_and_its_default_is_not_silent(place: Path) -> None:
    ids = {
        plan(place, f"training={{method: lora, lora: {text}}}").runs[0].models[-1].id
        for text in ("{}", "{rank: 8}", "{alpha: 1}", "{targets: all-linear}", "{targets: [b, a]}", "{rslora: true}")
    }
    assert len(ids) == 6
    same = [plan(place, f"training={{method: lora, lora: {{targets: {t}}}}}") for t in ("[a, b]", "[b, a]")]
    assert same[0].runs[0].models[-1].id == same[1].runs[0].models[-1].id
    assert same[0].runs[0].models[-1].training.params["lora"]["rank"] == 16


def test_lora_settings_of_a_full_training_are_refused(place: Path) -> None:
    with pytest.raises(RecipeError, match="say method: lora, or lora: null"):
        plan(place, "training.lora.rank=8")
    with pytest.raises(RecipeError, match="Did you mean 'rank'"):
        plan(place, "training={method: lora, lora: {rang: 8}}")


@pytest.mark.parametrize("between", BETWEEN)
def test_a_lora_run_is_done_once_and_its_ledger_goes_through_the_folds(place: Path, between: str) -> None:
    recipe = load(place / "r.yaml", ["training.method=lora", f"training.lora.between={between}", SEQUENTIAL])
    outcome = api.run(recipe, runtime(place))
    assert outcome.failed == {}
    assert api.run(recipe, runtime(place)).executed == []
    store, found = Store(place / ".cuvee"), api.plan(recipe, runtime(place))
    final = found.runs[0].models[-1]
    told = exposure.trainings(store, final.short)
    assert [manifest["label"] for manifest in told] == ["math", "code", "general"]
    assert exposure.describe(store, final.short)["found"] > exposure.describe(store, told[0]["id"])["found"]
    known = json.loads((store.path("fold", final.id) / "model" / "fake.json").read_text(encoding="utf-8"))
    assert set(known["exposure"]) == {"math", "code", "general"}


@pytest.mark.parametrize(("keep", "folds"), [("all", 3), ("leaves", 1), ("none", 0)])
def test_folded_models_are_given_up_as_asked_and_adapters_stay(place: Path, keep: str, folds: int) -> None:
    more = [f"keep_models={keep}", "training.method=lora", SEQUENTIAL]
    assert api.run(load(place / "r.yaml", more), runtime(place)).failed == {}
    assert len(list((place / ".cuvee").glob("fold/*/model"))) == folds
    assert len(list((place / ".cuvee").glob("train/*/model"))) == 3
    again = api.run(load(place / "r.yaml", [*more, "evaluation.0.heldout_loss.items=9"]), runtime(place))
    made = {name.split("-")[0] for name in again.executed}
    assert "train" not in made, "a fold is made anew without training"
    assert ("fold" in made) == (keep != "all")


def test_lora_costs_less_memory_and_disk(place: Path) -> None:
    more = ["base={path: seven, declared: {parameters: 7B}}", "training.precision=bfloat16", "training.template=plain"]
    full, low = (plan(place, *more, f"training.method={method}") for method in ("full", "lora"))
    store = Store(place / ".cuvee")
    costs = [cost.estimate(found, store, runtime(place), 1e12) for found in (full, low)]
    assert costs[0].memory_bytes > 7e9 * 18
    assert 7e9 * 2 < costs[1].memory_bytes < 0.35 * costs[0].memory_bytes
    assert costs[1].disk_peak_bytes < costs[0].disk_peak_bytes
    assert costs[1].seconds_shared < costs[0].seconds_shared
    assert any("of them trained" in sentence for sentence in costs[1].assumptions)


REAL = """\
base: builtin:tiny
sources:
  math: {path: "builtin:math", ability: math, amount: {count: 24}}
  code: {path: "builtin:code", ability: code, amount: {count: 24}}
training: {epochs: 1, learning_rate: 3e-3, batch_size: 8, max_length: 256, method: lora, lora: {targets: all-linear}}
runs: [{strategy: sequential, order: [math, code]}]
evaluation: [{heldout_loss: {items: 8}}]
"""


def test_real_runs_leave_adapters_and_ordinary_models_with_their_lineage(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "c.yaml").write_text(REAL, encoding="utf-8")
    one, store, losses = Runtime(tmp_path / "store", workers=1, threads=1), Store(tmp_path / "store"), []
    for between in BETWEEN:
        recipe = load(tmp_path / "c.yaml", [f"training.lora.between={between}"])
        outcome = api.run(recipe, one)
        assert outcome.failed == {}
        final = api.plan(recipe, one).runs[0].models[-1]
        adapter = store.path("train", final.training.id) / "model"
        assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names(adapter)
        card = (adapter / "README.md").read_text(encoding="utf-8")
        assert "library_name: peft" in card
        assert ("goes on from the adapter" in card) == (between == "continue")
        folder = store.path("fold", final.id) / "model"
        assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
        assert AutoTokenizer.from_pretrained(folder).chat_template
        lineage: list[Any] = json.loads((folder / "cuvee.json").read_text(encoding="utf-8"))["lineage"]
        assert sum(item["kind"] == "train" for item in lineage) == 2
        losses.append(store.manifest("train", final.training.id)["summary"]["first_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5), "both second stages start from what the first one learnt"
    assert sum(name.startswith("train") for name in outcome.executed) == 1, "they share the first stage"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_missing_peft_is_told_before_anything_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cuvee import runner

    (tmp_path / "c.yaml").write_text(REAL, encoding="utf-8")
    real = runner.find_spec
    monkeypatch.setattr(runner, "find_spec", lambda name: None if name == "peft" else real(name))
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[lora\]'"):
        api.run(tmp_path / "c.yaml", Runtime(tmp_path / "store"))
    assert not list((tmp_path / "store").glob("load/*"))
