"""LoRA adapters: read from PEFT folders, put together in one of two ways, folded into full-precision weights or saved.

An adapter changes a weight W by s B A, with A (r, in), B (out, r), s = alpha / r (or alpha / sqrt(r) with rsLoRA).

mean of products    sum_j a_j s_j B_j A_j      what merging the full models does; rank up to the sum of the ranks
product of means    s (sum_j a_j B_j)(sum_j a_j A_j)      what averaging the adapter files does; of the adapters' rank

Source: Fu et al., Disperse-Then-Merge, arXiv 2405.13432: its text, read literally, and its released code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cuvee.errors import ModelError
from cuvee.merging import companions, matching, merge
from cuvee.merging.matching import Slot
from cuvee.merging.streaming import PIECE
from cuvee.merging.weights import Weights
from cuvee.merging.writing import Shards

CONFIG = "adapter_config.json"
FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"

_NOT_PLAIN = (
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "use_qalora",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
)
"""Settings of PEFT with which an adapter is something else than s B A added to weights of the base."""

_OTHER_BASE = re.compile(r"pissa.*|olora|loftq|corda")
"""Ways to begin a LoRA that change the base as well, so that B A does not belong to the base as it lies on disk."""


@dataclass(frozen=True)
class Factors:
    """What an adapter does to one weight, (out, r) times (r, in), the scale in `up`."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Adapter:
    """One adapter.

    Args:
        name: for messages.
        folder: where it lies.
        config: its adapter_config.json.
        tensors: its own tensors in float32, by name.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def modules(self) -> list[str]:
        """The layers it changes, as the base names them."""
        return [name[len(_PREFIX) : -len(_A)] for name in self.tensors if name.endswith(_A)]

    def down(self, module: str) -> Tensor:
        """Return A of a layer, (r, in)."""
        return self.tensors[f"{_PREFIX}{module}{_A}"]

    def up(self, module: str) -> Tensor:
        """Return B of a layer, (out, r)."""
        return self.tensors[f"{_PREFIX}{module}{_B}"]

    def scale(self, module: str) -> float:
        """Return s."""
        rank = self.down(module).shape[0]
        alpha = float(self.config["lora_alpha"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


Combine = Callable[[Sequence[Adapter], str, Sequence[float]], Factors]
"""From adapters, a layer and weights that add up to 1 to what is done to the layer."""


def read(folder: Path, name: str) -> Adapter:
    """Return an adapter.

    Raises:
        ModelError: it is no LoRA adapter with only plain A and B matrices.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{name}: {folder} has no {CONFIG}; give an adapter, what a LoRA training made") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: {folder / CONFIG} cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"{name}: {folder / CONFIG} holds no settings; copy the adapter again")
    odd = [key for key in _NOT_PLAIN if config.get(key)]
    if _OTHER_BASE.fullmatch(str(config.get("init_lora_weights")).lower()):
        odd.append(f"init_lora_weights {config['init_lora_weights']}, which changes the base; convert it to plain LoRA")
    if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
        what = odd or [f"peft_type {config.get('peft_type')}, bias {config.get('bias')}"]
        raise ModelError(f"{name}: only plain LoRA adapters can be merged, and this one has {', '.join(what)}")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelError(
            f"{name}: lora_alpha in {folder / CONFIG} is {alpha!r} and not a number; copy the adapter again"
        )
    weights = Weights(folder)
    tensors = {
        key: weights.read(key, 0, entry.size).view(entry.shape).float() for key, entry in weights.entries.items()
    }
    wrong = [key for key in tensors if not key.startswith(_PREFIX) or not key.endswith((_A, _B))]
    if wrong:
        raise ModelError(f"{name}: tensor {wrong[0]} is neither A nor B of a layer")
    broken = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ModelError(f"{name}: tensor {broken[0]} holds NaN or infinity; nothing is merged")
    _check_pairs(name, {key: tuple(value.shape) for key, value in tensors.items()})
    _check_ranks(name, config, tensors)
    return Adapter(name, folder, config, tensors)


def _check_pairs(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an A without its B, a B without its A, and a pair that cannot be multiplied."""
    for key, shape in shapes.items():
        module, mine, other = (key[: -len(_A)], "A", "B") if key.endswith(_A) else (key[: -len(_B)], "B", "A")
        partner = shapes.get(module + (_B if mine == "A" else _A))
        if partner is None:
            raise ModelError(
                f"{name}: layer {module[len(_PREFIX) :]} has {mine} and no {other}; copy the adapter again"
            )
        down, up = (shape, partner) if mine == "A" else (partner, shape)
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or not down[0]:
            layer = module[len(_PREFIX) :]
            raise ModelError(
                f"{name}: layer {layer} has A {list(down)} and B {list(up)}, which are no (r, in) and (out, r)"
            )


def _check_ranks(name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse matrices of another rank than the configuration's, by which PEFT takes the scale."""
    for key, value in tensors.items():
        if key.endswith(_A) and value.shape[0] != config.get("r"):
            raise ModelError(
                f"{name}: layer {key[len(_PREFIX) : -len(_A)]} has rank {value.shape[0]}, and {CONFIG} says r "
                f"{config.get('r')}; copy the adapter again"
            )


def check(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters that change different layers.

    Raises:
        ModelError: names the adapter and the layer.
    """
    first = adapters[0]
    for other in adapters[1:]:
        odd = sorted({*first.modules} ^ {*other.modules})
        if odd:
            raise ModelError(f"{other.name} and {first.name} change different layers, such as {odd[0]}")
        for module in first.modules:
            mine, theirs = ((one.up(module).shape[0], one.down(module).shape[1]) for one in (first, other))
            if mine != theirs:
                raise ModelError(f"layer {module} is {list(theirs)} in {other.name} and {list(mine)} in {first.name}")
        if bool(other.config.get("fan_in_fan_out")) != bool(first.config.get("fan_in_fan_out")):
            raise ModelError(f"{other.name} and {first.name} differ in fan_in_fan_out; they are of different bases")


def _combined(adapters: Sequence[Adapter], combine: Combine, weights: Sequence[float]) -> dict[str, Factors]:
    """Return what is done to each layer, so that adapters that do not fit are refused before anything is written."""
    check(adapters)
    return {module: combine(adapters, module, weights) for module in adapters[0].modules}


def mean_of_products(adapters: Sequence[Adapter], module: str, weights: Sequence[float]) -> Factors:
    """Return the weighted mean of s B A: the matrices side by side, the scales in B."""
    up = [one.up(module) * (weight * one.scale(module)) for one, weight in zip(adapters, weights, strict=True)]
    return Factors(torch.cat([one.down(module) for one in adapters]), torch.cat(up, dim=1))


def product_of_means(adapters: Sequence[Adapter], module: str, weights: Sequence[float]) -> Factors:
    """Return s times the product of the weighted means of B and of A.

    Raises:
        ModelError: ranks or scales differ, so that there is no mean to speak of.
    """
    first = adapters[0]
    for other in adapters[1:]:
        mine, theirs = ((one.down(module).shape[0], one.scale(module)) for one in (first, other))
        if mine != theirs:
            raise ModelError(
                f"{other.name} and {first.name} differ in rank or scale ({theirs} and {mine}) at {module}; their "
                "matrices have no mean; use lora_mean_of_products"
            )
    down = sum((one.down(module) * w for one, w in zip(adapters, weights, strict=True)), torch.tensor(0.0))
    up = sum((one.up(module) * w for one, w in zip(adapters, weights, strict=True)), torch.tensor(0.0))
    return Factors(down, up * first.scale(module))


def save(
    adapters: Sequence[Adapter], combine: Combine, weights: Sequence[float], out: Path, **how: Any
) -> dict[str, Any]:
    """Write the merged adapter as a standard PEFT folder in float32; alpha is its rank, so that it counts once.

    Args:
        adapters: those that are merged; the first gives the configuration.
        combine: `mean_of_products` or `product_of_means`.
        weights: that add up to 1.
        out: the folder to make.
        how: finish and progress, as in `merge.write`; dry: check, and write nothing.

    Returns:
        models, layers, rank.
    """
    first = adapters[0]
    found = _combined(adapters, combine, weights)
    rank = max(factors.down.shape[0] for factors in found.values())
    _say(adapters, found, 0, how)
    named = {f"{_PREFIX}{module}{_A}": factors.down for module, factors in found.items()}
    named |= {f"{_PREFIX}{module}{_B}": factors.up for module, factors in found.items()}
    summary = {"models": len(adapters), "layers": len(found), "rank": rank, "notes": []}

    def fill(part: Path) -> None:
        slots = [Slot(name, tuple(value.shape), "F32", ()) for name, value in sorted(named.items())]
        shards = Shards(part, slots, 1 << 62, FILE)
        for slot in slots:
            shards.put(slot, 0, named[slot.name].flatten())
        shards.close()
        companions.copy(first.folder, part)
        config = {**first.config, "r": rank, "lora_alpha": rank, "use_rslora": False}
        how.get("finish", lambda folder, summary: None)(part, summary)
        (part / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")

    _place(out, sum(value.nbytes for value in named.values()), fill, how)
    return summary


def _place(out: Path, wanted: int, fill: Callable[[Path], None], how: Mapping[str, Any]) -> None:
    if how.get("dry"):
        merge.check_disk(out, wanted)
    else:
        merge.place(out, wanted, fill)


def fold(
    base: Path,
    name: str,
    adapters: Sequence[Adapter],
    combine: Combine,
    weights: Sequence[float],
    out: Path,
    **how: Any,
) -> dict[str, Any]:
    """Add the merged adapter to a full-precision base: sums in float32, rounded once to the base's dtype or `how`'s.

    Args:
        base: the model the adapters were trained on.
        name: its name, for messages.
        adapters, combine, weights, out, how: as in `save`, and dtype and shard_bytes; tokenizer and templates are the
            first adapter's where it has any, else the base's, as what only the base has.

    Raises:
        ModelError: the base is quantised, damaged, or lacks a layer that the adapters change.
    """
    inner = {f"{module}.weight": factors for module, factors in _combined(adapters, combine, weights).items()}
    model = matching.open_model(base, name)
    matched = matching.match([model], dtype=how.get("dtype"))
    turned = bool(adapters[0].config.get("fan_in_fan_out"))
    slots = {slot.name: slot for slot in matched.slots}
    entries = model.weights.entries
    for weight, factors in inner.items():
        if weight in entries and model.is_vocabulary(entries[weight]) and model.tied:
            raise ModelError(
                f"{name}: the adapters change {weight}, whose model ties head and input embedding, so that a fold "
                "would change both; save the merged adapter without --base"
            )
        up, down = factors.up.shape[0], factors.down.shape[1]
        shape = (down, up) if turned else (up, down)
        if weight not in slots or slots[weight].copied or slots[weight].shape != shape:
            there = list(slots[weight].shape) if weight in slots else "absent"
            raise ModelError(f"{name}: weight {weight} is {there}; the adapters change one of {list(shape)}")
    summary: dict[str, Any] = {
        "models": len(adapters),
        "layers": len(inner),
        "dtype": matched.config.get("dtype"),
        "notes": [],
    }

    _say(adapters, inner, 3 * 8 * PIECE * 4, how)

    def fill(part: Path) -> None:
        _fold_tensors(Shards(part, matched.slots, how.get("shard_bytes") or merge.SHARD), matched.slots, inner, turned)
        companions.copy(adapters[0].folder, part)
        if any(path.name.startswith("tokenizer") for path in part.iterdir()):
            companions.copy_settings(base, part)
        else:
            companions.copy(base, part)
        how.get("finish", lambda folder, summary: None)(part, summary)
        (part / "config.json").write_text(json.dumps(matched.config, indent=2, sort_keys=True), encoding="utf-8")

    _place(out, sum(slot.bytes for slot in matched.slots), fill, how)
    return summary


def _say(adapters: Sequence[Adapter], found: Mapping[str, Factors], pieces: int, how: Mapping[str, Any]) -> None:
    """Tell how much memory will be taken: all matrices are held, the base is not."""
    held = sum(tensor.nbytes for one in adapters for tensor in one.tensors.values())
    held += sum(factors.down.nbytes + factors.up.nbytes for factors in found.values())
    line = (
        f"memory: at most {(held + pieces + merge.FIXED) / 2**20:,.0f} MiB besides mapped files, of which "
        f"{held / 2**20:,.0f} MiB for the matrices of {len(adapters)} adapter(s) and of their merge"
    )
    how.get("progress", lambda facts: None)({"note": line})


def _fold_tensors(shards: Shards, slots: Sequence[Slot], inner: Mapping[str, Factors], turned: bool) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a product divided among other numbers of threads may round otherwise
    try:
        for slot in slots:
            for start, values in _rows(slot, inner.get(slot.name), turned):
                if slot.name in inner and not math.isfinite(float(values.sum())) and not values.isfinite().all():
                    raise ModelError(f"tensor {slot.name}: the fold is no finite number there; look at the base")
                shards.put(slot, start, values)
        shards.close()
    finally:
        shards.abandon()
        torch.set_num_threads(threads)


def _rows(slot: Slot, factors: Factors | None, turned: bool) -> Iterator[tuple[int, Tensor]]:
    """Yield (first element, values) of a tensor, some rows at a time, with the adapter added."""
    if factors is None:
        for start in range(0, slot.size, 8 * PIECE):
            yield start, slot.models[0].read(start, min(start + 8 * PIECE, slot.size))
        return
    left, right = (factors.down.T, factors.up.T) if turned else (factors.up, factors.down)
    width = slot.shape[1]
    step = max(1, 8 * PIECE // width)
    for row in range(0, slot.shape[0], step):
        last = min(row + step, slot.shape[0])
        old = slot.models[0].read(row * width, last * width).float().view(last - row, width)
        yield row * width, (old + left[row:last] @ right).flatten()
