from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from cuvee.data.files import Absent
from cuvee.errors import DataError
from cuvee.pins import Pins
from cuvee.protocols import Source
from cuvee.sources import hub
from cuvee.values import Example

PATH = "hf://datasets/GAIR/lima@v1/data/train.jsonl"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A hub that has one file; returns what it was asked for."""
    (tmp_path / "train.jsonl").write_text('{"question": "2 + 2?", "answer": "4"}\n')
    calls: list[tuple[str, ...]] = []

    class HfApi:
        def dataset_info(self, repo: str, *, revision: str) -> Any:
            calls.append(("info", repo, revision))
            return SimpleNamespace(sha="c0ffee")

    def hf_hub_download(repo: str, file: str, *, repo_type: str, revision: str) -> str:
        calls.append(("download", repo, file, repo_type, revision))
        if file != "data/train.jsonl":
            raise OSError("404: no such file\nlong explanation")
        return str(tmp_path / "train.jsonl")

    fake = SimpleNamespace(HfApi=HfApi, hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return calls


def test_the_module_is_a_source() -> None:
    source: Source = hub
    assert source.VERSION >= 1


def test_a_revision_is_resolved_once_and_pinned(asked: list[tuple[str, ...]], cache: Any, tmp_path: Path) -> None:
    identity, where = hub.pin(hub.Params(path=PATH), tmp_path, cache)
    again, _ = hub.pin(hub.Params(path=PATH), tmp_path, cache)
    assert identity == again
    assert (identity["repo"], identity["revision"], identity["file"]) == ("GAIR/lima", "c0ffee", "data/train.jsonl")
    assert [call for call in asked if call[0] == "info"] == [("info", "GAIR/lima", "v1")]
    assert asked[1] == ("download", "GAIR/lima", "data/train.jsonl", "dataset", "c0ffee")
    (row,) = hub.examples(identity, where)
    assert isinstance(row, Example)
    assert row.messages[1].content == "4"
    assert hub.estimate(identity, where).rows == 1


def test_a_model_of_the_same_name_has_a_revision_of_its_own(asked: list[tuple[str, ...]], tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins.json", tmp_path / "recipe.lock")
    assert pins.revision("GAIR/lima", "v1", lambda: "a model") == "a model"
    identity, _ = hub.pin(hub.Params(path=PATH), tmp_path, pins)
    assert identity["revision"] == "c0ffee"
    assert json.loads((tmp_path / "recipe.lock").read_text()) == {
        "GAIR/lima@v1": "a model",
        "datasets/GAIR/lima@v1": "c0ffee",
    }


def test_columns_questions_and_kept_are_as_in_local_files(
    asked: list[tuple[str, ...]], cache: Any, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text('{"Body": "2 pens.", "Question": "How many?", "test": [2]}\n')
    columns = {"question": ["Body", "Question"]}
    params = hub.Params(path=PATH, columns=columns, questions=True, kept=["test"])
    identity, where = hub.pin(params, tmp_path, cache)
    assert (identity["format"], identity["columns"], identity["kept"]) == ("question", columns, ["test"])
    (row,) = hub.examples(identity, where)
    assert isinstance(row, Example)
    assert ([message.content for message in row.messages], row.extra) == (["2 pens. How many?"], {"test": [2]})


def test_without_a_revision_the_newest_is_pinned(asked: list[tuple[str, ...]], cache: Any, tmp_path: Path) -> None:
    hub.pin(hub.Params(path="hf://datasets/GAIR/lima/data/train.jsonl"), tmp_path, cache)
    assert asked[0] == ("info", "GAIR/lima", "main")


@pytest.mark.parametrize("path", ["GAIR/lima", "hf://datasets/lima/x.jsonl", "hf://GAIR/lima/x.jsonl"])
def test_another_form_of_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="is not hf://datasets/OWNER/NAME"):
        hub.Params(path=path)


def test_a_hub_that_fails_says_what_to_do(asked: list[tuple[str, ...]], cache: Any, tmp_path: Path) -> None:
    with pytest.raises(Absent, match=r"file x.jsonl at .* c0ffee .*404: no such file; .*sources.NAME.path=FILE"):
        hub.pin(hub.Params(path="hf://datasets/GAIR/lima/x.jsonl"), tmp_path, cache)


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch, cache: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Absent, match=r"needs the package huggingface_hub; .*declared"):
        hub.pin(hub.Params(path=PATH), tmp_path, cache)


# ------------------------------------------------------------------------------------------- whole data sets

WHOLE = "hf://datasets/GAIR/lima@v1"


class Sets:
    """A stand-in for the package: one data set of two subsets, its split written as the package writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.subsets, self.asked = folder, ["main", "extra"], []  # type: ignore[var-annotated]

    def get_dataset_config_names(self, repo: str, *, revision: str) -> list[str]:
        return self.subsets

    def load_dataset(self, repo: str, subset: str, *, split: str, revision: str) -> Any:
        self.asked.append((repo, subset, split, revision))
        if split != "train":
            raise ValueError(f"Unknown split {split!r}. Should be one of ['train'].")
        table = pa.Table.from_pylist([{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(5)])
        files = []
        for number in range(2):
            files.append({"filename": str(self.folder / f"{subset}-{number}.arrow")})
            with pa.OSFile(files[-1]["filename"], "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table.slice(3 * number, 3))
        return SimpleNamespace(cache_files=files)


@pytest.fixture
def sets(asked: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sets:
    found = Sets(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", found)  # type: ignore[arg-type]
    return found


def test_a_whole_data_set_is_pinned_by_revision_subset_and_split(sets: Sets, cache: Any, tmp_path: Path) -> None:
    identity, where = hub.pin(hub.Params(path=WHOLE, subset="main", tags=None), tmp_path, cache)
    assert identity == {
        "repo": "GAIR/lima",
        "revision": "c0ffee",
        "subset": "main",
        "split": "train",
        "format": "question_answer",
        "columns": {},
        "tags": None,
    }
    assert sets.asked == [("GAIR/lima", "main", "train", "c0ffee")]
    rows = [row for row in hub.examples(identity, where) if isinstance(row, Example)]
    assert [row.messages[1].content for row in rows] == ["1", "2", "3", "4", "5"]
    assert hub.estimate(identity, where).rows == 5


def test_several_subsets_are_listed_and_a_single_one_is_taken(sets: Sets, cache: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several subsets; name one with subset: main, extra"):
        hub.pin(hub.Params(path=WHOLE), tmp_path, cache)
    sets.subsets = ["main"]
    found, _ = hub.pin(hub.Params(path=WHOLE), tmp_path, cache)
    named, _ = hub.pin(hub.Params(path=WHOLE, subset="main", split="train"), tmp_path, cache)
    assert found == named


def test_an_unknown_split_lists_the_known_ones(sets: Sets, cache: Any, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"Unknown split 'dev'. Should be one of \['train'\]. \(data set GAIR/lima"
    ) as found:
        hub.pin(hub.Params(path=WHOLE, subset="main", split="dev"), tmp_path, cache)
    assert not isinstance(found.value, Absent)


def test_a_file_has_neither_subset_nor_split_and_a_split_no_slices() -> None:
    with pytest.raises(ValidationError, match="a file has no subset and no split"):
        hub.Params(path=PATH, split="train")
    with pytest.raises(ValidationError, match="split"):
        hub.Params(path=WHOLE, split="train[:10%]")


def test_without_the_datasets_package_the_error_names_it(
    asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, cache: Any, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Absent, match="needs the package datasets; install it"):
        hub.pin(hub.Params(path=WHOLE), tmp_path, cache)


@pytest.mark.skipif(not importlib.util.find_spec("datasets"), reason="the package datasets is absent")
def test_the_package_itself_reads_a_data_set(monkeypatch: pytest.MonkeyPatch, cache: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
    folder = tmp_path / "GAIR" / "lima"
    folder.mkdir(parents=True)
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "4"}]} for n in range(9)
    ]
    for split, part in (("train", rows[:6]), ("test", rows[6:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))

    def from_the_folder(repo: str, subset: str, *, split: str, revision: str) -> Any:
        return datasets.load_dataset(str(folder), subset, split=split, cache_dir=str(tmp_path / "cache"))

    standing_in = SimpleNamespace(
        load_dataset=from_the_folder,
        get_dataset_config_names=lambda repo, revision: datasets.get_dataset_config_names(str(folder)),
    )
    monkeypatch.setattr(hub, "_package", lambda name, repo: standing_in)
    monkeypatch.setattr(hub, "_revision", lambda repo, asked: "c0ffee")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        identity, where = hub.pin(hub.Params(path=WHOLE), tmp_path, cache)
        other, there = hub.pin(hub.Params(path=WHOLE, split="test"), tmp_path, cache)
        with pytest.raises(DataError, match="dev"):
            hub.pin(hub.Params(path=WHOLE, split="dev"), tmp_path, cache)
    assert (identity["subset"], identity["format"]) == ("default", "messages")
    assert [len(list(hub.examples(*pair))) for pair in ((identity, where), (other, there))] == [6, 3]
    assert hub.estimate(identity, where).rows == 6
