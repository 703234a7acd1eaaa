"""Models in and out: ordinary Hugging Face folders, safetensors only, no network, no foreign code.

loaded = load(Path("models/llama"), "float32", torch.device("cpu"))
save(loaded.model, Path("models/llama"), Path("out/model"))
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as hf_logging

from cuvee.engine import allocation, attention
from cuvee.engine.disk import sync_tree
from cuvee.errors import ModelError, did_you_mean
from cuvee.protocols import Progress, TokenRow
from cuvee.runtime import Runtime, cores

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Relative difference allowed between the first batch's flat and one-by-one loss."""

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "generation_config.json",
)
"""What a trained model takes over byte for byte: tokenizer, chat template, generation settings."""


@dataclass
class Loaded:
    """A model ready to be fed.

    Args:
        model: on its device, in its precision, in evaluation mode.
        stock: name of the attention that transformers chose.
        obstacle: why it cannot take flat rows; empty when it can.
        agreed: tokens of the longest row whose loss was the same in a flat row and by itself.
    """

    model: Any
    stock: str
    obstacle: str
    agreed: int = 0

    @property
    def layout(self) -> str:
        """``flat`` or ``single``."""
        return "single" if self.obstacle else "flat"

    def use(self, layout: str) -> None:
        """Put the model on the attention of a layout; ``single`` is the stock one."""
        self.model.set_attn_implementation(self.stock if layout == "single" else attention.NAME)


def device_of(runtime: Runtime, progress: Progress | None = None) -> torch.device:
    """Return the device the runtime asks for; ``auto`` takes a GPU when torch can use one.

    Args:
        runtime: has the device.
        progress: told {"note"} when the machine seems to have a GPU that ``auto`` cannot take.

    Raises:
        ModelError: when a GPU is asked for by name and torch can use none.
    """
    if runtime.device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if progress is not None and _has_gpu():
            progress({"note": f"on the CPU: there is a GPU, and torch {torch.__version__} cannot use it"})
        return torch.device("cpu")
    if runtime.device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for and this machine has no usable GPU; use device=cpu or auto")
    return torch.device(runtime.device)


def _has_gpu() -> bool:
    """Say whether this process is given a GPU, whatever torch makes of it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return visible.strip() not in ("", "-1")
    return shutil.which("nvidia-smi") is not None


def set_threads(runtime: Runtime) -> int:
    """Set torch's CPU threads as the runtime says; 0 divides the cores evenly among its workers."""
    workers = runtime.workers or min(cores(), 4)
    threads = runtime.threads or max(1, cores() // workers)
    torch.set_num_threads(threads)
    return threads


def load(folder: Path, precision: str, device: torch.device) -> Loaded:
    """Load a causal language model from a local folder.

    Args:
        folder: a Hugging Face folder with config.json and safetensors.
        precision: ``float32`` or ``bfloat16``; weights are converted to it.
        device: where to put it.

    Raises:
        ModelError: the folder is missing, damaged, quantised, holds only pickled weights, or needs its own code.
    """
    allocation.keep_freed()
    model = load_stock(folder, dtype_of(precision))
    with _quiet():
        # Mapped weights lie at whatever offset the file has; own memory is aligned, and so are a resumed run's.
        for parameter in model.parameters():
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        model.to(device)
    return ready(model)


def dtype_of(precision: str) -> torch.dtype:
    """Return torch's name of a precision.

    Raises:
        ModelError: there is none of this name.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"precision '{precision}' is not possible.{did_you_mean(precision, PRECISIONS)}")
    return PRECISIONS[precision]


def ready(model: Any) -> Loaded:
    """Return a model that lies where it is used as one that is ready to be fed."""
    with _quiet():
        model.eval()
        stock = model.config._attn_implementation
        obstacle = attention.supports(model)
    return Loaded(model, stock, obstacle)


def load_stock(folder: Path, dtype: torch.dtype) -> Any:
    """Return the model of a folder as transformers makes it, in host memory; errors as in `load`."""
    _check_config(_config(folder), folder)
    _check_weights(folder)
    with _quiet():
        return _from_folder(folder, dtype)


def distance(flat: float, single: float) -> float:
    """Return the relative difference between the losses that two layouts give for equal rows."""
    if not math.isfinite(single):
        return 0.0  # not the layout's fault; whoever uses the loss will say what is
    return abs(flat - single) / max(abs(single), 1e-12)


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give a local Hugging Face folder with config.json and safetensors")
    try:
        data: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return data
    except FileNotFoundError:
        raise ModelError(f"{folder}: has no config.json, so it is not a Hugging Face model folder") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{folder}/config.json: cannot be read ({error}); copy the model again") from None


def _check_config(config: dict[str, Any], folder: Path) -> None:
    if config.get("quantization_config"):
        raise ModelError(
            f"{folder}: is quantised; training and merging need full-precision weights: "
            "take the unquantised model, or dequantise it once and save it"
        )


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise ModelError(
            f"{folder}: holds pickled weights only, which cuvee never opens; convert them to safetensors "
            "(most hubs offer the same model in safetensors)"
        )
    raise ModelError(f"{folder}: holds no *.safetensors")


def _from_folder(folder: Path, dtype: torch.dtype) -> Any:
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder}: cannot be loaded: {first}") from error
    model, report = found
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        # transformers would fill them with random numbers and go on.
        raise ModelError(f"{folder}: lacks {len(missing)} tensors, first {missing[0]}; copy the model again")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars and notes while loading; what matters is raised."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()  # type: ignore[no-untyped-call,unused-ignore]
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]


_CACHE: dict[tuple[Any, ...], Loaded] = {}


def cached(folder: Path, precision: str, device: torch.device) -> Loaded:
    """Return the model of the last call again when it asks for the same files; one model is kept at most."""
    stamps = tuple(sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.glob("*") if p.is_file()))
    key = (str(folder.resolve()), stamps, precision, str(device))
    if key not in _CACHE:
        forget()
        _CACHE[key] = load(folder, precision, device)
    return _CACHE[key]


def forget() -> None:
    """Drop the cached model, so that its memory is free for a training."""
    _CACHE.clear()
    allocation.give_back()


def check_fit(model: Any, rows: Iterable[TokenRow]) -> None:
    """Refuse token ids that the model's vocabulary lacks, and rows longer than its position table.

    Rotary models take rows beyond their configured length; a table of learned positions cannot.

    Raises:
        ModelError: says which, and the remedy.
    """
    for row in rows:
        if len(row.ids):
            check_extent(model, len(row.ids), int(np.max(row.ids)), int(np.min(row.ids)))


def check_extent(model: Any, longest: int, largest: int, smallest: int = 0) -> None:
    """As `check_fit`, for the tokens of the longest row, the largest token id and the smallest.

    Raises:
        ModelError: says which, and the remedy.
    """
    vocabulary, limit = model.get_input_embeddings().num_embeddings, position_limit(model)
    if longest > limit:
        raise ModelError(f"a row has {longest} tokens, the model has positions for {limit}; set max_length: {limit}")
    if not 0 <= smallest <= max(largest, 0) < vocabulary:
        raise ModelError(
            f"a row holds token {largest}, the model's vocabulary ends at {vocabulary - 1}; "
            "use the tokenizer that belongs to the model, or save the model once with embeddings for all its tokens"
        )


def trained_positions(model: Any) -> int:
    """Return how many positions the configuration says the model was trained for; a very large number if none."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 60)


def context_of(folder: Path) -> int:
    """Return how many positions a folder's configuration says the model was trained for, without loading the model.

    Raises:
        ModelError: the configuration cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: the configuration cannot be read: {str(error).strip().splitlines()[0]}") from error
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 60)


def position_limit(model: Any) -> int:
    """Return how many positions a model with a learned table has; a very large number for the others."""
    config = model.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if limit and not rotary else 1 << 60


def save(model: Any, source: Path, out: Path) -> None:
    """Write an ordinary Hugging Face folder, complete or absent, flushed to disk.

    Args:
        model: the model; its weights are saved in the dtype they have.
        source: folder the tokenizer, chat template and generation settings are copied from, byte for byte.
        out: the folder to make; one left half-written under this name is replaced.
    """

    def fill(folder: Path) -> None:
        # transformers refuses to write some generation settings that are in the wild; the source's own are copied.
        settings = model.generation_config
        model.generation_config = GenerationConfig.from_model_config(model.config)
        try:
            with _quiet():
                model.save_pretrained(folder)
        finally:
            model.generation_config = settings

    place(out, source, fill)


def place(out: Path, source: Path, fill: Callable[[Path], None]) -> None:
    """Make a model's folder, complete or absent, flushed to disk.

    Args:
        out: the folder; one left half-written under this name is replaced.
        source: folder of the tokenizer, chat template and generation settings.
        fill: writes all else.
    """
    part = out.with_name(out.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    fill(part)
    _copy_companions(source, part)
    config = next(part.glob("*config.json"))
    for path in part.glob("*.safetensors"):
        shutil.copymode(config, path)  # safetensors makes its files readable for the owner alone
    sync_tree(part)
    if out.exists():
        shutil.rmtree(out)
    os.replace(part, out)
    sync_tree(out.parent, files=False)


def _copy_companions(source: Path, target: Path) -> None:
    names = [*_COPIED, *(path.name for path in source.glob("*.tiktoken"))]
    for name in names:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / name, dirs_exist_ok=True)
        elif path.exists():
            (target / name).write_bytes(path.read_bytes())
