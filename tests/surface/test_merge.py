"""`cuvee merge` merges folders and stages of the store, and says what is wrong in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from cuvee import bases
from cuvee.cli import app
from cuvee.errors import UsageError
from cuvee.store import Store
from tests.merging.models import folder, near, read, tensors


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    base = tensors(0)
    return [str(folder(tmp_path / name, near(base, seed))) for name, seed in (("a", 1), ("b", 2))]


def call(*arguments: str) -> str:
    return CliRunner().invoke(app, ["merge", *arguments], catch_exceptions=False, standalone_mode=False).output


def test_a_folder_of_the_store_is_called_by_its_stage(pair: list[str], tmp_path: Path) -> None:
    """All models of a store lie in folders of one name, which would tell nothing in a card."""
    made = []
    for path, letter in zip(pair, "cd", strict=True):
        stage = tmp_path / "store" / letter
        stage.mkdir(parents=True)
        (stage / "manifest.json").write_text(json.dumps({"kind": "train", "id": letter * 64}))
        made.append(str(Path(path).rename(stage / "model")))
    out = tmp_path / "out"
    call("linear", *made, "--out", str(out))
    assert f"from `train-{'c' * 16}`, `train-{'d' * 16}`" in (out / "README.md").read_text()


def test_weights_follow_their_option_and_the_card_tells_them(pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = call("linear", *pair, "--weights", "0.25", "0.75", "--out", str(out))
    assert "memory: at most" in said.splitlines()[1]
    assert said.strip().endswith(f"wrote {out}")
    one, other = (read(Path(path)) for path in pair)
    for name, value in read(out).items():
        torch.testing.assert_close(value, 0.25 * one[name] + 0.75 * other[name])
    card = (out / "README.md").read_text()
    assert "from `a`, `b`" in card
    assert "| weights | [0.25, 0.75] |" in card
    assert str(tmp_path) not in card + (out / "cuvee.json").read_text(), "a model is passed on"


def test_parameters_are_keys_and_values_and_json_is_one_document(pair: list[str], tmp_path: Path) -> None:
    more = ["--base", pair[0], "density=0.5", "scope=model", "--json"]
    said = call("ties", pair[1], *more, "--out", str(tmp_path / "out"))
    found = json.loads(said[said.index("{") :])
    assert found["schema"] == "cuvee.merge/1"
    assert (found["models"], found["tensors"]) == (1, 5)
    card = json.loads((tmp_path / "out" / "cuvee.json").read_text())
    assert card["merger"] == {"ties": {"density": 0.5, "scope": "model"}}
    assert (card["settings"]["zero"], card["version"]) == ("positive", 1), "what was left to the defaults as well"


def test_weights_are_numbers_or_fractions_and_are_missed_where_there_are_none(pair: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    call("linear", *pair, "--out", out, "--weights", "1/4", "+7.5e-1")
    assert json.loads((tmp_path / "out" / "cuvee.json").read_text())["merger"] == {"linear": {"weights": [0.25, 0.75]}}
    for given in (["--weights"], ["--weights", "0.5,0.5"], ["--weights", "1/0", "1"]):
        with pytest.raises(click.UsageError, match=r"requires an argument|is no number; give one a model"):
            call("linear", *pair, "--out", str(tmp_path / "other"), *given)


def test_a_dry_run_says_what_a_merge_takes_and_writes_nothing(pair: list[str], tmp_path: Path) -> None:
    said = call("linear", *pair, "--base", pair[0], "--out", str(tmp_path / "out"), "--dry-run")
    assert "memory: at most" in said
    assert "linear looks at no base" in said
    assert "nothing is written" in said
    assert not list(tmp_path.glob("out*"))
    with pytest.raises(UsageError, match="exists; name another folder"):
        call("linear", *pair, "--out", pair[0], "--dry-run")


def test_a_builtin_model_can_be_merged_and_shards_are_small_when_asked_for(tmp_path: Path) -> None:
    micro = str(bases.builtin_folder("micro"))
    out = tmp_path / "out"
    call("linear", "builtin:micro", micro, "--out", str(out), "--shard-size", "0.0001")
    assert len(list(out.glob("model-*.safetensors"))) > 3
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    answer = model.generate(torch.tensor([[1, 5, 9]]), max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > 3
    was = read(Path(micro))
    assert all(torch.equal(value, was[name]) for name, value in read(out).items())
    assert (out / "tokenizer.json").is_file()


def test_information_may_be_a_stage_of_the_store(pair: list[str], tmp_path: Path) -> None:
    Store(tmp_path / "store").prepare()
    folders = []
    for letter, seed in (("a", 3), ("b", 4)):
        stage = tmp_path / "store" / "fisher" / (letter * 16)
        stage.mkdir(parents=True)
        save_file({name: value.abs() for name, value in tensors(seed).items()}, stage / "fisher.safetensors")
        (stage / "manifest.json").write_text(json.dumps({"id": letter * 64}))
        folders.append(str(stage))
    named = ["fisher-aaaa", "fisher-bbbb", "--store", str(tmp_path / "store")]
    call("fisher", *pair, "--fishers", *named, "--out", str(tmp_path / "named"))
    call("fisher", *pair, "--fishers", *folders, "--out", str(tmp_path / "folders"))
    expected = read(tmp_path / "folders")
    assert all(torch.equal(value, expected[name]) for name, value in read(tmp_path / "named").items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["liner"], "Did you mean 'linear'?"),
        (["linear", "weight=[1, 2]"], "Did you mean 'weights'?"),
        (["linear", "--weights", "1"], "weights has 1 values for 2 models"),
        (["linear", "--weights", "0", "0"], "all weights are zero"),
        (["ties"], "needs the base"),
        (["linear", "no/model"], "no/model: no such folder"),
        (["linear", "--fishers", "x", "y"], "takes no folders beside the models"),
        (["linear", "--shard-size", "nan"], "--shard-size nan: is no size"),
        (["linear", "--shard-size", "0"], "--shard-size 0: is no size"),
        (["fisher", "--fishers", "fisher-3f9a1c20", "fisher-3f9a1c21"], "no stage 'fisher-3f9a1c20'"),
        (["linear", "train-3f9a1c20"], "no stage 'train-3f9a1c20'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    pair: list[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    method, *rest = arguments
    with pytest.raises(UsageError) as caught:
        call(method, *pair, *rest, "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store"))
    assert message in str(caught.value)
    assert not list(tmp_path.glob("out*"))
