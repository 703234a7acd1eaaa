"""Rows of known kinds in one pool, a real small model: each selector ranks them as its theory says.

Kinds: ``learnable`` rows; ``noise``, prompts with the answers of others; ``known``, rows that the base was trained on
before; ``target``, rows like a few examples of another ability; ``again``, rows that repeat one with a word more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("peft")

from cuvee import api, runner, selections
from cuvee.data import examples, selection
from cuvee.plan import Plan
from cuvee.recipe import load
from cuvee.runtime import Runtime
from cuvee.sources import _tiny_world as world
from cuvee.store import Store
from cuvee.values import Example, Message

pytestmark = pytest.mark.real  # half a minute of training for the sake of one table

TRAINING = {"epochs": 8, "learning_rate": 3e-3, "batch_size": 16, "max_length": 96}
Rows = list[tuple[str, str]]


def conversations(ability: str, first: int, count: int) -> Rows:
    return list(islice(world.conversations(ability), first, first + count))


def write(path: Path, rows: Mapping[str, Rows]) -> None:
    lines = [
        json.dumps({"instruction": prompt, "output": answer, "kind": kind})
        for kind, pairs in rows.items()
        for prompt, answer in pairs
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def write_quality(rows: Mapping[str, Rows], path: Path) -> None:
    """Write what a perfect judge would say: noise 0, known rows 1, all others 2."""
    lines = [
        json.dumps({"id": Example((Message("user", prompt), Message("assistant", answer))).id, "score": score})
        for kind, pairs in rows.items()
        for score in [{"noise": 0, "known": 1}.get(kind, 2)]
        for prompt, answer in pairs
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def planned(place: Path, data: Mapping[str, Any]) -> Plan:
    (place / "r.yaml").write_text(yaml.safe_dump(dict(data)), encoding="utf-8")
    return api.plan(load(place / "r.yaml"), Runtime(place / "store"))


def source(name: str, **more: Any) -> dict[str, Any]:
    return {"path": f"{name}.jsonl", "ability": name, "tags": "kind", **more}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return for each selection its table with the kind of every row."""
    place = tmp_path_factory.mktemp("planted")
    learnable = conversations("general", 0, 160)
    swapped = conversations("general", 400, 41)
    pool = {
        "learnable": learnable,
        "noise": [(prompt, answer) for (prompt, _), (_, answer) in pairwise(swapped)],
        "known": conversations("code", 0, 40),
        "target": conversations("math", 0, 40),
        "again": [(f"{prompt} Please.", answer) for prompt, answer in learnable[:30]],
    }
    write(place / "known.jsonl", {"known": pool["known"]})
    write(place / "pool.jsonl", pool)
    write(place / "dev.jsonl", {"target": conversations("math", 400, 5)})
    common = {"heldout": 0, "evaluation": [], "analyses": []}
    first = {"base": "builtin:micro", "sources": {"known": source("known")}, "runs": [{"strategy": "multi_task"}]}
    plan, store = planned(place, {**first, "training": {**TRAINING, "epochs": 24}, **common}), Store(place / "store")
    assert api.run(plan, Runtime(place / "store", workers=1, threads=1)).failed == {}
    base = store.path("train", plan.runs[0].final.id) / "model"
    reference = {"reference": {"epochs": TRAINING["epochs"]}}
    difference = {"lobass": {**reference, "score": "difference"}}
    less = {"target": {"path": "dev.jsonl"}, "share": "1/4", "dims": 1024}
    less["reference"] = {"epochs": 2, "learning_rate": 1e-2, "lora": {"rank": 4, "targets": "all-linear"}}
    asked = [
        ("random", {"by": "random", "share": "1/4"}),
        ("lobass", {"by": {"lobass": reference}, "share": "1/4"}),
        ("difference", {"by": difference, "share": "1/4"}),
        ("ifd", {"by": "ifd", "share": "1/4"}),
        ("perplexity", {"by": {"perplexity": {"band": "low"}}, "share": "1/4"}),
        ("rds", {"by": {"rds": {"target": {"path": "dev.jsonl"}}}, "count": 40}),
        ("less", {"by": {"less": less}, "count": 40}),
        ("k_center", {"by": {"k_center": {"largest": 0.98}}, "count": 120}),
        ("entropy", {"by": "entropy", "share": "1/4"}),
        ("length", {"by": "length", "share": "1/4"}),
        ("stored", {"by": {"stored": {"path": "quality.jsonl"}}, "share": "1/4"}),
        ("clusters", {"by": {"clusters": {"clusters": 3}}, "share": 1}),
    ]
    write_quality(pool, place / "quality.jsonl")
    select = [selection for _, selection in asked]
    data = {
        "base": str(base),
        "sources": {"pool": source("pool")},
        "training": {**TRAINING, "epochs": 1},
        "runs": [{"strategy": "multi_task", "select": select}],
    }
    plan = planned(place, {**data, **common})
    outcome = runner.execute(plan, Runtime(place / "store", workers=1, threads=1), targets=selections.stages(plan))
    assert outcome.failed == {}
    (pool_load,) = [stage for stage in plan.stages if stage.kind == "load" and stage.label == "pool"]
    kinds = np.array([example.tags[0] for example, _ in examples.read(store.path("load", pool_load.id))])
    tables = {}
    for (name, _), run in zip(asked, plan.runs, strict=True):
        ((stage, _),) = run.ingredients["pool"].excluded
        table = selection.read(store.path("select", stage.id)).to_pydict()
        columns = {column: np.array(values) for column, values in table.items() if column != "id"}
        tables[name] = {**columns, "kind": kinds[columns["row"]]}
    return tables


def mean_of(table: Mapping[str, Any], kind: str) -> float:
    """Return the mean standing (0 lowest, 1 highest) of a kind's rows by score; rows without one stand lowest."""
    scores = np.where(np.isfinite(table["score"]), table["score"], -np.inf)
    standing = np.argsort(np.argsort(scores, kind="stable")) / (len(scores) - 1)
    return float(standing[table["kind"] == kind].mean())


def kept_of(table: Mapping[str, Any], kind: str) -> float:
    """Return the share of a kind's rows that is kept."""
    return float(table["kept"][table["kind"] == kind].mean())


def test_lobass_prefers_what_can_be_learnt_to_noise_and_to_what_is_known(found: dict[str, dict[str, Any]]) -> None:
    lobass = found["lobass"]
    assert mean_of(lobass, "learnable") > mean_of(lobass, "noise") + 0.1
    assert mean_of(lobass, "noise") > mean_of(lobass, "known") + 0.2
    assert kept_of(lobass, "learnable") > 2 * kept_of(lobass, "noise")
    assert kept_of(lobass, "known") == 0


def test_the_difference_of_losses_falls_for_noise_where_the_share_does_not(found: dict[str, dict[str, Any]]) -> None:
    assert mean_of(found["difference"], "noise") > mean_of(found["lobass"], "noise") + 0.1
    assert kept_of(found["difference"], "known") == 0


def test_known_rows_have_the_lowest_perplexity_and_ifd(found: dict[str, dict[str, Any]]) -> None:
    assert kept_of(found["perplexity"], "known") == 1
    assert mean_of(found["ifd"], "known") < 0.15
    assert kept_of(found["ifd"], "known") == 0


def test_rds_finds_rows_like_the_target(found: dict[str, dict[str, Any]]) -> None:
    assert kept_of(found["rds"], "target") > 0.6
    assert kept_of(found["rds"], "learnable") < 0.1


def test_less_finds_rows_that_lower_the_loss_on_the_target(found: dict[str, dict[str, Any]]) -> None:
    assert mean_of(found["less"], "target") > mean_of(found["less"], "learnable") + 0.2
    assert kept_of(found["less"], "target") > 0.4


def test_the_filter_passes_repeated_rows_over(found: dict[str, dict[str, Any]]) -> None:
    table = found["k_center"]
    near = table["reason"] == "near a row that is taken"
    again = table["kind"] == "again"
    originals = (table["kind"] == "learnable") & (table["row"] < 30)
    # Of a row and its repetition one is taken at most.
    both = table["kept"][originals] & table["kept"][again]
    assert near.sum() > 20
    assert both.sum() <= 2


def test_random_keeps_every_kind_alike(found: dict[str, dict[str, Any]]) -> None:
    assert all(0.05 < kept_of(found["random"], kind) < 0.5 for kind in ("learnable", "noise", "known", "target"))


def test_the_model_is_least_in_doubt_about_rows_it_knows_and_does_not_see_noise(
    found: dict[str, dict[str, Any]],
) -> None:
    entropy = found["entropy"]
    assert mean_of(entropy, "known") < 0.2
    assert kept_of(entropy, "known") == 0
    # The answer does not count, so that of another row changes little.
    assert abs(mean_of(entropy, "noise") - mean_of(entropy, "learnable")) < 0.2


def test_length_takes_the_kind_with_the_longest_answers(found: dict[str, dict[str, Any]]) -> None:
    length = found["length"]
    mean = {kind: length["supervised"][length["kind"] == kind].mean() for kind in ("learnable", "known", "target")}
    longest = max(mean, key=mean.__getitem__)
    assert kept_of(length, longest) == max(kept_of(length, kind) for kind in mean)
    assert (length["score"] == length["supervised"]).all()


def test_a_perfect_judges_file_leaves_noise_and_known_rows_out(found: dict[str, dict[str, Any]]) -> None:
    stored = found["stored"]
    assert kept_of(stored, "noise") == kept_of(stored, "known") == 0
    assert mean_of(stored, "noise") < mean_of(stored, "known") < mean_of(stored, "learnable")


def test_clusters_part_the_abilities(found: dict[str, dict[str, Any]]) -> None:
    assert purity(found["clusters"]) > 0.85


def purity(table: Mapping[str, Any]) -> float:
    """Return the share of rows in whose cluster most rows are of their ability."""
    ability = np.where(np.isin(table["kind"], ("known", "target")), table["kind"], "general")
    right = 0
    for cluster in np.unique(table["score"]):
        _, counts = np.unique(ability[table["score"] == cluster], return_counts=True)
        right += counts.max()
    return float(right / len(ability))


def test_rows_with_two_intentions_come_first_by_tags(tmp_path: Path) -> None:
    both = [(f"Write a Python program for this: {prompt}", answer) for prompt, answer in conversations("math", 0, 20)]
    pool = {"two": both, "one": [*conversations("math", 100, 40), *conversations("general", 0, 40)]}
    write(tmp_path / "pool.jsonl", pool)
    select = {"by": "tag_count", "count": 20}
    data = {
        "base": "builtin:micro",
        "sources": {"pool": source("pool", taggers=["rules"])},
        "runs": [{"strategy": "multi_task", "select": select}],
    }
    plan, store = planned(tmp_path, {**data, "heldout": 0, "evaluation": [], "analyses": []}), Store(tmp_path / "store")
    (stage,) = selections.stages(plan)
    assert runner.execute(plan, Runtime(tmp_path / "store", workers=1, threads=1), targets=[stage]).failed == {}
    table = selection.read(store.path("select", stage.id))
    rows = np.array(table["row"].to_pylist())[np.array(table["kept"].to_pylist())]
    assert sorted(rows.tolist()) == list(range(20))
