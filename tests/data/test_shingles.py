from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.data import shingles

TEXTS = st.lists(st.text(alphabet="ab Z9é你+-*_.\n", max_size=20), max_size=8)


def words(text: str) -> list[str]:
    return shingles.words(shingles.folded(text)).decode().split()


def grams(text: str, length: int, short: bool) -> set[tuple[str, ...]]:
    """The definition, said in sets of tuples."""
    found = words(text)
    if len(found) < length:
        return {tuple(found)} if found and short else set()
    return {tuple(found[at : at + length]) for at in range(len(found) - length + 1)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,\tWORLD!", "hello world !"),
        ("snake_case don't", "snake case don t"),
        ("5+3=8, not 5/3", "5 + 3 = 8 not 5 / 3"),
        ("1,000 | 2 ~ 3 - 4 * 5", "1 000 | 2 3 - 4 * 5"),
        ("a && !b", "a & & ! b"),
        ("a || b", "a | | b"),
        ("5-3, (-3) and x - y", "5 - 3 - 3 and x - y"),
        ("5 \N{MINUS SIGN} 3, 5\N{MINUS SIGN}3", "5 - 3 5 - 3"),
        ("well-known GPT-4, 5-year, café-au-lait", "well known gpt 4 5 year café au lait"),
        ("a -- b\n-----\n--flag i--", "a b flag i"),
        ("北京-上海", "北 京 上 海"),
        ("ＦＵＬＬ ﬁ", "full fi"),
        ("Ça va? ÉTÉ", "ça va été"),
        ("2 × 3 ≤ 7", "2 × 3 ≤ 7"),
        ("你好，world。", "你 好 world"),
        ("ひらカタ", "ひ ら カ タ"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("broken \ud83d half", "broken half"),
        ("...", ""),
    ],
)
def test_words_are_runs_of_letters_single_ideographs_and_signs(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


@given(TEXTS, st.integers(1, 4), st.booleans())
def test_sets_are_equal_exactly_where_the_sets_of_words_are(texts: list[str], length: int, short: bool) -> None:
    bags = shingles.shingles([*map(shingles.folded, texts)], length, short)
    expected = [grams(text, length, short) for text in texts]
    assert bags.sizes.tolist() == [len(found) for found in expected]
    for one, mine in enumerate(expected):
        row = bags.row(one)
        assert (row[1:] > row[:-1]).all()
        for other, theirs in enumerate(expected):
            both = np.intersect1d(row, bags.row(other), assume_unique=True)
            assert len(both) == len(mine & theirs)


@given(TEXTS, st.integers(1, 20))
def test_a_set_does_not_hang_on_the_texts_around_it(texts: list[str], length: int) -> None:
    folded = [*map(shingles.folded, texts)]
    together = shingles.shingles(folded, length)
    for place, text in enumerate(folded):
        assert together.row(place).tolist() == shingles.shingles([text], length).row(0).tolist()


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from cuvee.data.shingles import *; print(shingles([folded('Add 2 and 3.')], 3).row(0).tolist())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {"[276471396467562, 4451414317559155]\n"}


@pytest.mark.parametrize(
    ("one", "other"),
    [("What is 5 - 3?", "What is 5 * 3?"), ("a && !b", "a || b"), ("is it -3 or 3?", "is it 3 or 3?"), ("!a", "a")],
)
def test_texts_with_other_signs_have_other_words(one: str, other: str) -> None:
    assert words(one) != words(other)


def test_a_minus_is_the_same_word_in_both_its_signs() -> None:
    assert words("5 \N{MINUS SIGN} 3") == words("5 - 3") == words("5-3")


def test_order_and_swapped_letters_count() -> None:
    texts = ["one two three", "three two one", "on etwo three", "two one three"]
    bags = shingles.shingles([*map(shingles.folded, texts)], 3)
    assert len(np.unique(bags.hashes)) == 4


def test_batches_end_at_rows_or_bytes_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shingles, "BYTES", 10)
    texts = [b"x" * size for size in (3, 30, 4, 4, 4, 1)]
    assert [*shingles.batches(texts)] == [texts[:2], texts[2:5], texts[5:]]
    with pytest.raises(ValueError, match="at most 4096"):
        shingles.shingles([b"x"] * 4097, 3)
