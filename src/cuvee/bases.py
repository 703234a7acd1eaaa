"""A base model's name to a pinned stage: folder, hub id, built-in or fake.

builtin:tiny                  ships with the package
builtin:smollm2               made once by `make smollm2`
./my-model                    an ordinary Hugging Face folder
org/name@revision             a hub model, pinned to a revision in recipe.lock
train-3f9a1c20                a model that the store holds, pinned by its content (train, fold, merge or mark)
fake:demo                     the fake engine: whole graphs in seconds, numbers that mean nothing
{endpoint: {url:, model:}}    an OpenAI-compatible server, which can be judged and not trained
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cuvee.engine.endpoint import Endpoint
from cuvee.errors import ModelError, UsageError, did_you_mean
from cuvee.pins import Pins
from cuvee.recipe import BaseModelRef, validate
from cuvee.stage import Base, base
from cuvee.store import Store

ENDPOINT = "endpoint"
"""Component of a base that lies behind a server."""

MODEL = "model"
"""Folder of a model inside its stage: an ordinary Hugging Face folder."""

_FILES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|chat_template\.(jinja|json)|merges\.txt|.*\.safetensors(\.index\.json)?"
)
"""Files of a model folder that can change a result; a README cannot."""

_TOKENIZER_FILES = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|chat_template\.(jinja|json)|merges\.txt"
)
"""The files of a model folder that decide token ids."""

_STORED = re.compile(r"(train|fold|merge|mark)-[0-9a-f]+")

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


SHIPPED = Path(__file__).parent / "builtin"
"""Folder of the models that ship with the package."""

FAKE_TOKENIZER = SHIPPED / "tiny"
"""The fake engine has no tokenizer of its own and borrows this one."""


def home() -> Path:
    """Return the folder of models that were fetched once: $CUVEE_HOME or ~/.cache/cuvee."""
    return Path(os.environ.get("CUVEE_HOME") or Path.home() / ".cache" / "cuvee")


def builtin_folder(name: str) -> Path:
    """Return the folder of ``builtin:<name>``.

    Raises:
        ModelError: unknown, or not fetched yet, with the remedy.
    """
    known = {p.name: p for p in sorted(SHIPPED.iterdir()) if (p / "config.json").is_file()}
    known["smollm2"] = home() / "smollm2-135m-instruct"
    if name not in known:
        raise ModelError(f"there is no built-in model '{name}'.{did_you_mean(name, known)}")
    if not (known[name] / "config.json").is_file():
        raise ModelError(
            f"builtin:{name} is not on this machine ({known[name]} is missing); "
            "`make smollm2` fetches and converts it once"
        )
    return known[name]


def resolve(ref: BaseModelRef, folder: Path, pins: Pins) -> Base:
    """Return the pinned base stage of a recipe's base.

    Args:
        ref: as written in the recipe.
        folder: relative paths are meant from here.
        pins: remembered file hashes and hub revisions.

    Raises:
        ModelError: it cannot be found; says what was looked for and the remedy.
    """
    if ref.endpoint is not None:
        return _from_endpoint(ref)
    kind, _, name = ref.path.partition(":")
    if kind == "fake" and name:
        return base("fake", 1, {"name": name}, label=ref.path, locate={})
    if kind == "builtin" and name:
        return _from_folder(builtin_folder(name), ref.path, pins)
    if _STORED.fullmatch(ref.path):
        return _from_folder(stored_folder(ref.path, Store(pins.store)), ref.path, pins)
    local = (folder / Path(ref.path).expanduser()).resolve()
    if local.is_dir():
        return _from_folder(local, ref.path, pins)
    if ref.declared:
        return base("declared", 1, {"name": ref.path, "provisional": True}, label=ref.path, locate={})
    if _HUB.fullmatch(ref.path) and not ref.path.startswith("."):
        return _from_hub(ref.path, pins)
    raise ModelError(
        f"base '{ref.path}': there is no folder {local}; name a Hugging Face folder, a hub id (org/name@revision), "
        "builtin:tiny, builtin:micro or builtin:smollm2, or a stage of the store (train-3f9a1c20)"
    )


def is_stored(name: str) -> bool:
    """Return whether a name is that of a stage that makes a model."""
    return _STORED.fullmatch(name) is not None


def stored_folder(name: str, store: Store) -> Path:
    """Return the folder of a model that a store holds, such as ``train-3f9a1c20``.

    Raises:
        UsageError: there is no such stage, several have this beginning, or its weights are not kept.
    """
    kind, stage_id = store.resolve(name)
    if store.manifest(kind, stage_id).get("shed"):
        raise UsageError(
            f"{name}: its weights were given up, as keep_models says; `cuvee run` of its recipe with "
            "keep_models: all makes them again"
        )
    return store.path(kind, stage_id) / MODEL


def _from_endpoint(ref: BaseModelRef) -> Base:
    """Return a server's model; who it is, is its url and name there, and nothing pins what it answers."""
    server = validate(Endpoint, ref.endpoint, key=("endpoint",))
    return base(ENDPOINT, 1, server.identity(), label=ref.path, locate={"endpoint": server.model_dump()})


def tokenizer(stage: Base, pins: Pins) -> Base:
    """Return a base's tokenizer as a stage of its own: bases that share one share what is rendered with it."""
    if stage.component == "declared":
        return stage
    folder = Path(str(stage.locate.get("path", FAKE_TOKENIZER)))
    files = {p.name: pins.file_hash(p) for p in sorted(folder.iterdir()) if _TOKENIZER_FILES.fullmatch(p.name)}
    return base("tokenizer", 1, {"files": files}, label=f"tokenizer of {stage.label}", locate={"path": str(folder)})


def _from_folder(folder: Path, label: str, pins: Pins, *, origin: Mapping[str, Any] | None = None) -> Base:
    files = sorted(p for p in folder.iterdir() if _FILES.fullmatch(p.name))
    names = {p.name for p in files}
    if (folder / "adapter_config.json").is_file() and "config.json" not in names:
        raise ModelError(
            f"base '{label}': {folder} holds a LoRA adapter and no whole model; of a training of the store name the "
            "fold stage after it (`cuvee list`), else merge the adapter into its base first"
        )
    if "config.json" not in names:
        raise ModelError(f"base '{label}': {folder} holds no config.json; it is no Hugging Face model folder")
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"base '{label}': {folder} holds no .safetensors weights (pickled .bin weights are never loaded); "
            "save the model once with save_pretrained(safe_serialization=True)"
        )
    if "tokenizer.json" not in names:
        raise ModelError(
            f"base '{label}': {folder} holds no tokenizer.json; save the fast tokenizer with save_pretrained"
        )
    hashes = {p.name: pins.file_hash(p) for p in files}
    return base("folder", 1, {"files": hashes}, label=label, locate={"path": str(folder), **(origin or {})})


def _from_hub(name: str, pins: Pins) -> Base:
    repo, _, revision = name.partition("@")
    try:
        import huggingface_hub
    except ImportError:
        raise ModelError(f"base '{name}' is a hub id; `pip install huggingface_hub`, or name a local folder") from None
    try:
        commit = pins.revision(
            repo, revision, lambda: str(huggingface_hub.model_info(repo, revision=revision or None).sha)
        )
        path = huggingface_hub.snapshot_download(
            repo, revision=commit, allow_patterns=["*.json", "*.safetensors", "*.jinja", "merges.txt"]
        )
    except Exception as error:
        raise ModelError(
            f"base '{name}': there is no such folder, and the hub did not give it ({type(error).__name__}); "
            "check the name and the network, name a local folder, or declare its size "
            "(base: {path: ..., declared: {parameters: 7B}}) to plan without it"
        ) from error
    return _from_folder(Path(path), name, pins, origin={"hub": f"{repo}@{commit}"})


def quantised(stage: Base) -> bool:
    """Return whether a base at hand holds quantised weights, which can be neither trained nor folded into."""
    folder = stage.locate.get("path")
    if not folder:
        return False
    try:
        config = json.loads((Path(str(folder)) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # loading will say what is wrong with it
    return bool(isinstance(config, dict) and config.get("quantization_config"))


def parameters(stage: Base, ref: BaseModelRef | None) -> int:
    """Return the number of parameters, read from the safetensors headers or as declared; 0 for the fake."""
    if ref and ref.declared:
        return ref.declared.parameters
    folder = stage.locate.get("path")
    if not folder:
        return 0
    total = 0
    for file in sorted(Path(str(folder)).glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for length in tensor["shape"]:
                    size *= length
                total += size
    return total
