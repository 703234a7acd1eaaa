"""What lies beside a model's weights and goes with them: tokenizer, chat templates, generation settings, own code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = re.compile(
    r"(tokenizer|vocab|merges|special_tokens_map|added_tokens|chat_template|spiece|tekken|generation_config"
    r"|sentencepiece\.bpe|spm|(video_)?(pre)?processor)"
    r"(_config)?\.(json|model|txt|jinja)|additional_chat_templates|.*\.tiktoken|(source|target)\.spm"
)

_VERSIONS = ("transformers_version", "_from_model_config")


def of(folder: Path) -> Iterator[Path]:
    """Yield what a merged model takes over from a folder; code where its configuration names some (never run here)."""
    code = '"auto_map"' in _text(folder / "config.json") + _text(folder / "tokenizer_config.json")
    for path in sorted(folder.iterdir()):
        if _NAMES.fullmatch(path.name) or (code and path.suffix == ".py"):
            yield path


def copy(folder: Path, into: Path) -> None:
    """Copy them into another folder; what is there already stays."""
    for path in of(folder):
        if (into / path.name).exists():
            continue
        shutil.copytree(path, into / path.name) if path.is_dir() else shutil.copyfile(path, into / path.name)


def copy_settings(folder: Path, into: Path) -> None:
    """Copy generation settings where there are none: they go with any tokenizer of the model."""
    name = "generation_config.json"
    if (folder / name).is_file() and not (into / name).exists():
        shutil.copyfile(folder / name, into / name)


def differences(first: Path, other: Path) -> list[str]:
    """Return what a model has that is not the first one's, and so is left out of a merge."""
    theirs, ours = _settings(other), _settings(first)
    return [what for what, value in theirs.items() if value and value != ours[what]]


def _settings(folder: Path) -> dict[str, Any]:
    tokenizer, generation = (_json(folder / f"{name}_config.json") for name in ("tokenizer", "generation"))
    return {
        "chat template": _text(folder / "chat_template.jinja") or tokenizer.get("chat_template"),
        "special tokens": {key: _content(tokenizer[key]) for key in ("bos_token", "eos_token") if tokenizer.get(key)},
        "generation settings": {key: value for key, value in generation.items() if key not in _VERSIONS},
    }


def _content(token: Any) -> Any:
    """Return a token's text: some versions write it alone, others with how it is matched."""
    return token.get("content") if isinstance(token, dict) else token


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
