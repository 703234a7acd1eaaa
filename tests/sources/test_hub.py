from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from cuvee.data.files import Absent
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
