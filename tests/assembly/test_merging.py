"""Merging in a plan: trainings shared between mergers, a merged model kept, given up, trained further and judged."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cuvee import api, components, cost, exposure, needs, task_vectors
from cuvee.analyses.task_vectors import Params, whole
from cuvee.bases import MODEL
from cuvee.errors import RecipeError, UsageError
from cuvee.plan import Plan
from cuvee.recipe import Component, load, validate
from cuvee.report.collect import collect
from cuvee.runtime import Runtime
from cuvee.stage import Merged, mix, train, walk
from cuvee.store import Store
from tests.conftest import SMALL, Cuvee

TASK_VECTORS = Component(name="task_vectors", params={})

RUNS = (
    "runs=[{strategy: multi_task}, {strategy: disperse_then_merge, portions: 2, "
    "merger: [linear, {linear: {weights: [1, 3]}}, ties]}, {strategy: data_orders, orders: 2}]"
)


def plan(place: Path, *more: str) -> Plan:
    return api.plan(load(place / "r.yaml", list(more or [RUNS])), runtime(place))


def runtime(place: Path) -> Runtime:
    return Runtime(store=place / ".cuvee", workers=2, threads=1)


def test_mergers_share_trainings_and_the_first_order_is_multi_tasks(place: Path) -> None:
    found = plan(place)
    assert found.trainings_alone == 1 + 3 * 2 + 2
    assert sum(stage.kind == "train" for stage in found.stages) == 1 + 2 + 1
    assert sum(stage.kind == "merge" for stage in found.stages) == 4
    names = [run.info.name for run in found.runs]
    assert names[1:4] == [
        "disperse_then_merge merger=linear",
        'disperse_then_merge merger=linear {"weights":[1,3]}',
        "disperse_then_merge merger=ties",
    ]


def test_portions_together_are_trained_on_what_multi_task_is(place: Path, cuvee: Cuvee) -> None:
    assert cuvee("run", "r.yaml", RUNS, "--no-report").returncode == 0
    found, store = plan(place), Store(place / ".cuvee")

    def tokens(number: int) -> int:
        ids = [stage.id for stage in found.runs[number].trainings]
        return sum(store.manifest("train", stage_id)["summary"]["supervised_tokens"] for stage_id in ids)

    assert tokens(0) == tokens(1) > 0
    assert cost.estimate(found, store, runtime(place)).todo == frozenset()


def test_a_merged_model_is_judged_and_tells_its_rows_and_parents(place: Path, cuvee: Cuvee) -> None:
    merging = "runs=[{strategy: disperse_then_merge, portions: 2, merger: {linear: {weights: [1, 3]}}}]"
    done = json.loads(cuvee("run", "r.yaml", merging, "--no-report", "--json").stdout)
    assert done["failed"] == {}
    (run,) = (found := plan(place, merging)).runs
    store = Store(place / ".cuvee")
    assert isinstance(run.final, Merged)
    assert {item.grade.one("answers").one("model").id for item in found.evaluated if item.final} == {run.final.id}
    rows = exposure.table(store, run.final.short)
    assert len(set(rows["id"].to_pylist())) == rows.num_rows > 100, "no row in two portions"
    manifest = store.manifest("merge", run.final.id)
    assert [name.split("-")[0] for name in manifest["inputs"]["models"]] == ["train", "train"]
    model = json.loads((store.path("merge", run.final.id) / MODEL / "fake.json").read_text())
    parts = [
        json.loads((store.path("train", one.id) / MODEL / "fake.json").read_text())["exposure"]["math"]
        for one in run.final.inputs["models"]
    ]
    weights = run.final.identity["params"]["weights"]
    assert model["exposure"]["math"] == pytest.approx(sum(w * p for w, p in zip(weights, parts, strict=True)) / 4)


def test_what_is_merged_is_given_up_and_made_again_when_something_new_is_asked(place: Path, cuvee: Cuvee) -> None:
    asked = ("runs=[{strategy: disperse_then_merge, portions: 2}]", "keep_models=leaves")
    assert cuvee("run", "r.yaml", *asked, "--no-report").returncode == 0
    found, store = plan(place, *asked), Store(place / ".cuvee")
    final = found.runs[0].final
    assert store.manifest("merge", final.id).get("shed") is None
    assert {store.manifest("train", one.id).get("shed") for one in final.inputs["models"]} == {MODEL}
    other = plan(place, asked[0].replace("portions: 2", "portions: 2, merger: ties"), "keep_models=leaves")
    assert {"train", "merge"} <= {stage.kind for stage in needs.wanted(other, store)}


def test_keep_models_all_keeps_what_was_merged_as_well(place: Path) -> None:
    found = plan(place, "runs=[{strategy: disperse_then_merge, portions: 2}]", "keep_models=all")
    final = found.runs[0].final
    assert needs.kept_models(found) == {final.id, *(one.id for one in final.inputs["models"])}


def test_a_merged_model_can_be_trained_further(place: Path) -> None:
    run = plan(place, "runs=[{strategy: disperse_then_merge, portions: 2}]").runs[0]
    sources = [one.part for one in run.ingredients.values()]
    further = train(run.final, mix(sources, run.settings.mixture(), label="x"), run.settings.training(), label="x")
    assert further.start.id == run.final.id
    assert sum(stage.kind == "train" for stage in walk([further])) == 3


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("{strategy: disperse_then_merge, merger: liner}", "runs[0].merger: there is no 'liner' in mergers"),
        ("{strategy: disperse_then_merge, merger: {ties: {dnsity: 1}}}", "Did you mean 'density'?"),
        ("{strategy: disperse_then_merge, portions: 3, merger: slerp}", "merges exactly 2 models, got 3"),
        ("{strategy: disperse_then_merge, merger: lora_mean_of_products}", "say training: {method: lora}"),
        ("{strategy: data_orders, merger: lora_product_of_means}", "say lora_mean_of_products"),
        ("{strategy: data_orders, merger: {linear: {tensors: {'*.mlp.*': {wieghts: [1, 2]}}}}}", "mean 'weights'?"),
        ("{strategy: data_orders, merger: {linear: {tensors: {'*.mlp.*': {weights: [1]}}}}}", "weights has 1 values"),
        ("{strategy: data_orders, merger: {linear: {tensors: [1, 2]}}}", "is a mapping of name patterns"),
    ],
)
def test_a_wrong_merger_is_refused_before_anything_runs(place: Path, run: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(place, f"runs=[{run}]")
    assert message in str(caught.value).replace("runs.0", "runs[0]")


def test_more_portions_than_rows_are_refused_before_the_data_is_read(place: Path) -> None:
    found = plan(place, "runs=[{strategy: disperse_then_merge, portions: 100000}]")
    with pytest.raises(UsageError, match=r"1/100000 of about [\d,]+ rows is no row.*use fewer portions"):
        cost.estimate(found, Store(place / ".cuvee"), runtime(place))


@pytest.mark.parametrize("merger", ["lora_mean_of_products", "lora_product_of_means"])
def test_adapters_are_merged_and_folded_into_the_base(place: Path, merger: Any) -> None:
    asked = f"runs=[{{strategy: disperse_then_merge, portions: 2, merger: {merger}}}]"
    run = plan(place, asked, "training.method=lora").runs[0]
    assert {one.kind for one in run.final.inputs["models"]} == {"train"}
    module = components.find("mergers", merger)
    assert validate(module.Params, run.final.identity["params"]).weights is None, "what the worker will read"
    assert run.final.one("base").id == run.base.id
    assert [stage.kind for stage in walk([run.final])].count("fold") == 0
    assert len(run.trainings) == 2


# ------------------------------------------------------------------------------------- Fisher information in recipes


def fisher_runs(merger: str) -> str:
    return f"runs=[{{strategy: disperse_then_merge, portions: 2, merger: {merger}}}]"


def test_fisher_takes_each_models_information_on_the_rows_that_it_was_trained_on(place: Path) -> None:
    final = plan(place, fisher_runs("{fisher: {samples: 8, labels: data}}")).runs[0].final
    models, fishers = final.inputs["models"], final.inputs["fishers"]
    assert len({one.id for one in fishers}) == 2
    for model, information in zip(models, fishers, strict=True):
        assert information.one("model").id == model.id
        assert information.one("data").id == model.one("data").id
        asked = {name: information.params[name] for name in ("samples", "labels", "precision")}
        assert asked == {"samples": 8, "labels": "data", "precision": model.params["precision"]}
    assert not {"samples", "labels"} & set(final.params), "they are in the ids of the Fisher stages"


def test_what_fisher_merges_with_changes_no_training_and_other_floors_share_the_information(place: Path) -> None:
    mergers = "[linear, fisher, {fisher: {floor: 1e-3}}, {fisher: {samples: 8}}]"
    kinds = [stage.kind for stage in plan(place, fisher_runs(mergers)).stages]
    assert (kinds.count("train"), kinds.count("fisher"), kinds.count("merge")) == (2, 4, 4)


def test_with_lora_the_information_is_that_of_the_folded_models(place: Path) -> None:
    final = plan(place, fisher_runs("fisher"), "training.method=lora").runs[0].final
    assert [one.one("model").kind for one in final.inputs["fishers"]] == ["fold", "fold"]
    assert {one.one("data").kind for one in final.inputs["fishers"]} == {"mix"}


def test_orders_of_the_same_rows_are_asked_about_the_same_ones(place: Path) -> None:
    final = plan(place, "runs=[{strategy: data_orders, orders: 2, merger: fisher}]").runs[0].final
    assert len({one.one("data").id for one in final.inputs["fishers"]}) == 1
    assert len({one.params["seed"] for one in final.inputs["fishers"]}) == 1


@pytest.mark.parametrize(
    ("merger", "message"),
    [("{fisher: {smples: 3}}", "Did you mean 'samples'?"), ("{fisher: {samples: 0}}", "greater than or equal to 1")],
)
def test_wrong_settings_of_the_information_are_refused(place: Path, merger: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(place, fisher_runs(merger))
    assert message in str(caught.value)


def test_models_that_were_given_up_are_made_again_for_their_information(place: Path, cuvee: Cuvee) -> None:
    asked = (fisher_runs("linear"), "keep_models=leaves")
    assert cuvee("run", "r.yaml", *asked, "--no-report").returncode == 0
    again = (fisher_runs("fisher"), "keep_models=leaves")
    done = json.loads(cuvee("run", "r.yaml", *again, "--no-report", "--json").stdout)
    assert done["failed"] == {}
    kinds = [name.split("-")[0] for name in done["executed"]]
    assert (kinds.count("train"), kinds.count("fisher"), kinds.count("merge")) == (2, 2, 1)


@pytest.fixture(scope="module")
def merged_for_real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, Store]:
    """Two portions of a few rows, trained on the tiny model and merged by their information."""
    place = tmp_path_factory.mktemp("real")
    (place / "r.yaml").write_text(SMALL, encoding="utf-8")
    few = [f"sources.{name}.amount={{count: 16}}" for name in ("math", "code", "general")]
    loss = "evaluation=[{heldout_loss: {items: 2, stages: final}}]"
    asked = ["base=builtin:tiny", fisher_runs("{fisher: {samples: 6}}"), loss, "heldout=1/4", *few]
    outcome = api.run(load(place / "r.yaml", asked), runtime(place))
    assert outcome.failed == {}
    return place, plan(place, *asked), Store(place / ".cuvee")


def stored(store: Store, stage: Any) -> dict[str, torch.Tensor]:
    return load_file(store.path(stage.kind, stage.id) / MODEL / "model.safetensors")


def test_the_real_engine_weighs_every_element_by_the_information(merged_for_real: tuple[Path, Plan, Store]) -> None:
    """Compared with sums in float64 over the stored models and what the Fisher stages have left."""
    _, found, store = merged_for_real
    final = found.runs[0].final
    models = [stored(store, one) for one in final.inputs["models"]]
    fishers = [load_file(store.path("fisher", one.id) / "fisher.safetensors") for one in final.inputs["fishers"]]
    assert all((one != 0).any() for one in fishers[0].values())
    for name, merged in stored(store, final).items():
        weights = [one[name].double().clamp(min=1e-6) for one in fishers]
        expected = sum(w * one[name].double() for w, one in zip(weights, models, strict=True)) / sum(weights)
        torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------------------- task vectors


def test_task_vectors_are_those_of_the_stored_weights(merged_for_real: tuple[Path, Plan, Store]) -> None:
    """The members, and the merged model between them; compared with float64 over whole models."""
    _, found, store = merged_for_real
    run = found.runs[0]
    (gathered,) = task_vectors.gather(found, store, Params())
    assert gathered.models == (f"{run.info.name}: portion 1/2", f"{run.info.name}: portion 2/2", run.info.name)
    assert gathered.missing == {}
    base = load_file(Path(run.base.locate["path"]) / "model.safetensors")
    members = sorted(run.final.inputs["models"], key=lambda one: one.label)
    flat = [
        torch.cat([(stored(store, one)[name].double() - base[name].double()).ravel() for name in sorted(base)])
        for one in (*members, run.final)
    ]
    total = whole(gathered.parts)
    for i, one in enumerate(flat):
        assert total.norm(i) == pytest.approx(float(one.norm()), rel=1e-9)
        for j, other in enumerate(flat):
            assert total.cosine(i, j) == pytest.approx(float(torch.cosine_similarity(one, other, dim=0)), rel=1e-9)
            moved = (one != 0) & (other != 0)
            assert total.moved[i, j] == int(moved.sum())
            assert total.conflicts[i, j] == int((moved & (one.sign() != other.sign())).sum())
    (only,) = task_vectors.gather(found, store, Params(models="final"))
    assert only.models == (run.info.name,)


def test_task_vectors_of_models_that_were_given_up_are_said_to_be_missing(
    merged_for_real: tuple[Path, Plan, Store], tmp_path: Path
) -> None:
    place, found, _ = merged_for_real
    shutil.copytree(place / ".cuvee", tmp_path / ".cuvee")
    shed = Store(tmp_path / ".cuvee")
    first = found.runs[0].final.inputs["models"][0]
    manifest = shed.path(first.kind, first.id) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "shed": MODEL}))
    (gathered,) = task_vectors.gather(found, shed, Params())
    assert len(gathered.models) == 2
    assert list(gathered.missing.values()) == ["its weights were given up"]
    (nothing,) = task_vectors.gather(found, Store(tmp_path / "other"), Params())
    assert set(nothing.missing.values()) == {"it is not made yet"}


def test_the_report_shows_task_vectors(merged_for_real: tuple[Path, Plan, Store]) -> None:
    _, found, store = merged_for_real
    located = copy.copy(found.located)
    located.recipe = found.located.recipe.model_copy(update={"analyses": (TASK_VECTORS,)})
    tables = collect(replace(found, located=located), store).tables["task_vectors"]
    titles = [table.title for table in tables]
    assert titles == [f"Task vectors{rest}" for rest in (": norms", ": pairs", " by layer", " by kind of module")]


def test_fake_models_have_no_task_vectors_and_that_is_said(place: Path, cuvee: Cuvee) -> None:
    found = plan(place, "runs=[{strategy: multi_task}]")
    (gathered,) = task_vectors.gather(found, Store(place / ".cuvee"), Params())
    assert list(gathered.missing.values()) == ["its base has no weights here"]
