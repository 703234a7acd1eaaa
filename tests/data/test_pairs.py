"""Context and continuation become the tokens that lm-evaluation-harness makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from cuvee.data.pairs import Pairs
from cuvee.errors import DataError, ModelError
from cuvee.protocols import Choices, TokenRow

WORDS = ["<s>", "</s>", "a", "b", " ", "ab", " a", " b", "a ", "x", " x", "USER:"]


def model(folder: Path, *, bos: bool = False, names: bool = True) -> Path:
    vocabulary = {word.replace(" ", "Ġ"): number for number, word in enumerate(WORDS)}
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "b"), ("Ġ", "x")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages[0].content }}x"} if names else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def words(row: TokenRow) -> tuple[list[str], list[str]]:
    start = row.spans[0][0]
    return [WORDS[n] for n in row.ids[:start]], [WORDS[n] for n in row.ids[start:]]


def test_white_space_at_the_end_of_a_context_belongs_to_the_continuation(tmp_path: Path) -> None:
    (row,) = Pairs(model(tmp_path), None).rows([("b ", "a")])
    assert words(row) == (["b"], [" a"])


def test_a_token_across_the_boundary_stays_with_the_context_that_was_tokenised_alone(tmp_path: Path) -> None:
    # "a" + "bx" is [ab, x] as a whole; the context alone is [a], so that what is left of the whole is [x].
    (row,) = Pairs(model(tmp_path), None).rows([("a", "bx")])
    assert words(row) == (["a"], ["x"])


def test_a_continuation_that_vanishes_into_its_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the continuation 'b' adds no token to its context"):
        Pairs(model(tmp_path), None).rows([("a", "b")])


def test_the_beginning_of_sequence_token_stands_before_text_but_not_before_a_template(tmp_path: Path) -> None:
    folder = model(tmp_path, bos=True)
    (row,) = Pairs(folder, None).rows([("b", " a")])
    assert words(row) == (["<s>", "b"], [" a"])
    pairs = Pairs(folder, "tokenizer")
    ((context, end),) = pairs.of(Choices("1", ("b",), ("a",), ("a",), (0,)))
    assert (context, end) == ("bx", "a")


def test_an_empty_context_is_a_special_token(tmp_path: Path) -> None:
    assert words(Pairs(model(tmp_path), None).rows([("", "ax")])[0]) == (["<s>"], ["a", "x"])
    assert words(Pairs(model(tmp_path), None).rows([("", "<s>x")])[0]) == (["<s>"], ["x"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(ModelError, match="an empty context needs a bos_token or eos_token"):
        Pairs(model(tmp_path / "bare", names=False), None).rows([("", "x")])


def test_one_context_serves_all_choices_and_one_continuation_all_contexts(tmp_path: Path) -> None:
    pairs = Pairs(model(tmp_path), None)
    assert pairs.of(Choices("1", ("b",), ("a", "x"), ("a", "x"), (0,), description="x")) == [("xb", " a"), ("xb", " x")]
    assert pairs.of(Choices("1", ("a", "b"), ("x",), ("x", "x"), (0,))) == [("a", " x"), ("b", " x")]
