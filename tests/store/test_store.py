"""Present means complete: a stage is there whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import Timeout

from cuvee.errors import StoreError, UsageError
from cuvee.store import Store

ID = "ab" * 32
OTHER = "abcd" + "0" * 60


def put(store: Store, stage_id: str = ID, kind: str = "mix") -> Path:
    store.prepare()
    work = store.work(f"{kind}-{stage_id[:16]}")
    work.mkdir(parents=True)
    (work / "rows.txt").write_text("rows", encoding="utf-8")
    return store.commit(kind, stage_id, work, {"id": stage_id, "kind": kind, "finished": 1.0})


def test_a_committed_stage_is_there_with_its_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    assert not store.has("mix", ID)
    folder = put(store)
    assert store.has("mix", ID)
    assert (folder / "rows.txt").read_text() == "rows"
    assert store.manifest("mix", ID)["id"] == ID
    assert not store.work(f"mix-{ID[:16]}").exists()


def test_work_without_manifest_is_no_stage(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.prepare()
    (store.path("mix", ID)).mkdir(parents=True)
    (store.path("mix", ID) / "rows.txt").write_text("half", encoding="utf-8")
    assert not store.has("mix", ID)
    assert list(store.stages()) == []


def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_damaged_manifest_says_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = put(store)
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match=r"is damaged .* delete .* and run again"):
        store.manifest("mix", ID)


def test_a_stage_of_another_id_in_the_folder_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    put(store)
    with pytest.raises(StoreError, match="holds stage"):
        store.manifest("mix", ID[:16] + "f" * 48)


@pytest.mark.parametrize("text", ['{"version": 2}', '{"version": "x"}', "[]", "{"])
def test_a_store_that_cannot_be_understood_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text, encoding="utf-8")
    with pytest.raises(StoreError):
        Store(tmp_path)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "f")


def test_one_writer_a_stage(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.prepare()
    with store.lock("mix-1").acquire(blocking=False), pytest.raises(Timeout):
        Store(tmp_path / "s").lock("mix-1").acquire(blocking=False)


def test_short_names_are_resolved_when_they_are_unique(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    put(store)
    put(store, OTHER, "train")
    assert store.resolve("mix-abab") == ("mix", ID)
    assert store.resolve("abcd") == ("train", OTHER)
    with pytest.raises(UsageError, match="names 2 stages"):
        store.resolve("ab")
    with pytest.raises(UsageError, match="`cuvee list` shows"):
        store.resolve("ff")


def test_a_journal_line_cut_short_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.prepare()
    store.journal("started", "mix-1")
    with (store.folder / "journal.jsonl").open("a") as stream:
        stream.write('{"event": "fini')
    assert [event["event"] for event in store.events()] == ["started"]


def test_weights_that_are_to_stay_are_not_given_up(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    folder = put(store, kind="train")
    assert store.shed("train", ID, "rows.txt") == 0
    assert (folder / "rows.txt").exists()


def test_given_up_weights_are_told_in_the_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.prepare()
    work = store.work("train-x")
    (work / "model").mkdir(parents=True)
    (work / "model" / "weights").write_text("12345", encoding="utf-8")
    folder = store.commit("train", ID, work, {"id": ID, "kind": "train", "disposable": True})
    assert store.shed("train", ID, "model") == 5
    assert json.loads((folder / "manifest.json").read_text())["shed"] == "model"
    assert not (folder / "model").exists()


def test_a_lease_is_whole_for_whoever_looks_and_gone_with_its_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.prepare()
    with store.lease([ID, OTHER]):
        (found,) = (store.folder / "leases").glob("*.json")
        assert json.loads(found.read_text()) == sorted([ID, OTHER])
        assert store.leased() == set()  # one's own lease is no obstacle
        found.rename(found.with_name("1-dead.json"))  # as a process leaves it that was killed
        assert store.leased() == set()
        assert not list((store.folder / "leases").glob("*.json"))
