"""Each of the 25 instructions is checked by a reply that follows it and one that does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cuvee.errors import DataError, UsageError
from cuvee.evaluators import _constraints, ifeval
from cuvee.protocols import Request, Response
from cuvee.values import Example, Message

FOUR = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"}
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["Pear", "plum"]}, "A pear and a PLUM", "A pear"),
    "keywords:frequency": (
        {"keyword": "pear", "relation": "less than", "frequency": 2},
        "one Pear",
        "pear, pear",
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["rock"]}, "rocket", "A Rock."),
    "keywords:letter_frequency": ({"letter": "e", "let_relation": "at least", "let_frequency": 2}, "Eve", "pear"),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "at least"},
        'Dr. A. Smith came. "Really?" she said',
        "Mr. Smith came at 3.5 p.m. today.",
    ),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, "two words", "now three words"),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "one\n***\ntwo\n***", "one\n***\n\n***\ntwo"),
    "length_constraints:nth_paragraph_first_word": (FOUR, 'one\n\n"Weekend, then', "one\n\nThen weekend"),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] of [place]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Yes.\np. s. no", "PS no"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* one\n- two", "* one\n** two"),
    "detectable_format:constrained_response": ({}, "Well. My answer is maybe.", "Maybe."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*one* and *two*", "*one* and * *"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section one\nSection 1",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{'a': 1}"),
    "detectable_format:title": ({}, "<<song>>\nla", "<< >>\nla"),
    "combination:two_responses": ({}, "one\n******\ntwo", "one\n******\none"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi."}, " say HI. Hi", "Hi"),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So: "the END."', "The end. Or not"),
    "startend:quotation": ({}, ' "so" ', '"so'),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "A WELL-KNOWN man",
        "WELL-KNOWN men",
    ),
    "punctuation:no_comma": ({}, "one two", "one, two"),
}
SPEAKING: dict[str, tuple[dict[str, Any], str, str]] = {
    "language:response_language": (
        {"language": "de"},
        "Das ist ein ganz gewöhnlicher deutscher Satz.",
        "This is an ordinary English sentence.",
    ),
    "change_case:english_capital": ({}, "THIS IS AN ORDINARY SENTENCE.", "This is an ordinary sentence."),
    "change_case:english_lowercase": ({}, "this is an ordinary sentence.", "This is an ordinary sentence."),
}


def test_all_instructions_have_a_case_here() -> None:
    assert {**CASES, **SPEAKING}.keys() == _constraints.CHECKS.keys()
    assert len(_constraints.CHECKS) == 25


@pytest.mark.parametrize("name", CASES)
def test_a_reply_follows_it_or_not(name: str) -> None:
    given, good, bad = CASES[name]
    assert _constraints.followed(name, good, given)
    assert not _constraints.followed(name, bad, given)
    assert not _constraints.followed(name, "  \n", given)


@pytest.mark.parametrize("name", SPEAKING)
def test_a_language_is_told(name: str) -> None:
    pytest.importorskip("langdetect")
    given, good, bad = SPEAKING[name]
    assert _constraints.followed(name, good, given)
    assert not _constraints.followed(name, bad, given)


def test_without_langdetect_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "langdetect", None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[ifeval\]'"):
        _constraints.followed("language:response_language", "Hello there", {"language": "en"})


def test_loose_leaves_out_first_and_last_lines_and_asterisks() -> None:
    assert _constraints.variants("a\n*b*\nc") == [
        "a\n*b*\nc",
        "*b*\nc",
        "a\n*b*",
        "*b*",
        "a\nb\nc",
        "b\nc",
        "a\nb",
        "b",
    ]
    text = "Sure, here it is:\none two"
    assert not _constraints.followed("punctuation:no_comma", text, {})
    assert _constraints.loosely("punctuation:no_comma", text, {})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("One. Two! Three?", 3),
        ("e.g. this one", 1),
        ("Wait... what?", 2),
        ("No end", 1),
        ("A 3.5 km walk.", 1),
        ("J. Doe.", 1),
    ],
)
def test_sentences_are_counted_by_the_stated_rule(text: str, number: int) -> None:
    assert _constraints.sentences(text) == number


def graded(text: str, **params: str) -> Any:
    two = [["punctuation:no_comma", {}], ["startend:quotation", {}]]
    request = Request("1", (), json.dumps(two))
    return ifeval.grade(request, [Response(text, "stop")], {"level": "prompt", "reading": "strict", **params})


def test_prompts_and_instructions_are_counted_strictly_and_loosely() -> None:
    text = 'Sure, here:\n"one two"'
    grade = graded(text)
    assert (grade.score, grade.weight) == (0.0, 1.0)
    assert {
        name: grade.extra[name] for name in ("prompt_strict", "prompt_loose", "followed_strict", "followed_loose")
    } == {
        "prompt_strict": 0,
        "prompt_loose": 1,
        "followed_strict": 0,
        "followed_loose": 2,
    }
    assert graded(text, reading="loose").score == 1.0
    share = graded('"one, two"', level="instruction")
    assert (share.score, share.weight) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("names", "given", "why"),
    [
        (["punctuation:none"], [{}], "there is no check for punctuation:none"),
        (["punctuation:no_comma"], [], "there is not one set of arguments"),
        (["punctuation:no_comma"], [["x"]], "arguments are no"),
        (["length_constraints:number_words"], [{"num_words": 3}], "length_constraints:number_words lacks an argument"),
    ],
)
def test_what_is_no_item_is_refused(names: list[str], given: list[Any], why: str) -> None:
    extra = {"instruction_id_list": names, "kwargs": given}
    row = Example((Message("user", "Do."),), (), "x.jsonl", 4, extra=extra)
    with pytest.raises(DataError, match=f"x.jsonl:4: {why}"):
        ifeval.request(row, {})


@pytest.mark.real
def test_every_published_prompt_is_an_item() -> None:
    import gzip

    from cuvee.data import formats
    from tests.data.conftest import shared_folder

    source = {name: value for name, value in ifeval.SOURCE.items() if name != "questions"}
    with gzip.open(shared_folder() / "data" / "knowledge" / "ifeval_prompts.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [formats.example(json.loads(line), **source) for line in lines]
    assert len([ifeval.request(row, {}) for row in rows]) == 540
