"""A recipe's selections: what is shared, what reaches the mixtures, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from cuvee import api, cost, runner, selections
from cuvee.bases import SHIPPED
from cuvee.data import selection
from cuvee.errors import UsageError
from cuvee.plan import Plan
from cuvee.protocols import Judged
from cuvee.recipe import load
from cuvee.runtime import Runtime
from cuvee.sources import _tiny_world as world
from cuvee.store import Store
from tests.selectors.conftest import candidates

SOURCES = {name: {"path": f"{name}.jsonl", "ability": name} for name in ("math", "code")}
ROWS = 300
TRAINING = {"epochs": 1, "batch_size": 16, "max_length": 128}
POOL = {"count": 200}


def recipe(place: Path, *runs: dict[str, Any], **more: Any) -> Plan:
    data = {
        "base": "fake:test",
        "sources": SOURCES,
        "training": TRAINING,
        "runs": [{"strategy": "multi_task", **run} for run in runs],
        "evaluation": [{"heldout_loss": {"items": 20, "stages": "final"}}],
        **more,
    }
    for name in SOURCES:
        pairs = islice(world.conversations(name), ROWS)
        lines = [json.dumps({"question": question, "answer": answer}) for question, answer in pairs]
        (place / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (place / "s.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return api.plan(load(place / "s.yaml"), Runtime(place / "store"))


def done(plan: Plan, place: Path, targets: Sequence[Any] | None = None) -> Store:
    outcome = runner.execute(plan, Runtime(place / "store", workers=1, threads=1), targets=targets)
    assert outcome.failed == {}
    return Store(place / "store")


def summary(store: Store, stage: Any) -> dict[str, Any]:
    return store.manifest(stage.kind, stage.id)["summary"]


def counted(plan: Plan, kind: str, component: str = "") -> int:
    return sum(stage.kind == kind and component in ("", stage.component) for stage in plan.stages)


def test_the_reference_of_lobass_is_the_run_on_all_rows(tmp_path: Path) -> None:
    plan = recipe(tmp_path, {}, {"select": {"by": "lobass", "share": 0.06}})
    assert counted(plan, "train") == 2
    assert plan.trainings_alone == 3
    assert counted(plan, "score", "rows") == 4  # base and reference, on two sources


def test_whatever_two_selectors_need_is_done_once(tmp_path: Path) -> None:
    reference = {"share": "1/20", "reference": {"epochs": 4}}
    plan = recipe(
        tmp_path,
        {
            "select": [
                {"by": {"lobass": reference}, "share": 0.06},
                {"by": {"lobass": {**reference, "score": "difference"}}, "share": 0.06},
                {"by": "ifd", "count": 50},
                {"by": "perplexity", "share": "1/2"},
            ]
        },
    )
    # One reference for two scores; the base's losses serve all four; IFD's without prompts are two more.
    assert counted(plan, "train") == 4 + 1
    assert counted(plan, "score", "rows") == 2 + 2 + 2
    assert counted(plan, "select") == 4


def test_without_a_selection_no_id_moves_and_null_takes_it_away(tmp_path: Path) -> None:
    plain = recipe(tmp_path, {})
    chosen = recipe(tmp_path, {}, {"select": None}, select={"by": "random", "count": 100})
    assert chosen.runs[1].final.id == plain.runs[0].final.id
    assert chosen.runs[0].final.id != plain.runs[0].final.id


def test_a_run_tells_which_selection_of_the_recipe_it_is_under(tmp_path: Path) -> None:
    sources = {**SOURCES, "code": {**SOURCES["code"], "select": {"by": "length", "share": "1/2"}}}
    chosen = {"by": "random", "count": 100}
    runs = recipe(tmp_path, {}, {"select": None}, {"sources": ["math"]}, sources=sources, select=chosen).runs
    assert [run.info.recipe_select for run in runs] == ["length 1/2; random 100", "", "random 100"]
    assert [run.info.select for run in runs] == ["", "nothing is selected", ""]


def test_names_and_order_of_sources_change_no_selection(tmp_path: Path) -> None:
    asked = {"select": {"by": "lobass", "share": 0.06, "within": "source"}}
    first = recipe(tmp_path, asked)
    turned = {"sums": SOURCES["math"], "programs": SOURCES["code"]}
    other = recipe(tmp_path, asked, sources=dict(reversed(turned.items())))
    assert other.runs[0].final.id == first.runs[0].final.id


def test_rows_that_are_not_kept_are_left_out_and_counted(tmp_path: Path) -> None:
    plan = recipe(
        tmp_path,
        {"select": {"by": "random", "count": 120, "pool": POOL}},
        {"select": {"by": "length", "share": "1/4", "within": "ability", "sources": ["math"]}},
    )
    store = done(plan, tmp_path)
    for run, kept in zip(plan.runs, (120, None), strict=True):
        (model,) = run.models
        mix = model.one("data")
        for part in summary(store, mix)["parts"]:
            assert part["available"] == part["heldout"] + part.get("unselected", 0) + part["pool"]
        if kept:
            assert summary(store, mix)["rows"] == kept
    by_name = dict(zip(("code", "math"), sorted(summary(store, mix)["parts"], key=lambda p: -p["pool"]), strict=True))
    assert by_name["math"]["pool"] == (ROWS - by_name["math"]["heldout"]) // 4
    assert "unselected" not in by_name["code"]
    ledger = pq.read_table(next((tmp_path / "store" / "train").glob("*/ledger.parquet")))
    assert set(ledger.column_names) >= {"id", "times"}


def test_selections_of_one_seed_are_nested_and_amounts_come_after(tmp_path: Path) -> None:
    plan = recipe(
        tmp_path,
        {"select": [{"by": "random", "count": 40, "pool": POOL}, {"by": "random", "count": 80, "pool": POOL}]},
        sources={"math": {**SOURCES["math"], "amount": {"share": "1/2"}}},
    )
    store = done(plan, tmp_path)
    kept = []
    for stage in selections.stages(plan):
        table = selection.read(store.path("select", stage.id))
        kept.append(set(table.filter(table["kept"])["row"].to_pylist()))
    small, large = sorted(kept, key=len)
    assert small < large
    assert [summary(store, run.models[0].one("data"))["rows"] for run in plan.runs] == [20, 40]


def test_a_source_of_which_nothing_is_kept_is_no_error_but_a_mixture_of_nothing_is(tmp_path: Path) -> None:
    # The fake engine learns code and math alike; a threshold on lengths leaves no short answer of code.
    asked = {"by": "length", "threshold": 14}
    plan = recipe(tmp_path, {"select": asked}, {"select": asked, "strategy": "sequential", "order": ["math", "code"]})
    outcome = api.run(plan, Runtime(tmp_path / "store", workers=1, threads=1))
    store = Store(tmp_path / "store")
    kept = {pool["source"]: pool["kept"] for pool in summary(store, selections.stages(plan)[0])["pools"]}
    assert kept["math"] > 0
    assert kept["code"] == 0
    assert summary(store, plan.runs[0].models[0].one("data"))["rows"] == kept["math"]
    assert [text for text in outcome.failed.values()] == [
        "the mixture has no row: selections keep none of its sources; see `cuvee select`"
    ]


def test_another_model_scores_the_same_rows(tmp_path: Path) -> None:
    plan = recipe(tmp_path, {"select": {"by": {"ifd": {"model": "fake:small"}}, "count": 50, "pool": POOL}})
    store = done(plan, tmp_path)
    (stage,) = selections.stages(plan)
    assert {one.one("model").label for one in stage.inputs["rows.alone"]} == {"fake:small"}
    assert summary(store, stage)["kept"] == 50


def test_any_model_of_the_graph_scores(tmp_path: Path) -> None:
    by_all = {"model": {"run": "all"}}
    first = {"model": {"run": "two", "step": 1}}
    brief = {"model": {"trained": {"epochs": 2}, "share": "1/4"}}
    plan = recipe(
        tmp_path,
        {"name": "all"},
        {"name": "two", "strategy": "sequential", "order": ["math", "code"]},
        {
            "select": [
                {"by": {"ifd": {**by_all, "largest": None}}, "count": 50, "pool": POOL},
                {"by": {"perplexity": first}, "count": 50, "pool": POOL},
                {"by": {"entropy": brief}, "count": 50, "pool": POOL},
                {"by": {"k_center": {**by_all, "largest": 1}}, "count": 50, "pool": POOL},
            ]
        },
    )
    whole, two = (run.models for run in plan.runs[:2])
    asked = [stage.inputs[role][0].one("model") for stage, role in zip(selections.stages(plan), MODELS, strict=True)]
    assert [asked[0].id, asked[1].id, asked[3].id] == [whole[0].id, two[0].id, whole[0].id]
    assert asked[2].params["epochs"] == 2
    assert plan.runs[2].info.select == "ifd(largest=None, model={run: all}) 50"
    store = done(plan, tmp_path)
    assert [summary(store, stage)["kept"] for stage in selections.stages(plan)] == [50] * 4
    assert summary(store, asked[2].one("data"))["rows"] < summary(store, whole[0].one("data"))["rows"] / 3


def test_a_model_of_the_store_scores_by_the_id_of_its_stage(tmp_path: Path) -> None:
    plan = recipe(tmp_path, {"name": "all"}, base="builtin:micro", evaluation=[])
    made, store = plan.runs[0].final, Store(tmp_path / "store")
    store.prepare()
    shutil.copytree(SHIPPED / "micro", store.work(made.short) / "model")
    store.commit("train", made.id, store.work(made.short), {"id": made.id})
    asked = {"by": {"entropy": {"model": made.short[:14]}}, "share": "1/2"}
    (stage,) = selections.stages(recipe(tmp_path, {"select": asked}, base="builtin:micro", evaluation=[]))
    assert stage.inputs["rows.base"][0].one("model").label == made.short[:14]
    with pytest.raises(UsageError, match="no stage 'train-000000'"):
        recipe(tmp_path, {"select": {**asked, "by": {"entropy": {"model": "train-000000"}}}}, base="builtin:micro")


MODELS = ("rows.alone", "rows.base", "rows.base", "rows.rows")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"run": "al"}, "there is no earlier run 'al'. Did you mean 'all'"),
        ({"run": "mine"}, "there is no earlier run 'mine'"),
        ({"run": "all", "step": 2}, r"the run 'all' has 1 model\(s\)"),
        ({"run": "all", "path": "fake:x"}, "by exactly one of path, run"),
        ({"path": "fake:x", "share": "1/2"}, "share is of the pool that a model is trained on"),
        ({"trained": {"epoch": 1}}, "unknown key 'epoch'. Did you mean 'epochs'"),
    ],
)
def test_a_scoring_model_that_there_is_not_is_refused(tmp_path: Path, model: Any, message: str) -> None:
    asked = {"name": "mine", "select": {"by": {"ifd": {"model": model}}, "share": 0.1}}
    with pytest.raises(UsageError, match=message):
        recipe(tmp_path, {"name": "all"}, asked)


def test_folds_part_the_pool_and_no_row_is_scored_by_a_reference_that_saw_it(tmp_path: Path) -> None:
    asked = {"by": {"lobass": {"prior": "heldout", "folds": 3}}, "count": 50, "pool": POOL}
    plan = recipe(tmp_path, {"select": asked})
    store = done(plan, tmp_path)
    (stage,) = selections.stages(plan)
    table = selection.read(store.path("select", stage.id))
    assert np.isfinite(table["score"].to_numpy()).all()
    scored = 0
    for number in range(3):
        for one in stage.inputs[f"rows.reference{number}"]:
            rows = pq.read_table(store.path("score", one.id) / "scores.parquet")["id"].to_pylist()
            ledger = pq.read_table(store.path("train", one.one("model").id) / "ledger.parquet")["id"].to_pylist()
            assert not set(rows) & set(ledger)
            scored += len(rows)
    assert scored == len(table) == 400


def test_scores_of_a_file_select_and_a_changed_file_selects_anew(tmp_path: Path) -> None:
    asked = {"by": "random", "count": 50, "pool": POOL}
    store = done(recipe(tmp_path, {"select": asked}), tmp_path)
    (folder,) = (tmp_path / "store" / "select").glob("*")
    table = pq.read_table(folder / "selection.parquet")
    lines = [{"id": one.hex(), "score": n} for n, one in enumerate(table["id"].to_pylist())]
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    stored = {"by": {"stored": {"path": "scores.jsonl"}}, "count": 50, "pool": POOL}
    plan = recipe(tmp_path, {"select": stored})
    store = done(plan, tmp_path)
    found = selection.read(store.path("select", selections.stages(plan)[0].id))
    assert found.filter(found["kept"])["score"].to_pylist() == list(range(350, 400))
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, lines[1:])), encoding="utf-8")
    outcome = api.run(recipe(tmp_path, {"select": stored}), Runtime(tmp_path / "store", workers=1, threads=1))
    assert any("has no number in 'score' for 1 of" in text for text in outcome.failed.values())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"by": "lobas", "share": 0.1},
            r"runs\.0\.select\.by: there is no 'lobas' in selectors\. Did you mean 'lobass'",
        ),
        ({"by": "lobass"}, "needs exactly one of share, count, threshold, between; got none"),
        ({"by": "lobass", "share": 0.1, "count": 5}, "got share, count"),
        ({"by": "lobass", "share": 2}, "less than or equal to 1"),
        ({"by": {"lobass": {"scor": "sum"}}, "share": 0.1}, "unknown key 'scor'. Did you mean 'score'"),
        ({"by": {"lobass": {"reference": {"epoch": 1}}}, "share": 0.1}, "unknown key 'epoch'"),
        ({"by": {"lobass": {"reference": {"max_length": 64}}}, "share": 0.1}, "trained on the run's own tokens"),
        ({"by": {"ifd": {"model": "./nowhere"}}, "share": 0.1}, "there is no folder"),
        ({"by": {"stored": {"path": "nowhere.parquet"}}, "share": 0.1}, "there is no file .*nowhere.parquet"),
        ({"by": "random", "share": 0.1, "sources": ["maths"]}, "there is no source 'maths'. Did you mean 'math'"),
        ({"by": "random", "between": ["3/4", "1/4"]}, "the first share must be below the second"),
        ({"by": "random", "share": 0.1, "pool": {"share": 2}}, "would repeat rows"),
    ],
)
def test_wrong_selections_are_refused_before_anything_runs(tmp_path: Path, asked: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(tmp_path, {"select": asked})


def pools_of(plan: Plan, number: int) -> dict[str, Any]:
    """Return how each source of a run's selection makes its pool."""
    excluded = [one for item in plan.runs[number].ingredients.values() for one, _ in item.excluded]
    (stage,) = {one.id: one for one in excluded}.values()
    pools = [
        (name, pool.identity["params"]["parts"][0])
        for (name, _), pool in zip(stage.locate["pools"], stage.inputs["pools"], strict=True)
    ]
    return dict(pools)


@pytest.mark.parametrize("place", ["run", "top"])
def test_the_pool_has_the_runs_own_sources_after_its_drop_and_keep(tmp_path: Path, place: str) -> None:
    asked = {"select": {"by": "random", "share": "1/4"}}
    own, top = (asked, {}) if place == "run" else ({}, asked)
    sources = {**SOURCES, "more": {"path": "math.jsonl", "ability": "math", "replay": True}}
    changed = {"math": {"drop": {"answer_longer_than": 14}, "amount": {"count": 20}}}
    plan = recipe(tmp_path, {"sources": changed, **own}, {"sources": ["math"], **own}, own, sources=sources, **top)
    first, second, third = (pools_of(plan, number) for number in range(3))
    assert [set(first), set(second), set(third)] == [{"math"}, {"math"}, {"math", "code"}]
    assert "drop" in first["math"]
    assert "drop" not in second["math"]
    assert "amounts" not in first["math"]
    store = done(plan, tmp_path)
    assert summary(store, plan.runs[0].models[0].one("data"))["rows"] == 20
    sizes = [summary(store, stage)["rows"] for stage in selections.stages(plan)]
    assert 80 <= sizes[0] < sizes[1] < sizes[2]


def test_a_selection_of_a_source_that_the_run_has_not_is_refused(tmp_path: Path) -> None:
    asked = {"sources": ["math"], "select": {"by": "random", "share": "1/4", "sources": ["code"]}}
    with pytest.raises(UsageError, match="this run does not train on 'code', only on math"):
        recipe(tmp_path, asked)


TURNS = {"rds": {"target": {"path": "dev.jsonl"}}}


@pytest.mark.parametrize("by", [TURNS, "k_center"])
@pytest.mark.parametrize("rule", [{"threshold": 0.5}, {"between": ["0", "1/2"]}, {"count": 9, "take": "lowest"}])
def test_a_selector_with_an_order_of_its_own_refuses_rules_about_scores(tmp_path: Path, by: Any, rule: Any) -> None:
    (tmp_path / "dev.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"runs\.0\.select.*in an order of its own"):
        recipe(tmp_path, {"select": {"by": by, **rule}})
    with pytest.raises(UsageError, match=r"runs\.0.difficulty.*in an order of its own"):
        phased(tmp_path, difficulty=by)
    highest = {"rds": {**TURNS["rds"], "choose": "highest"}}
    assert recipe(tmp_path, {"select": {"by": highest, **rule}}).runs


def test_more_than_there_is_fails_with_the_numbers(tmp_path: Path) -> None:
    plan = recipe(tmp_path, {"select": {"by": "length", "count": 500, "pool": POOL}})
    outcome = api.run(plan, Runtime(tmp_path / "store", workers=1, threads=1))
    (text,) = outcome.failed.values()
    assert "count: 500 asks for 500 rows, and 400 of 400 can be kept; say count: 400 or less" in text


def test_the_view_shows_the_border_and_the_files_hold_all_rows(tmp_path: Path) -> None:
    plan = recipe(tmp_path, {"select": {"by": "length", "count": 30, "pool": POOL}})
    store = done(plan, tmp_path)
    (one,) = selections.view(plan, store, rows=2)["selections"]
    assert [pool["source"] for pool in one["pools"]] == [pool[0] for pool in selections.stages(plan)[0].locate["pools"]]
    assert sum(pool["kept"] for pool in one["pools"]) == one["kept"] == 30
    shown = one["shown"]
    scores = [row["score"] for place in ("top", "last kept", "first not kept", "bottom") for row in shown[place]]
    assert scores == sorted(scores, reverse=True)
    assert all(row["kept"] for row in shown["last kept"])
    assert not any(row["kept"] for row in shown["first not kept"])
    (whole,) = selections.view(plan, store, rows=400)["selections"]
    assert [row["kept"] for row in whole["shown"]["top"]] == [True] * 30 + [False] * 370, "of equal scores as well"
    table, rows = selections.write(plan, store, tmp_path / "out")
    assert pq.read_table(table).num_rows == 400
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 30
    assert {message["role"] for message in lines[0]["messages"]} == {"user", "assistant"}


def test_a_target_set_chooses_by_vectors(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"What is {n} plus 1?", "answer": str(n + 1)}) for n in range(3)]
    (tmp_path / "dev.jsonl").write_text("\n".join(lines[:1]), encoding="utf-8")
    plan = recipe(
        tmp_path,
        {
            "select": [
                {"by": {"rds": {"target": {"path": "dev.jsonl"}}}, "count": 30, "pool": POOL},
                {"by": {"k_center": {"method": "farthest"}}, "count": 30, "pool": POOL},
            ]
        },
    )
    store = done(plan, tmp_path)
    assert [summary(store, stage)["kept"] for stage in selections.stages(plan)] == [30, 30]
    assert counted(plan, "embed") == 2 + 1 + 2  # both pools for two poolings, and the target


def test_less_and_lobass_with_equal_warm_up_settings_share_one_training(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}), encoding="utf-8")
    warm_up = {"method": "lora", "epochs": 2, "schedule": "linear"}
    less = {"target": {"path": "dev.jsonl"}, "reference": {"epochs": 2}, "dims": 16}
    plan = recipe(
        tmp_path,
        {
            "select": [
                {"by": {"less": less}, "count": 30, "pool": POOL},
                {"by": {"lobass": {"reference": warm_up, "share": "1/20"}}, "count": 30, "pool": POOL},
            ]
        },
    )
    assert counted(plan, "train", "lora") == 1
    assert counted(plan, "embed", "gradients") == 2 * (2 + 1)  # epochs, of two pools and the target
    store = done(plan, tmp_path)
    assert [summary(store, stage)["kept"] for stage in selections.stages(plan)] == [30, 30]


def sizes(plan: Plan, place: Path) -> list[list[int]]:
    """Return the rows of each run's trainings as a plan says them."""
    found = cost.estimate(plan, Store(place / "store"), Runtime(place / "store"), 1e12).sizes
    return [[found[model.one("data").id].rows for model in run.models] for run in plan.runs]


def test_a_plan_says_about_how_many_rows_are_left_by_pool_selections_and_phases(tmp_path: Path) -> None:
    of_pool = {"by": "random", "share": "1/10", "pool": POOL}
    plan = recipe(
        tmp_path,
        {"select": of_pool},
        {"select": {**of_pool, "share": None, "count": 90, "within": "source"}},
        {"select": {"by": "random", "count": 90}},
        {"select": {"by": "random", "share": "1/10"}, "strategy": "phased", "difficulty": "length"},
        {"select": None, "strategy": "phased", "difficulty": "length", "sources": HALVES},
    )
    counts = [[40], [180], [90], [20, 20, 20], [100, 100, 100]]
    assert [[pytest.approx(n, abs=4) for n in one] for one in counts] == sizes(plan, tmp_path)
    store = done(plan, tmp_path)
    exact = [[summary(store, model.one("data"))["rows"] for model in run.models] for run in plan.runs]
    assert [[pytest.approx(n, abs=4) for n in one] for one in exact] == sizes(plan, tmp_path)


# --------------------------------------------------------------------------------------------------- phases


HALVES = {name: {"amount": {"count": 150}} for name in SOURCES}


def phased(place: Path, **params: Any) -> Plan:
    sources = {name: {**source, "amount": {"count": 150}} for name, source in SOURCES.items()}
    return recipe(place, {"strategy": "phased", "difficulty": "length", **params}, {}, sources=sources)


def rows_of(store: Store, model: Any) -> set[tuple[str, int]]:
    table = pq.read_table(store.path("train", model.training.id) / "ledger.parquet", columns=["source", "row"])
    return set(zip(table["source"].to_pylist(), table["row"].to_pylist(), strict=True))


def lengths_of(store: Store, model: Any) -> list[int]:
    return pq.read_table(store.path("train", model.training.id) / "ledger.parquet")["supervised_tokens"].to_pylist()


def test_phases_part_what_one_training_would_see(tmp_path: Path) -> None:
    plan = phased(tmp_path)
    store = done(plan, tmp_path)
    phases, (one_off,) = plan.runs[0].models, plan.runs[1].models
    parts = [rows_of(store, model) for model in phases]
    assert [len(part) for part in parts] == [100, 100, 100]
    assert set.union(*parts) == rows_of(store, one_off)
    lengths = [lengths_of(store, model) for model in phases]
    assert max(lengths[0]) <= min(lengths[1])
    assert max(lengths[1]) <= min(lengths[2])
    assert sum(map(sum, lengths)) == sum(lengths_of(store, one_off))
    assert [model.start.id for model in phases] == [plan.runs[0].base.id, phases[0].id, phases[1].id]


def test_phases_by_ifd_are_equal_parts_although_ifd_refuses_rows(tmp_path: Path) -> None:
    # So low a bound refuses nearly all rows, as a base that has seen no instructions makes IFD above 1.
    plan = phased(tmp_path, difficulty={"ifd": {"largest": 0.001}})
    store = done(plan, tmp_path)
    assert [len(rows_of(store, model)) for model in plan.runs[0].models] == [100, 100, 100]


def test_the_other_orders_have_the_same_parts_or_parts_of_the_same_size(tmp_path: Path) -> None:
    plan = phased(tmp_path, order=["easy_first", "hard_first", "random"], thresholds=[6.0, 12.0])
    easy, hard, random = (run.models for run in plan.runs[:3])
    store = done(plan, tmp_path)
    assert [model.one("data").id for model in hard] == [model.one("data").id for model in reversed(easy)]
    sizes = [len(rows_of(store, model)) for model in easy]
    assert [len(rows_of(store, model)) for model in random] == sizes
    assert all(low >= 12 for low in lengths_of(store, easy[2]))
    assert all(6 <= n < 12 for n in lengths_of(store, easy[1]))
    assert len(set(lengths_of(store, random[0]))) > len(set(lengths_of(store, easy[0])))


def test_hard_may_be_the_lowest_score_and_quantiles_count_from_the_easiest(tmp_path: Path) -> None:
    plan = phased(tmp_path, quantiles=["1/5"], hard="lowest")
    store = done(plan, tmp_path)
    easy, hard = plan.runs[0].models
    assert len(rows_of(store, easy)) == 60
    assert min(lengths_of(store, easy)) >= max(lengths_of(store, hard))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"phases": 2, "thresholds": [1.0]}, "takes one of phases, quantiles, thresholds"),
        ({"thresholds": [3.0, 1.0]}, "must ascend"),
        ({"thresholds": []}, "thresholds is empty"),
        ({"difficulty": "lenth"}, "runs.0.difficulty: there is no 'lenth' in selectors. Did you mean 'length'"),
        ({"difficulty": {"length": {"off": "row"}}}, "unknown key 'off'"),
    ],
)
def test_wrong_phases_are_refused(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        phased(tmp_path, **params)


def dispersed(place: Path, **params: Any) -> Plan:
    return recipe(place, {"strategy": "disperse_then_merge", "portions": 3, **params}, {})


@pytest.mark.parametrize("by", ["clusters", {"clusters": {"of": "prompt"}}, {"clusters": {"of": "both"}}])
def test_clusters_part_what_one_training_would_see(tmp_path: Path, by: Any) -> None:
    plan = dispersed(tmp_path, by=by)
    assert counted(plan, "embed") == len(SOURCES)
    assert counted(plan, "select", "clusters") == 3
    store = done(plan, tmp_path)
    (one_off,) = plan.runs[1].models
    parts = [rows_of(store, model) for model in plan.runs[0].final.inputs["models"]]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(rows_of(store, one_off))
    assert set.union(*parts) == rows_of(store, one_off)
    assert all(parts)
    (stage,) = [s for s in plan.stages if s.kind == "select" and s.params["rule"]["between"] == [0, 1]]
    assert summary(store, stage)["kept"] == max(map(len, parts)), "the largest cluster is the first portion"


def test_what_is_embedded_is_the_prompt_the_answer_or_the_whole_row(tmp_path: Path) -> None:
    sizes = {}
    for of in ("prompt", "answer", "both"):
        plan = dispersed(tmp_path, by={"clusters": {"of": of}})
        embeds = [stage for stage in plan.stages if stage.kind == "embed"]
        store = done(plan, tmp_path, embeds)
        sizes[of] = sum(summary(store, stage)["total_tokens"] for stage in embeds)
    assert sizes["prompt"] + sizes["answer"] == sizes["both"]
    assert min(sizes.values()) > 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"by": "cluster"}, "clusters"),
        ({"by": {"clusters": {"of": "answers"}}}, "s.yaml:9: runs.0.by.clusters.of: input should be"),
        ({"by": {"clusters": {"clusters": 3}}}, "as many clusters as portions"),
        ({"by": "clusters", "sizes": "binomial"}, "sizes are of random portions"),
    ],
)
def test_a_wrong_way_to_disperse_is_refused(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        dispersed(tmp_path, **params)
    assert message in str(caught.value)


def test_rows_that_are_repeated_are_in_no_single_cluster(tmp_path: Path) -> None:
    twice = {name: {**source, "amount": {"share": 2}} for name, source in SOURCES.items()}
    with pytest.raises(UsageError, match="a row lies in one cluster"):
        recipe(tmp_path, {"strategy": "disperse_then_merge", "by": "clusters"}, sources=twice)


def test_the_papers_thresholds_and_rows_without_a_score() -> None:
    scores = np.array([1.0, 1.49, 1.5, 3.49, 3.5, 5.0, 4.0, np.nan])
    found = []
    for rule in ({"between": [None, 1.5]}, {"between": [1.5, 3.5]}, {"between": [3.5, None], "unscored": True}):
        kept = selection.keep(candidates(8), Judged(scores), {**rule, "values": True}).kept
        found.append(np.flatnonzero(kept).tolist())
    assert found == [[0, 1], [2, 3], [4, 5, 6, 7]]
