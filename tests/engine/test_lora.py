"""LoRA: a standard adapter, gradients of the float64 reference, a fold that is the adapter's own model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee.engine import loop, lora  # noqa: E402
from cuvee.engine.disk import Checkpoints  # noqa: E402
from cuvee.errors import ModelError, UsageError  # noqa: E402
from cuvee.runtime import Runtime  # noqa: E402

from .conftest import RUNTIME, hyper, make_rows, micro_batches, silent  # noqa: E402
from .test_gradients import FLAT, SINGLE, TOLERANCE, furthest, reference  # noqa: E402
from .test_loop import EVERY, ROWS, STEPS, Breaks, Stop  # noqa: E402

LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "rslora": False}


def settings(**changes: Any) -> dict[str, Any]:
    return hyper(method="lora", lora={**LORA, **changes}, learning_rate=1e-2)


def run(folder: Path, place: Path, runtime: Runtime = RUNTIME, rows: Any = ROWS, **more: Any) -> Any:
    given = {"hyper": settings(), "progress": silent, **more}
    arguments = (given.pop("hyper"), place / "out", place / "work", runtime, given.pop("progress"))
    return loop.train(folder, rows, STEPS, *arguments, micro_batches=micro_batches, **given)


def adapter(place: Path) -> dict[str, Any]:
    return load_file(place / "out" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def trained(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    place = tmp_path_factory.mktemp("lora")
    return place, run(model_folder("llama"), place)


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ROWS[0].ids)])).logits


def with_peft(model: Any, folder: Path) -> Any:
    """The model with an adapter, as PEFT loads it; PEFT still uses old names of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return peft.PeftModel.from_pretrained(model, folder)


# ------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", FLAT + SINGLE)
@pytest.mark.parametrize("budget", [10_000, 40])
def test_a_step_equals_the_float64_reference(
    kind: str, budget: int, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [*make_rows(10), make_rows(1, seed=9)[0], make_rows(1, seed=9)[0]]
    runtime = replace(RUNTIME, micro_tokens=budget)
    folder, steps = model_folder(kind), [list(range(len(rows)))]
    training = loop.Training(folder, rows, steps, settings(), tmp_path, runtime, silent, micro_batches)
    draw = torch.Generator().manual_seed(5)
    for name, weight in training.trainee.optimiser.weights.items():
        if "lora_B" in name:  # 0 at the start, where no gradient would reach A
            weight.data = torch.randn(weight.shape, generator=draw) * 0.1
    given = {name: weight.detach().clone() for name, weight in training.trainee.optimiser.weights.items()}
    training.resume_or_start(Checkpoints(tmp_path, ""))
    caught: dict[str, Any] = {}

    def catch(rate: float) -> Any:
        caught.update({name: p.grad.clone() for name, p in training.trainee.optimiser.masters.items()})
        return torch.tensor(0.0)

    training.trainee.optimiser.step = catch  # type: ignore[method-assign]
    record = training.step(0)

    def with_adapter(model: Any) -> Any:
        lora.attach(model, LORA, 3, None)
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.data = given[name].double()
        return model

    value, expected = reference(folder, rows, with_adapter)
    assert training.passes.layout == ("single" if kind in SINGLE else "flat")
    assert all("lora_" in name for name in caught)
    assert record["loss"] == pytest.approx(value, rel=1e-6)
    assert furthest(caught, expected) < TOLERANCE


def test_only_the_adapter_is_trained_and_kept_in_checkpoints(
    trained: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    _, summary = trained
    values = sum(tensor.numel() for tensor in adapter(trained[0]).values())
    assert summary["trained_parameters"] == values
    assert summary["final_loss"] < summary["first_loss"]
    with pytest.raises(Stop):
        run(model_folder("llama"), tmp_path, EVERY, Breaks(13, 2))
    checkpoint = max((tmp_path / "work").glob("checkpoint-*"))
    stored = load_file(checkpoint / "model.safetensors")
    assert {name for name in stored if "weight" in name} == {name for name in stored if "lora_" in name}
    moments = load_file(checkpoint / "state.safetensors")
    assert sum(t.numel() for n, t in moments.items() if "exp_avg_sq" in n) == values


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2}])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_training_has_the_same_bits(
    changes: dict[str, Any], precision: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = {"hyper": {**settings(**changes), "precision": precision}}
    run(model_folder("llama"), whole, **given)
    with pytest.raises(Stop):
        run(model_folder("llama"), broken, EVERY, Breaks(13, 2), **given)
    assert run(model_folder("llama"), broken, EVERY, **given)["resumed_from"]
    names = {name for name, tensor in adapter(whole).items() if not torch.equal(tensor, adapter(broken)[name])}
    assert names == set()


def test_activations_computed_twice_change_no_bit_of_an_adapter(
    trained: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama"), tmp_path, replace(RUNTIME, checkpoint_activations=True))
    assert all(torch.equal(tensor, adapter(trained[0])[name]) for name, tensor in adapter(tmp_path).items())


def test_an_adapter_can_be_trained_further(
    trained: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    summary = run(model_folder("llama"), tmp_path, adapter=trained[0] / "out")
    assert summary["first_loss"] < trained[1]["first_loss"]
    assert adapter(tmp_path).keys() == adapter(trained[0]).keys()


def test_the_scale_of_rslora_divides_by_the_root_of_the_rank(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama"), tmp_path, hyper=settings(rslora=True))
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["use_rslora"] is True
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    wrapped = with_peft(model, tmp_path / "out")
    assert {m.scaling["default"] for m in wrapped.modules() if hasattr(m, "lora_A")} == {8.0 / 2}


# ------------------------------------------------------------------------------------------- adapter and fold


def test_the_adapter_is_a_standard_folder_that_peft_loads_by_itself(
    trained: tuple[Path, Any], model_folder: Callable[[str], Path]
) -> None:
    out = trained[0] / "out"
    names = {path.name for path in out.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert not any(name == "model.safetensors" for name in names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded = peft.AutoPeftModelForCausalLM.from_pretrained(out)
    assert not torch.allclose(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(model_folder("llama"))))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "phi3", "llama-tied"])
def test_the_fold_is_the_model_with_its_adapter(kind: str, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    run(model_folder(kind), tmp_path)
    told = lora.fold(model_folder(kind), tmp_path / "out", tmp_path / "full", "float32")
    assert told["dtype"] == "float32"
    assert told["layers"] > 0
    assert told["largest_change"] > 0
    base = AutoModelForCausalLM.from_pretrained(model_folder(kind))
    with_adapter = with_peft(base, tmp_path / "out")
    folded = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    assert torch.allclose(logits(folded), logits(with_adapter), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "full" / "tokenizer.json").exists()
    assert "adapter" not in " ".join(path.name for path in (tmp_path / "full").iterdir())
    stored = load_file(tmp_path / "full" / "model.safetensors")
    assert stored.keys() == load_file(model_folder(kind) / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("stored", "precision", "written"),
    [("bfloat16", "bfloat16", "bfloat16"), ("bfloat16", "float32", "float32"), ("float32", "bfloat16", "float32")],
)
def test_the_fold_is_written_in_the_wider_precision_and_rounded_once(
    stored: str, precision: str, written: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=getattr(torch, stored)).save_pretrained(base)
    run(base, tmp_path, hyper={**settings(targets=["q_proj"]), "precision": precision})
    assert lora.fold(base, tmp_path / "out", tmp_path / "full", precision)["dtype"] == written
    name = "model.layers.0.self_attn.q_proj.weight"
    a, b = (adapter(tmp_path)[f"base_model.model.{name[:-7]}.lora_{x}.weight"].double() for x in "AB")
    assert a.dtype == torch.float64
    exact = load_file(base / "model.safetensors")[name].double() + 2.0 * (b @ a)
    found = load_file(tmp_path / "full" / "model.safetensors")[name]
    assert found.dtype == getattr(torch, written)
    rounding, sums = torch.finfo(found.dtype).eps / 2, 4e-7  # sums are made in float32
    far = (found.double() - exact).abs() / exact.abs().clamp_min(1e-2)
    assert float(far.max()) <= rounding * 1.01 + sums


# ------------------------------------------------------------------------------------------------- refusals


def test_targets_that_are_no_linear_layers_are_refused_with_those_there_are(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    for wrong in ("q_porj", "embed_tokens", "input_layernorm"):
        with pytest.raises(ModelError, match=f"'{wrong}' is no linear layer of this llama model; .*q_proj, k_proj"):
            run(model_folder("llama"), tmp_path, hyper=settings(targets=["v_proj", wrong]))


def test_an_output_layer_that_shares_the_embeddings_is_refused(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="'lm_head' shares its weights with the input embeddings"):
        run(model_folder("llama-tied"), tmp_path, hyper=settings(targets=["lm_head"]))


def test_auto_takes_what_peft_names_and_says_where_it_names_none(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model_folder("llama"), tmp_path, hyper=settings(targets="auto"))
    found = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]
    assert sorted(found) == ["q_proj", "v_proj"]
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    model.config.model_type = "new"
    with pytest.raises(ModelError, match="auto has no layers for new models; its linear layers: q_proj"):
        lora.targets(model, "auto")


def test_a_quantised_base_is_neither_trained_nor_folded(
    trained: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((model_folder("llama") / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))
    save_file({"x": torch.zeros(1)}, base / "model.safetensors")
    with pytest.raises(ModelError, match="is quantised"):
        run(base, tmp_path)
    with pytest.raises(ModelError, match="is quantised"):
        lora.fold(base, trained[0] / "out", tmp_path / "full", "float32")


def test_an_adapter_of_another_model_is_refused(
    trained: tuple[Path, Any], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="the adapter does not fit the model"):
        lora.fold(model_folder("gpt2"), trained[0] / "out", tmp_path / "full", "float32")


def test_without_peft_the_extra_is_named(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[lora\]'"):
        run(model_folder("llama"), tmp_path)
