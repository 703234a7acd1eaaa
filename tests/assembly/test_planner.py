"""The plan is the union of all runs; names, axes and evaluations are as the recipe says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cuvee import api, cost, explain
from cuvee.errors import RecipeError
from cuvee.plan import Plan, display_name
from cuvee.recipe import load
from cuvee.runtime import Runtime
from cuvee.stage import base
from cuvee.store import Store


def plan(place: Path, *overrides: str) -> Plan:
    return api.plan(load(place / "r.yaml", overrides), Runtime(place / ".cuvee"))


def names(found: Plan) -> list[str]:
    return [display_name(run.info, found) for run in found.runs]


def test_a_list_is_one_run_each_and_runs_are_named_by_what_differs(place: Path) -> None:
    assert names(plan(place)) == ["multi_task", "mixed_sequential", "dmt k=1/4", "dmt k=1"]


def test_seeds_and_bases_are_axes(place: Path) -> None:
    found = plan(place, "seeds=[0, 1]", "base=null", "bases=[fake:a, fake:b]")
    assert len(found.runs) == 16
    assert names(found)[0] == "multi_task · fake:a · seed 0"
    kinds = [stage.kind for stage in found.stages]
    # Two models and the one tokenizer they share, so the sources are rendered once.
    assert (kinds.count("base"), kinds.count("load"), kinds.count("render")) == (3, 3, 3)


def test_seeds_share_data_and_nothing_that_is_drawn(place: Path) -> None:
    one, two = plan(place), plan(place, "seeds=[0, 1]")
    assert {s.id for s in one.stages} <= {s.id for s in two.stages}
    trainings = [s for s in two.stages if s.kind == "train"]
    assert len(trainings) == 2 * sum(s.kind == "train" for s in one.stages)


def test_two_runs_of_equal_name_are_told_apart(place: Path) -> None:
    found = plan(place, "runs=[{strategy: multi_task}, {strategy: multi_task, training: {epochs: 2}}]")
    assert names(found) == ["multi_task", "multi_task training=epochs=2"]


def test_what_runs_of_equal_name_have_in_common_does_not_make_their_names_longer(place: Path) -> None:
    """Two ratio studies that differ in what is held; the general source is the same in both."""
    growing = "{strategy: ratio, general: general, special_share: [1, 1/4]}"
    held = "{strategy: ratio, general: general, general_share: 1/2, special_share: [1, 1/4]}"
    assert names(plan(place, f"runs=[{growing}, {held}]")) == [
        "ratio special_share=1",
        "ratio special_share=1/4",
        "ratio general_share=1/2 special_share=1",
        "ratio general_share=1/2 special_share=1/4",
    ]


def test_a_runs_own_training_settings_reach_its_stages_only(place: Path) -> None:
    found = plan(place, "runs=[{strategy: multi_task}, {strategy: multi_task, training: {epochs: 2}}]")
    assert [run.models[-1].params["epochs"] for run in found.runs] == [1, 2]


def test_loss_is_measured_at_all_stages_with_the_base_and_answers_at_the_final_one(place: Path) -> None:
    found = plan(place, "runs=[{strategy: mixed_sequential, general: general}]")
    loss = [(item.stage, item.final) for item in found.evaluated if item.evaluator == "heldout_loss"]
    assert sorted(set(loss)) == [(0, False), (1, False), (2, True)]
    assert {item.stage for item in found.evaluated if item.evaluator == "exact_answer"} == {2}


def test_renaming_or_adding_a_source_leaves_the_others_stages_alone(place: Path) -> None:
    before = plan(place, "runs=[{strategy: multi_task}]")
    text = (place / "r.yaml").read_text(encoding="utf-8")
    (place / "r.yaml").write_text(text.replace("  math:", "  maths:"), encoding="utf-8")
    renamed = plan(place, "runs=[{strategy: multi_task}]")
    assert [s.id for s in renamed.stages] == [s.id for s in before.stages]
    added = plan(place, "runs=[{strategy: multi_task}]", "sources.more={path: 'builtin:math', ability: extra}")
    kept = {s.id for s in before.stages if s.kind in ("load", "render", "base")}
    assert kept <= {s.id for s in added.stages}


def test_an_ability_that_no_source_teaches_is_refused(place: Path) -> None:
    with pytest.raises(RecipeError, match="there is no ability 'maths'; the sources teach math, code, general"):
        plan(place, "evaluation=[{exact_answer: {ability: maths}}]")


def test_what_sharing_saves_is_counted(place: Path) -> None:
    found = plan(place)
    costs = cost.estimate(found, Store(place / ".cuvee"), Runtime(place / ".cuvee"), flops=1e9)
    assert found.trainings_alone == 7
    assert costs.seconds_alone > costs.seconds_shared > 0
    assert costs.disk_bytes > 0


def test_the_first_difference_is_the_stages_own_parameter_before_its_inputs() -> None:
    one = base("folder", 1, {"files": {"a": "1"}, "x": 1}, label="", locate={})
    other = base("folder", 1, {"files": {"a": "1"}, "x": 2}, label="", locate={})
    assert explain.changed(one.identity, other.identity) == [("params.x", 1, 2)]
    manifest = {"kind": "base", "id": one.id, "identity": one.identity}
    assert explain.Stored([manifest]).reason(other).endswith("params.x 1 → 2")
    assert explain.Stored([]).reason(other) == "no base in the store yet"


def test_the_order_of_sources_and_a_share_of_one_change_no_id(place: Path) -> None:
    before = {stage.id for stage in plan(place, "sources.math.ability=x", "sources.code.ability=x").stages}
    text = (place / "r.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    lines[2], lines[3] = lines[3], lines[2]
    (place / "r.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert {stage.id for stage in plan(place, "sources.math.ability=x", "sources.code.ability=x").stages} == before
    whole = [f"sources.{name}.amount=null" for name in ("math", "code", "general")]
    share = [f"sources.{name}.amount={{share: 1}}" for name in ("math", "code", "general")]
    assert [s.id for s in plan(place, *whole).stages] == [s.id for s in plan(place, *share).stages]


def test_items_are_filtered_like_their_source(place: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "a", "tag": "code" if i % 2 else "chat"} for i in range(40)]
    (place / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    lines = ["sources.math={path: m.jsonl, ability: math, tags: tag, drop: {tags: code}}", "heldout=0.3"]
    found = plan(place, *lines)
    asked = [
        s.identity["params"]["filters"]
        for s in found.stages
        if s.kind in ("score", "generate")
        if "filters" in s.params
    ]
    assert asked
    assert all(filters == [{"drop": {"tags": "code"}}] for filters in asked)


def test_times_go_by_what_the_stores_trainings_computed_and_not_by_what_they_waited(place: Path, monkeypatch) -> None:
    """A training of another recipe from the same base, held up by other work for most of its 100 seconds."""
    found = plan(place, "base=builtin:micro")
    base = next(stage for stage in found.stages if stage.kind == "base" and stage.label == "builtin:micro")
    stored = {
        "id": "of another recipe",
        "inputs": {"model": [f"base-{base.id}"]},
        "component": "full",
        "identity": {"params": {}},
        "summary": {"seconds": 100.0, "cpu_seconds": 10.0, "total_tokens": 1000},
        "runtime": {"device": "cpu", "threads": 1},
    }
    store = Store(place / ".cuvee")
    monkeypatch.setattr(Store, "stages", lambda self, kind="*": iter([stored]))
    (said, *_) = cost.estimate(found, store, Runtime(place / ".cuvee")).assumptions
    assert said == f"{6 * 306640 * 1000 / 10:.3g} useful operations a second and worker (median of 1 stored trainings)"
    stored["runtime"] = {"device": "cpu", "threads": 0}  # not known how many: the clock is all there is
    (said, *_) = cost.estimate(found, store, Runtime(place / ".cuvee")).assumptions
    assert said.startswith(f"{6 * 306640 * 1000 / 100:.3g} useful")


def test_a_benchmark_file_and_held_out_rows_of_one_ability_need_two_names(place: Path) -> None:
    (place / "b.jsonl").write_text('{"question": "1", "answer": "#### 2"}\n', encoding="utf-8")
    two = "{exact_answer: {ability: math}}, {exact_answer: {%sability: math, path: b.jsonl}}"
    with pytest.raises(RecipeError, match="measures 'math' already"):
        plan(place, f"evaluation=[{two % ''}]")
    found = plan(place, f"evaluation=[{two % 'name: bench, '}]")
    assert {item.evaluator for item in found.evaluated} == {"exact_answer", "bench"}


def test_a_quantised_base_is_judged_and_not_trained(place: Path) -> None:
    import shutil

    from cuvee.bases import SHIPPED

    shutil.copytree(SHIPPED / "tiny", place / "q")
    config = json.loads((place / "q" / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq"}
    (place / "q" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RecipeError, match="is quantised: training and folding need full-precision weights"):
        plan(place, "base=q")
    assert plan(place, "base=q", "runs=[{strategy: untrained}]").runs[0].models == ()
