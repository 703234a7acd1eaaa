"""LoRA through `peft`: an adapter on the stock model, in the standard PEFT folder, and its fold into full weights.

    W x  becomes  W x + s * B (A x)       A (rank, in), B (out, rank); s = alpha / rank, or alpha / sqrt(rank)
    folded       W' = W + s * B A

PEFT changes the model's linear layers in place, so attention, loss and layout see the stock model as before.

Source: Hu et al., LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cuvee import seeds
from cuvee.engine import loading
from cuvee.errors import ModelError, UsageError

ADAPTER = "default"
"""PEFT's name for the only adapter."""


def attach(model: Any, settings: Mapping[str, Any], seed: int, adapter: Path | None) -> Any:
    """Freeze a model and give it an adapter, in float32 whatever the model's precision.

    Args:
        model: the stock model; its linear layers are changed in place.
        settings: rank, alpha, dropout, targets, rslora.
        seed: of the new adapter's A; B is 0, so that nothing changes at first.
        adapter: folder of an adapter to go on with in place of a new one.

    Returns:
        PEFT's wrapper, which saves the adapter.

    Raises:
        UsageError: peft is not installed.
        ModelError: a target is no linear layer of the model, or the adapter is of other targets.
    """
    peft = _peft()
    if adapter:
        return _with_adapter(model, adapter, trainable=True)
    torch.manual_seed(seeds.stream(seed, "lora"))
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=targets(model, settings["targets"]),
        use_rslora=settings["rslora"],
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in linear_layers(model).values()),
    )
    with _quiet():
        return peft.get_peft_model(model, config)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the old names that peft still asks transformers for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _peft() -> Any:
    """Import peft when it is needed: it is an extra, and slow to import."""
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise UsageError(
            f"method: lora needs the package peft, which cannot be imported ({error}); pip install 'cuvee[lora]'"
        ) from None


def freeze_with(model: Any, adapter: Path) -> None:
    """Give a model an adapter that nothing trains; its linear layers are changed in place."""
    _with_adapter(model, adapter, trainable=False)


def factors(wrapped: Any) -> list[tuple[Tensor, Tensor, float]]:
    """Return A (rank, in), B (out, rank) and the scale of each layer that has an adapter."""
    layers = [layer for layer in wrapped.modules() if isinstance(layer, _peft().tuners.lora.LoraLayer)]
    return [
        (layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, float(layer.scaling[ADAPTER])) for layer in layers
    ]


def _with_adapter(model: Any, folder: Path, *, trainable: bool) -> Any:
    peft = _peft()
    try:
        with _quiet():
            found = peft.PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{folder}: the adapter does not fit the model: {first}") from error
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    expected = set(peft.get_peft_model_state_dict(found))
    if stored != expected:
        odd = min(stored ^ expected)
        raise ModelError(f"{folder}: the adapter does not fit the model, such as {odd}; it belongs to another base")
    return found


# --------------------------------------------------------------------------------------------------- targets


def targets(model: Any, asked: str | list[str]) -> list[str] | str:
    """Return the names of the layers that get an adapter, as PEFT takes them.

    Args:
        model: the stock model.
        asked: ``auto``, ``all-linear``, or names (whole paths or their ends).

    Raises:
        ModelError: a name is no linear layer; says which linear layers there are.
    """
    layers = linear_layers(model)
    if asked == "all-linear":
        return "all-linear"
    kind = model.config.model_type
    names = _usual(kind) if asked == "auto" else list(asked)
    if not names:
        raise ModelError(f"lora.targets: auto has no layers for {kind} models; {_possible(layers)}")
    for name in names:
        found = [layer for path, layer in layers.items() if _named(path, name)]
        if not found:
            raise ModelError(f"lora.targets: '{name}' is no linear layer of this {kind} model; {_possible(layers)}")
        if any(layer.weight is model.get_input_embeddings().weight for layer in found):
            raise ModelError(
                f"lora.targets: '{name}' shares its weights with the input embeddings, so its adapter could not be "
                f"folded; leave it out. {_possible(layers)}"
            )
    return sorted(names)


def _usual(kind: str) -> list[str]:
    """Return the layers that PEFT names for an architecture."""
    known = importlib.import_module("peft.utils.constants").TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    return list(known.get(kind, ()))


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """Return a model's linear layers by path."""
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}


def _named(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _possible(layers: Mapping[str, nn.Module]) -> str:
    names = dict.fromkeys(path.rpartition(".")[2] for path in layers)
    return f"its linear layers: {', '.join(names)}; or say all-linear"


# ------------------------------------------------------------------------------------------------ in and out


def save(wrapped: Any, source: Path, out: Path) -> None:
    """Write a standard PEFT folder with the base's tokenizer files, complete or absent, flushed to disk.

    Args:
        wrapped: what `attach` returned.
        source: the base; `adapter_config.json` names it.
        out: the folder to make.
    """

    def fill(folder: Path) -> None:
        # Whether embeddings were resized is asked of the hub otherwise; they never are.
        wrapped.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        path = folder / "adapter_config.json"
        config = {**json.loads(path.read_text(encoding="utf-8")), "base_model_name_or_path": str(source)}
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")

    loading.place(out, source, fill)


def fold(base: Path, adapter: Path, out: Path, precision: str) -> dict[str, Any]:
    """Add an adapter to the weights it was trained on and save the model as an ordinary Hugging Face folder.

    Sums are made in float32 on the CPU and rounded once. The model is written in the base's precision or the
    training's, whichever holds more.

    Args:
        base: the full-precision model.
        adapter: a PEFT folder; tokenizer and templates are taken from it.
        out: the folder to make.
        precision: of the training.

    Returns:
        layers (how many were changed), dtype, largest_change (of a weight).

    Raises:
        UsageError: peft is not installed.
        ModelError: the base is missing, damaged or quantised, or the adapter does not fit it.
    """
    peft = _peft()
    dtype = torch.promote_types(_stored_dtype(base), loading.PRECISIONS[precision])
    model = loading.load_stock(base, dtype)
    wrapped = _with_adapter(model, adapter, trainable=False)
    largest, changed = 0.0, 0
    with torch.no_grad():
        for layer in wrapped.modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer):
                largest = max(largest, _add(layer.get_base_layer().weight, layer.get_delta_weight(ADAPTER)))
                changed += 1
    loading.save(wrapped.unload(), adapter, out)
    return {"layers": changed, "dtype": str(dtype).removeprefix("torch."), "largest_change": largest}


def _add(weight: Tensor, delta: Tensor) -> float:
    """Add in float32, round once to the weight's dtype; return the largest change."""
    weight.copy_(weight.to(torch.promote_types(weight.dtype, torch.float32)) + delta.float())
    return float(delta.abs().max())


def _stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype that holds every floating tensor of a folder's weights."""
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found: torch.dtype | None = None
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                dtype = kinds.get(file.get_slice(name).get_dtype())
                if dtype is not None:
                    found = dtype if found is None else torch.promote_types(found, dtype)
    return found or torch.float32
