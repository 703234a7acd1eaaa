"""Folders that cannot serve are refused with the remedy; what is saved is what was there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from cuvee.engine import loading  # noqa: E402
from cuvee.errors import ModelError  # noqa: E402
from cuvee.runtime import Runtime  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def folder(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(model_folder("llama"), tmp_path / "model")
    return tmp_path / "model"


def refuse(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        loading.load(folder, "float32", CPU)


def test_a_missing_folder_or_configuration(folder: Path) -> None:
    refuse(folder / "nowhere", "no such folder")
    (folder / "config.json").unlink()
    refuse(folder, r"no config\.json")


def test_a_damaged_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    refuse(folder, "copy the model again")


def test_quantised_weights(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    refuse(folder, "quantised")


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refuse(folder, "cannot be loaded")


def test_missing_tensors_are_never_filled_with_random_numbers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refuse(folder, r"lacks 1 tensors, first model\.norm\.weight")


def test_tensors_of_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refuse(folder, "cannot be loaded")


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refuse(folder, "pickled")


def test_unknown_architectures(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "grape", "auto_map": {"AutoConfig": "x.Y"}}))
    refuse(folder, "cannot be loaded")


def test_saving_keeps_weights_settings_and_companions(folder: Path, tmp_path: Path) -> None:
    # Settings that transformers reads but refuses to write; models in the wild have them.
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.9, "top_p": 0.6}')
    loaded = loading.load(folder, "float32", CPU)
    out = tmp_path / "out"
    out.mkdir()
    (out / "left.over").write_text("from a killed run")
    loading.save(loaded.model, folder, out)
    before, after = (load_file(place / "model.safetensors") for place in (folder, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert not (out / "left.over").exists()


def test_bfloat16_is_saved_as_bfloat16(folder: Path, tmp_path: Path) -> None:
    loading.save(loading.load(folder, "bfloat16", CPU).model, folder, tmp_path / "out")
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_auto_takes_what_torch_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading.device_of(Runtime(device="auto"), lambda facts: pytest.fail("nothing to say")).type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loading.device_of(Runtime(device="auto")).type == "cpu"


@pytest.mark.parametrize(("visible", "told"), [("0", True), ("GPU-5f", True), ("", False), ("-1", False)])
def test_auto_says_so_when_a_gpu_is_there_that_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, visible: str, told: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    notes: list[Any] = []
    assert loading.device_of(Runtime(device="auto"), notes.append).type == "cpu"
    assert ["there is a GPU, and torch" in facts["note"] for facts in notes] == [True] * told


def test_a_gpu_asked_for_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no usable GPU"):
        loading.device_of(Runtime(device="cuda"), lambda facts: pytest.fail("nothing to say"))
