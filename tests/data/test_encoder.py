"""What tiktoken gives in place of the tokenizer is the same, or is not taken."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from cuvee.data import encoder
from cuvee.data.encoder import BETWEEN, SHRINKING, ByOffsets, Encoder, Fast
from tests.data.conftest import TEXTS, bytes_tokenizer
from tests.data.conftest import pieces_tokenizer as prepending

Make = Callable[..., Path]

HARD = [
    *(
        "",
        "a",
        " a",
        "  a ",
        "a\n\n b",
        "\t\r\n x  y   z",
        "don't I'LL",
        "1234 5",
        "</s>",
        "<s>1",
        "a<s>11",
        "</s> a",
        "a</s>b <s>",
        "<|end|",
    ),
    *("é", "é́ñ ﬁ Ⅳ ½", "中文字符，测试", "😀 hi 😀😀", "▁a▁b", "a\x00b", "\u00a0x\u2028y\u3000", " " * 300 + "x"),
    *("\u0378 unassigned", "\U0001fae8", "x" * 2000, BETWEEN, f"a{BETWEEN}b"),
]


def pieces_tokenizer(scheme: str) -> Tokenizer:
    """Return a tokenizer like LLaMA's whose spaces are written by its pre-tokenizer."""
    start = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    start.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    start.train_from_iterator([*TEXTS, "é   中文 ▁▁▁▁"], trainer)
    told = json.loads(start.to_str())
    told["added_tokens"] = [token for token in told["added_tokens"] if token["id"] < 3]
    told["pre_tokenizer"]["split"] = False
    return Tokenizer.from_str(json.dumps(told))


def neighbours(tokenizer: Tokenizer) -> Tokenizer:
    """Return the same tokenizer without what is put round a text."""
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), "post_processor": None}))


@pytest.fixture(scope="module", params=["bytes", "first", "always"])
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Fast]:
    pytest.importorskip("tiktoken")
    tokenizer = neighbours(bytes_tokenizer() if request.param == "bytes" else pieces_tokenizer(request.param))
    fast = encoder.fast(tokenizer)
    assert fast is not None
    return tokenizer, fast


def check(tokenizer: Tokenizer, fast: Fast, texts: list[str]) -> int:
    """Compare all ids and places; return how many texts were left to the tokenizer."""
    left = 0
    for text, found in zip(texts, fast.encode(texts), strict=True):
        if found is None:
            left += 1
            continue
        plain = ByOffsets(tokenizer.encode(text, add_special_tokens=False))
        assert found.ids.tolist() == plain.ids.tolist(), text
        for start in range(0, len(text), max(1, len(text) // 7)):
            for end in range(start + 1, len(text) + 1, max(1, len(text) // 5)):
                assert found.span(start, end) == plain.span(start, end), (text, start, end)
    return left


def test_hard_texts_have_the_tokenizers_ids_and_places(both: tuple[Tokenizer, Fast]) -> None:
    left = sum(check(*both, [text]) for text in HARD)
    assert 0 < left < len(HARD)
    plain = [text for text in HARD if BETWEEN not in text]
    assert check(*both, plain) < len(plain)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab  Hhello'st12\n\té中😀.<s>/▁|"), max_size=30), min_size=1, max_size=5))
def test_many_texts_at_once_are_as_one_by_one(both: tuple[Tokenizer, Fast], texts: list[str]) -> None:
    check(*both, texts)


def test_texts_that_hold_the_mark_between_texts_spoil_no_others(both: tuple[Tokenizer, Fast]) -> None:
    tokenizer, _ = both
    texts = ["Hello", f"a{BETWEEN}b", "the user"]
    found = Encoder(tokenizer, worth=0).encode(texts)
    assert [one.ids.tolist() for one in found] == [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]


def test_a_difference_in_the_first_texts_ends_the_use_of_the_fast_way(
    both: tuple[Tokenizer, Fast], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, fast = both
    wrong = Fast(fast.core, fast.form, np.where(fast.ids > 5, fast.ids - 1, fast.ids), *_rest(fast))
    monkeypatch.setattr(encoder, "fast", lambda _: wrong)
    own = Encoder(tokenizer, worth=0)
    (found,) = own.encode(["Hello world"])
    assert found.ids.tolist() == tokenizer.encode("Hello world", add_special_tokens=False).ids
    assert own.fast is None


def _rest(fast: Fast) -> tuple[Any, ...]:
    return fast.lengths, fast.added, fast.first_added


def changed(**parts: Any) -> Tokenizer:
    told = json.loads(neighbours(bytes_tokenizer()).to_str())
    for name, value in parts.items():
        told[name] = {**told[name], **value} if isinstance(told[name], dict) else value
    return Tokenizer.from_str(json.dumps(told))


@pytest.mark.parametrize(
    "tokenizer",
    [
        changed(normalizer={"type": "Lowercase"}),
        changed(pre_tokenizer={"add_prefix_space": True}),
        changed(pre_tokenizer={"use_regex": False}),
        changed(model={"dropout": 0.1}),
    ],
)
def test_tokenizers_that_do_otherwise_are_left_to_themselves(tokenizer: Tokenizer) -> None:
    pytest.importorskip("tiktoken")
    assert encoder.fast(tokenizer) is None


@pytest.mark.parametrize(
    "token", [AddedToken("<x>", lstrip=True), AddedToken("<s>x"), AddedToken("q", single_word=True)]
)
def test_added_tokens_that_need_their_context_are_left_to_the_tokenizer(token: AddedToken) -> None:
    pytest.importorskip("tiktoken")
    tokenizer = neighbours(bytes_tokenizer())
    tokenizer.add_tokens([token])
    assert encoder.fast(tokenizer) is None


def test_few_texts_do_not_pay_for_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(encoder, "fast", made.append)
    own = Encoder(bytes_tokenizer(), worth=3)
    for texts in (["a"], ["b", "c"], ["d"], ["e"]):
        own.encode(texts)
    assert len(made) == 1


@pytest.mark.real
def test_every_character_falls_into_the_same_pieces_on_a_real_tokenizer(shared: Path) -> None:
    pytest.importorskip("tiktoken")
    told = json.loads((shared / "models/smollm2-135m-instruct/tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps({**told, "post_processor": None}))
    fast = encoder.fast(tokenizer)
    assert fast is not None
    letters = [chr(number) for number in range(0x110000) if not 0xD800 <= number < 0xE000]
    texts = ["".join(f"a{c}a {c}1{c} {c}{c}\n" for c in letters[at : at + 64]) for at in range(0, len(letters), 64)]
    found = list(fast.encode(texts))
    known = [at for at, one in enumerate(found) if one is not None]
    assert len(known) > 2000
    for at, plain in zip(
        known, tokenizer.encode_batch([texts[at] for at in known], add_special_tokens=False), strict=True
    ):
        assert found[at].ids.tolist() == plain.ids, f"U+{ord(letters[at * 64]):04X} to 64 on"  # type: ignore[union-attr]


def variant(tokenizer: Tokenizer, **told: Any) -> Tokenizer:
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), **told}))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*TEXTS, "é", "e\u0301", "\u1fef", "각", "<s>", "\n" * 9, "  "]), max_size=9))
def test_a_text_has_no_fewer_tokens_than_its_bytes_allow(parts: list[str]) -> None:
    plain = bytes_tokenizer()
    composed = variant(plain, normalizer={"type": "NFC"})
    for tokenizer in (plain, composed, prepending(), pieces_tokenizer("first"), pieces_tokenizer("always")):
        text = "".join(parts)
        assert 0 < Encoder(tokenizer).longest < 300
        assert Encoder(tokenizer).at_least(text) <= len(tokenizer.encode(text, add_special_tokens=False))


def test_no_bound_is_claimed_where_a_token_may_stand_for_any_length_of_text() -> None:
    plain = bytes_tokenizer()
    told = json.loads(plain.to_str())
    assert Encoder(plain).longest == max(map(len, told["model"]["vocab"]))
    swallowing = [{**token, "rstrip": True} for token in told["added_tokens"]]
    few = {token: number for token, number in told["model"]["vocab"].items() if token != "a"}
    others = [
        {"added_tokens": swallowing},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, told["pre_tokenizer"]]}},
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"model": {**told["model"], "vocab": few, "merges": []}},
        {"pre_tokenizer": None},
    ]
    for changed in others:
        assert Encoder(variant(plain, **changed)).longest == 0
        assert Encoder(variant(plain, **changed)).at_least("x" * 999) == 0


def test_composing_makes_a_text_at_most_three_times_shorter() -> None:
    letters = [chr(number) for number in range(sys.maxunicode + 1) if not 0xD800 <= number < 0xE000]
    changed = [letter for letter in letters if unicodedata.decomposition(letter)[:1] not in ("", "<")]
    changed += [chr(number) for number in range(0xAC00, 0xD7A4)]
    for letter in changed:
        whole = unicodedata.normalize("NFC", letter)
        longest = max(len(form.encode()) for form in (letter, unicodedata.normalize("NFD", letter)))
        assert longest <= SHRINKING * len(whole.encode())
