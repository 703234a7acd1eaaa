"""The ledger of a training holds what was trained on, to the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cuvee import api, exposure
from cuvee.data import ledger
from cuvee.errors import UsageError
from cuvee.runtime import Runtime
from cuvee.store import Store

ROWS = [{"question": f"What is {n} plus one?", "answer": f"#### {n + 1}"} for n in range(10)]
SOURCES: dict[str, Any] = {
    "math": {"rows": [*ROWS, ROWS[0]], "ability": "math", "amount": {"share": "3/2"}},
    "chat": {"rows": [{"question": f"Say {n}.", "answer": f"{n}!"} for n in range(6)], "ability": "chat"},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    data = {
        "base": "fake:one",
        "sources": SOURCES,
        "heldout": 0,
        "training": {"epochs": 2, "batch_size": 4, "max_length": 256, "template": "plain"},
        "runs": [{"strategy": "sequential", "order": ["math", "chat"]}],
        "evaluation": [],
        "preflight": {"accept": ["overlap"]},
    }
    runtime = Runtime(tmp_path / "store", workers=1)
    assert api.run(api.load_recipe(data), runtime).failed == {}
    return Store(runtime.store)


def models(store: Store) -> dict[str, dict[str, Any]]:
    return {m["label"]: m for m in store.stages() if m["kind"] == "train"}


def test_every_row_stands_once_with_its_times_and_tokens(store: Store) -> None:
    manifest = models(store)["math"]
    table = ledger.read(store.path("train", manifest["id"])).to_pylist()
    assert len(table) == 11  # ten rows, one of them twice with occurrences 0 and 1
    assert len({(row["id"], row["occurrence"]) for row in table}) == 11
    mixed = store.manifest("mix", manifest["identity"]["inputs"]["data"][0])["summary"]
    # Half of the rows come twice an epoch, over two epochs.
    assert sorted(row["times"] for row in table) == [2] * 6 + [4] * 5
    assert sum(row["times"] for row in table) == 2 * mixed["rows"] == 32
    assert sum(row["supervised_tokens"] for row in table) == 2 * mixed["supervised_tokens"]
    assert sum(row["supervised_tokens"] for row in table) == manifest["summary"]["supervised_tokens"]


def test_steps_are_those_of_the_training(store: Store) -> None:
    manifest = models(store)["math"]
    table = ledger.read(store.path("train", manifest["id"])).to_pylist()
    steps = [step for row in table for step in row["steps"]]
    assert all(len(row["steps"]) == row["times"] for row in table)
    assert sorted(set(steps)) == list(range(1, manifest["summary"]["steps"] + 1))
    assert max(steps.count(step) for step in set(steps)) == 4


def test_a_model_tells_the_rows_of_all_trainings_behind_it(store: Store) -> None:
    view = exposure.describe(store, models(store)["chat"]["id"][:12])
    assert [(line["source"], line["rows"], line["times"]) for line in view["summary"]] == [
        ("math", 11, 32),
        ("chat", 6, 12),
    ]


def test_a_row_is_found_by_its_place_or_id(store: Store) -> None:
    model = models(store)["chat"]["id"]
    (row,) = exposure.describe(store, model, "(recipe):3")["rows"][:1]
    assert exposure.describe(store, model, row["id"][:20])["rows"][0]["line"] == row["line"]
    assert exposure.describe(store, model, "nothing like it")["found"] == 0


def test_a_base_has_seen_no_rows(store: Store) -> None:
    base = next(m for m in store.stages() if m["kind"] == "base" and m["component"] == "fake")
    with pytest.raises(UsageError, match="is no model that was trained here"):
        exposure.describe(store, base["id"])


def test_two_sources_that_are_the_same_rows_are_told_apart(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} plus one?", "answer": f"#### {n + 1}"} for n in range(10)]
    data = {
        "base": "fake:one",
        "sources": {
            "some": {"rows": rows, "ability": "math", "amount": {"count": 3}},
            "more": {"rows": rows, "ability": "chat", "amount": {"count": 5}},
        },
        "heldout": 0,
        "training": {"epochs": 1, "batch_size": 4, "max_length": 256, "template": "plain"},
        "runs": [{"strategy": "multi_task"}],
        "evaluation": [],
    }
    runtime = Runtime(tmp_path / "store", workers=1)
    assert api.run(api.load_recipe(data), runtime).failed == {}
    found = Store(runtime.store)
    view = exposure.describe(found, models(found)["some + more"]["id"])
    assert {line["source"]: line["rows"] for line in view["summary"]} == {"some": 3, "more": 5}
