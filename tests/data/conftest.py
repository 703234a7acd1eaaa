"""Small tokenizers, made in the test: one like GPT-2's (bytes), one like LLaMA's (pieces with byte fallback)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cuvee.values import Example, Message

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>")
TEXTS = (
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "USER: What is 2 + 2? ASSISTANT: 2 + 2 = 4\n#### 4",
    "### Instruction:\nWrite a function.\n\n### Response: def add(a, b):\n    return a + b",
    "Anna has 3 pens and buys 4 more. How many pens has she now? Hello world, this is it.",
)

Make = Callable[..., Path]


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Tests that carry `real` read ../shared; they are skipped, with the reason, where it is absent."""
    for item in items:
        if item.get_closest_marker("real") and not shared_folder().is_dir():
            item.add_marker(pytest.mark.skip(reason=f"{shared_folder()} is absent"))


def shared_folder() -> Path:
    return Path(os.environ.get("CUVEE_SHARED", Path(__file__).parents[2].parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    return shared_folder()


def bytes_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]),
        ]
    )
    return tokenizer


def pieces_tokenizer() -> Tokenizer:
    pieces = ["<unk>", *SPECIAL, *(f"<0x{number:02X}>" for number in range(256)), "▁", *map(chr, range(33, 127))]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("▁", letter) for letter in "abcdefghijklmnopqrstuvwxyzAU"] + [("h", "e"), ("o", "u"), ("▁", "he")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return tokenizer


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes a model folder with nothing but a tokenizer."""
    made: dict[str, str] = {}

    def make(kind: str = "bytes", template: str | None = None, **config: object) -> Path:
        if kind not in made:
            made[kind] = (bytes_tokenizer() if kind == "bytes" else pieces_tokenizer()).to_str()
        folder = tmp_path_factory.mktemp(kind)
        (folder / "tokenizer.json").write_text(made[kind], encoding="utf-8")
        given = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(given), encoding="utf-8")
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def talk() -> Callable[..., Example]:
    """Return a function that makes a conversation of turns that start with the user."""

    def make(*turns: str, system: str = "", path: str = "", line: int = 0) -> Example:
        head = [Message("system", system)] if system else []
        roles = ("user", "assistant")
        messages = [*head, *(Message(roles[number % 2], text) for number, text in enumerate(turns))]
        return Example(tuple(messages), (), path, line)

    return make
