"""No training starts that a check speaks against, unless the finding is accepted by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cuvee import api, gate
from cuvee.runtime import Runtime
from cuvee.store import Store

LEAK = {"question": "How many legs have three spiders and two cats together in the house?", "answer": "#### 32"}
ROWS = [{"question": f"Say the number that follows {n} when one counts?", "answer": f"#### {n + 1}"} for n in range(40)]


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path / "store", workers=1)


def recipe(tmp_path: Path, **more: Any) -> Any:
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps(LEAK) + "\n", encoding="utf-8")
    data = {
        "base": "fake:one",
        "sources": {"math": {"rows": [*ROWS, LEAK], "ability": "math"}},
        "heldout": 0,
        "training": {"epochs": 1, "batch_size": 8, "max_length": 256, "template": "plain"},
        "runs": [{"strategy": "multi_task"}],
        "evaluation": [{"exact_answer": {"path": str(bench), "ability": "math", "name": "spiders", "stages": "all"}}],
        **more,
    }
    return api.load_recipe(data)


def trained(store: Path) -> list[dict[str, Any]]:
    return [m for m in Store(store).stages() if m["kind"] == "train"]


def test_a_leaked_benchmark_item_stops_the_training_and_shows_the_row(tmp_path: Path, runtime: Runtime) -> None:
    outcome = api.run(recipe(tmp_path), runtime)
    (text,) = outcome.failed.values()
    assert "overlap/math/spiders" in text
    assert "(recipe):41" in text
    assert "--accept overlap/math/spiders" in text
    assert trained(runtime.store) == []
    # What needs no training is done all the same.
    assert any(name.startswith("generate-") for name in outcome.executed)


def test_a_finished_preflight_still_stops_the_training(tmp_path: Path, runtime: Runtime) -> None:
    api.run(recipe(tmp_path), runtime)
    again = api.run(recipe(tmp_path), runtime)
    assert again.executed == []
    assert [name.partition("-")[0] for name in again.failed] == ["preflight"]
    assert any(name.startswith("train-") for name in again.skipped)


@pytest.mark.parametrize("name", ["overlap", "overlap/math", "overlap/math/spiders"])
def test_an_accepted_finding_is_in_the_lineage(tmp_path: Path, runtime: Runtime, name: str) -> None:
    outcome = api.run(recipe(tmp_path, preflight={"accept": [name]}), runtime)
    assert outcome.failed == {}
    (manifest,) = trained(runtime.store)
    assert [one["name"] for one in manifest["preflight"]["accepted"]] == ["overlap/math/spiders"]
    card = (Store(runtime.store).path("train", manifest["id"]) / "model" / "README.md").read_text(encoding="utf-8")
    assert "overlap/math/spiders" in card


def test_acceptance_changes_no_id(tmp_path: Path, runtime: Runtime) -> None:
    plain, accepting = (
        api.plan(recipe(tmp_path, preflight={"accept": names}), runtime) for names in ([], ["overlap/math"])
    )
    assert [stage.id for stage in plain.stages] == [stage.id for stage in accepting.stages]


def test_a_source_that_drops_overlapping_rows_passes(tmp_path: Path, runtime: Runtime) -> None:
    sources = {"math": {"rows": [*ROWS, LEAK], "ability": "math", "overlap": "drop"}}
    outcome = api.run(recipe(tmp_path, sources=sources), runtime)
    assert outcome.failed == {}
    (manifest,) = trained(runtime.store)
    mixed = Store(runtime.store).manifest("mix", manifest["identity"]["inputs"]["data"][0])
    assert mixed["summary"]["parts"][0]["overlap"] == 1
    assert mixed["summary"]["rows"] == len(ROWS)


def test_a_name_that_no_finding_has_is_told(tmp_path: Path, runtime: Runtime) -> None:
    located = recipe(tmp_path, preflight={"accept": ["overlap", "overlaps/math"]})
    api.run(located, runtime)
    assert gate.unknown(api.plan(located, runtime), Store(runtime.store)) == ["overlaps/math"]


def test_training_waits_for_the_preflight_but_its_id_does_not_hang_on_it(tmp_path: Path, runtime: Runtime) -> None:
    strict, loose = (api.plan(recipe(tmp_path, preflight={"max_lost": share}), runtime) for share in ("1/4", "1/2"))
    assert strict.preflights[0].id != loose.preflights[0].id
    assert strict.runs[0].models[0].id == loose.runs[0].models[0].id
    model = strict.runs[0].models[0]
    assert strict.preflights[0] in list(strict.before(model))


def test_a_model_that_was_trained_before_the_benchmark_was_named_is_not_judged_by_it(
    tmp_path: Path, runtime: Runtime
) -> None:
    before = recipe(tmp_path, evaluation=[])
    assert api.run(before, runtime).failed == {}
    outcome = api.run(recipe(tmp_path), runtime)
    assert [name.partition("-")[0] for name in outcome.failed] == ["preflight"]
    judged = [m for m in Store(runtime.store).stages() if m["kind"] == "grade"]
    assert [m["label"] for m in judged] == ["fake:one"]  # the base, which has not seen the rows


def test_what_was_accepted_once_is_not_accepted_for_ever(tmp_path: Path, runtime: Runtime) -> None:
    api.run(recipe(tmp_path, preflight={"accept": ["overlap"]}), runtime)
    again = api.run(recipe(tmp_path), runtime)
    assert again.executed == []
    assert "overlap/math/spiders" in next(iter(again.failed.values()))


def test_of_two_sources_that_are_the_same_rows_one_that_drops_does_not_speak_for_the_other(
    tmp_path: Path, runtime: Runtime
) -> None:
    rows = [*ROWS, LEAK]
    sources = {
        "math": {"rows": rows, "ability": "math", "overlap": "drop"},
        "again": {"rows": rows, "ability": "math"},
    }
    outcome = api.run(recipe(tmp_path, sources=sources), runtime)
    assert "overlap/math+again/spiders" in next(iter(outcome.failed.values()))
