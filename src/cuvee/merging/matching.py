"""Which tensors of several models belong together, checked by name, shape and dtype before anything is written.

No architecture is known here: the models' own files say what there is. The first model is the reference: the result has
its configuration, its tokenizer and its order of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuvee.errors import ModelError
from cuvee.merging import companions, vocabulary, weights
from cuvee.merging.weights import Entry, Weights

OUT_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""What a merged model can be written in, as safetensors calls it."""


@dataclass(frozen=True)
class Model:
    """One model that takes part.

    Args:
        name: for messages.
        weights: its tensors.
        config: its config.json.
        rows: which of its vocabulary rows stands for each of the reference's; None when they are the same.
    """

    name: str
    weights: Weights
    config: Mapping[str, Any]
    rows: Tensor | None = None

    @property
    def tied(self) -> bool:
        """Whether the output head is the input embedding."""
        return bool(_deep(self.config, "tie_word_embeddings", True))

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embeddings, as config.json says; 0 when it does not."""
        size = _deep(self.config, "vocab_size", 0) or 0
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ModelError(f"{self.name}: vocab_size in config.json is {size!r} and no number of tokens")
        return size

    def is_vocabulary(self, entry: Entry) -> bool:
        """Whether a tensor has one row for each token: no tensor of a numbered layer has."""
        numbered = re.search(r"(^|\.)\d+\.", entry.name)
        return bool(entry.shape) and not numbered and entry.shape[0] == self.vocabulary_size


def _deep(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return a setting of a configuration or of its text model's."""
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping) and key in part:
            return part[key]
    return default


@dataclass(frozen=True)
class View:
    """A tensor of one model as the merge sees it: by the reference's name and rows.

    Args:
        weights, name: where it is stored.
        rows: stored row for each row of the reference's vocabulary, (rows,), -1 where there is none; None for as is.
        width: elements of a row.
        instead: where rows that are missing come from; they are 0 where it is None.
    """

    weights: Weights
    name: str
    rows: Tensor | None = None
    width: int = 1
    instead: View | None = None

    def read(self, start: int, stop: int) -> Tensor:
        """Return the elements [start, stop), flat, in the stored dtype or a wider one that rows from elsewhere need."""
        if self.rows is None:
            return self.weights.read(self.name, start, stop)
        first, last = start // self.width, -(-stop // self.width)
        asked = self.rows[first:last]
        entry = self.weights.entries[self.name]
        table = self.weights.read(self.name, 0, entry.size).view(entry.shape[0], self.width)
        found, missing = table[asked.clamp(min=0)], asked < 0
        if self.instead is None:
            found[missing] = 0
        elif bool(missing.any()):
            theirs = self.instead.read(first * self.width, last * self.width).view(-1, self.width)
            # Rounded to another dtype they would differ from the reference's, and a task vector would not be 0.
            found = found.to(torch.promote_types(found.dtype, theirs.dtype))
            found[missing] = theirs[missing].to(found.dtype)
        return found.view(-1)[start - first * self.width : stop - first * self.width]

    def ahead(self, start: int, stop: int) -> None:
        """Ask the system to fetch elements from the disk."""
        if self.rows is None:
            self.weights.ahead(self.name, start, stop)


@dataclass(frozen=True)
class Slot:
    """One tensor of the result and where it comes from.

    Args:
        name, shape: of the tensor.
        dtype: it is written in.
        models, base, extras: the tensor in each of them.
        copied: it holds no floating-point numbers and is the same in all models.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    models: tuple[View, ...]
    base: View | None = None
    extras: tuple[View, ...] = ()
    copied: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def bytes(self) -> int:
        """Bytes it will have."""
        return self.size * weights.DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Matched:
    """What is merged with what.

    Args:
        slots: the result's tensors in order.
        config: the result's config.json.
        notes: sentences for people: rules that were applied.
    """

    slots: tuple[Slot, ...]
    config: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def open_model(folder: Path, name: str) -> Model:
    """Return a model of a folder.

    Raises:
        ModelError: it is absent, damaged, quantised or pickled.
    """
    config = weights.config(folder)
    return Model(name, Weights(folder), config)


def match(
    models: Sequence[Model],
    base: Model | None = None,
    extras: Sequence[Model] = (),
    dtype: str | None = None,
) -> Matched:
    """Return which tensors belong together.

    Args:
        models: those that are merged; the first is the reference.
        base: what they were trained from, if the method needs it.
        extras: further tensors of the same names, one folder for each model, such as Fisher information.
        dtype: what to write in; the models' own when None.

    Raises:
        ModelError: they do not fit; names the tensor and the model.
    """
    reference = models[0]
    others = [*models[1:], *([base] if base else [])]
    for other in others:
        _same_architecture(reference, other)
    aligned, notes = _align([reference, *others])
    notes += filter(None, (_left_out(reference, model) for model in models[1:]))
    models, base = aligned[: len(models)], aligned[-1] if base else None
    extras = [_with_rows(extra, model) for extra, model in zip(extras, models, strict=False)]
    names, said, untied = _names(models)
    slots = tuple(_slot(name, models, base, extras, dtype) for name in names)
    if not any(not slot.copied for slot in slots):
        raise ModelError(f"{reference.name}: holds no floating-point tensor, so there is nothing to merge")
    kinds = sorted({model.config.get("model_type") for model in [*models, *([base] if base else [])]}, key=str)
    assert len(kinds) == 1
    return Matched(slots, _config(reference, slots, untied), (*notes, *said))


def _left_out(reference: Model, model: Model) -> str:
    """Return what to say of settings that are not the reference's; empty where they are."""
    found = companions.differences(reference.weights.folder, model.weights.folder)
    return f"{model.name}: left out: its {', '.join(found)}; the result has {reference.name}'s" if found else ""


def _with_rows(extra: Model, model: Model) -> Model:
    return Model(extra.name, extra.weights, model.config, model.rows)


MEANINGS = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "partial_rotary_factor",
    "sliding_window",
    "layer_types",
    "num_experts_per_tok",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
)
"""Settings that change what weights of one shape mean."""


def _same_architecture(first: Model, other: Model) -> None:
    for key in ("model_type", "architectures"):
        mine, theirs = first.config.get(key), other.config.get(key)
        if mine != theirs:
            raise ModelError(
                f"{other.name} and {first.name} are of different architectures ({key} {theirs} and {mine}); "
                "only models of one architecture can be merged"
            )
    # Versions of transformers write other keys for the same, so only what both have tells.
    for key in (key for key in MEANINGS if key in first.config and key in other.config):
        mine, theirs = first.config[key], other.config[key]
        if mine != theirs:
            raise ModelError(
                f"{other.name} and {first.name} use equal weights differently ({key} {theirs} and {mine} in their "
                "config.json), so their mean would mean nothing; merge models that were trained from one base"
            )


def _align(models: Sequence[Model]) -> tuple[list[Model], list[str]]:
    """Give every model the rows of its vocabulary that stand for the reference's tokens."""
    reference, notes, found = models[0], [], [models[0]]
    tokens = vocabulary.tokens(reference.weights.folder)
    for model in models[1:]:
        rows, note = vocabulary.align(
            tokens,
            reference.vocabulary_size,
            vocabulary.tokens(model.weights.folder),
            model.vocabulary_size,
            reference.name,
            model.name,
        )
        notes += [note] if note else []
        found.append(Model(model.name, model.weights, model.config, rows))
    return found, notes


def _names(models: Sequence[Model]) -> tuple[list[str], list[str], bool]:
    """Return the result's tensors, what is said of tied heads, and whether the head was untied."""
    every: dict[str, None] = {}
    for model in models:
        every |= dict.fromkeys(model.weights.entries)
    names, notes, untied = [], [], False
    for name in every:
        lacking = [model for model in models if name not in model.weights.entries]
        if not lacking:
            names.append(name)
            continue
        having = next(model for model in models if name in model.weights.entries)
        head = having.is_vocabulary(having.weights.entries[name])
        if head and all(model.tied for model in models):
            notes.append(f"{name}: tied to the input embedding in every model; the copy in {having.name} is left out")
        elif head and all(model.tied and _embedding(model) for model in lacking):
            untied = True
            names.append(name)
            tied = ", ".join(model.name for model in lacking)
            notes.append(f"{name}: tied to the input embedding in {tied}, whose embedding takes its place; untied now")
        else:
            raise ModelError(
                f"{lacking[0].name}: lacks tensor {name}, which {having.name} has; only models of one architecture can "
                "be merged"
            )
    return names, notes, untied


def _embedding(model: Model) -> str | None:
    """Return the name of the only tensor that can be the input embedding."""
    found = [e.name for e in model.weights.entries.values() if len(e.shape) == 2 and model.is_vocabulary(e)]
    return found[0] if len(found) == 1 else None


def _view(name: str, model: Model, instead: View | None) -> View:
    entries = model.weights.entries
    stored: str | None = name
    if name not in entries:
        stored = _embedding(model) if model.tied else None
    if stored is None:
        raise ModelError(f"{model.name}: lacks tensor {name}")
    entry = entries[stored]
    if model.rows is None or not model.is_vocabulary(entry):
        return View(model.weights, stored)
    width = entry.size // max(1, entry.shape[0])
    return View(model.weights, stored, model.rows, width, instead)


def _slot(name: str, models: Sequence[Model], base: Model | None, extras: Sequence[Model], dtype: str | None) -> Slot:
    own = _view(name, models[0], None)
    views = [own, *(_view(name, model, own) for model in models[1:])]
    below = _view(name, base, own) if base else None
    entry = models[0].weights.entries[own.name]
    for model, view in [*zip(models, views, strict=True), *([(base, below)] if base and below else [])]:
        _same_shape(name, entry, models[0], model, view)
    stored = [view.weights.entries[view.name].dtype for view in views]
    if not entry.is_float:
        _same_content(name, entry, models, views)
        return Slot(name, entry.shape, entry.dtype, (own,), copied=True)
    if dtype is None and len(set(stored)) > 1:
        other = next(i for i, kind in enumerate(stored) if kind != stored[0])
        raise ModelError(
            f"tensor {name} is {stored[other]} in {models[other].name} and {stored[0]} in {models[0].name}; "
            "say what the result shall be: dtype float32, bfloat16 or float16"
        )
    more = tuple(_view(name, extra, None) for extra in extras)
    for extra, view in zip(extras, more, strict=True):
        _same_shape(name, entry, models[0], extra, view)
    return Slot(name, entry.shape, OUT_DTYPES[dtype] if dtype else stored[0], tuple(views), below, more)


def _same_shape(name: str, entry: Entry, first: Model, model: Model, view: View) -> None:
    theirs = view.weights.entries[view.name]
    shape = theirs.shape if view.rows is None else (len(view.rows), *theirs.shape[1:])
    if shape != entry.shape:
        raise ModelError(
            f"tensor {name} is {list(theirs.shape)} in {model.name} and {list(entry.shape)} in {first.name}; "
            "only models of one architecture and size can be merged"
        )
    if theirs.is_float != entry.is_float:
        raise ModelError(f"tensor {name} is {theirs.dtype} in {model.name} and {entry.dtype} in {first.name}")


def _same_content(name: str, entry: Entry, models: Sequence[Model], views: Sequence[View]) -> None:
    first = views[0].read(0, entry.size)
    for model, view in zip(models[1:], views[1:], strict=True):
        theirs = view.read(0, entry.size)
        if theirs.dtype != first.dtype or not torch.equal(theirs, first):
            raise ModelError(
                f"tensor {name} holds whole numbers that differ between {models[0].name} and {model.name}; "
                "they cannot be averaged"
            )


def _config(reference: Model, slots: Sequence[Slot], untied: bool) -> dict[str, Any]:
    kinds = {slot.dtype for slot in slots if not slot.copied}
    config = {key: value for key, value in reference.config.items() if key != "_name_or_path"}  # of another machine
    names = {"F64": "float64", **{short: name for name, short in OUT_DTYPES.items()}}
    if len(kinds) == 1:
        config.pop("torch_dtype", None)
        config["dtype"] = names[kinds.pop()]
    if untied:
        config["tie_word_embeddings"] = False
    return config
