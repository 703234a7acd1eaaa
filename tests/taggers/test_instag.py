from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cuvee import canonical
from cuvee.errors import RecipeError
from cuvee.recipe import validate
from cuvee.taggers import instag
from cuvee.taggers.instag import Params
from cuvee.values import Example, Message

LOCAL = Params(model="builtin:smollm2")
TALK = Example(
    (
        Message("system", "Be brief."),
        Message("user", "Hello {name}"),
        Message("assistant", "Hi"),
        Message("user", "Sort a list"),
        Message("assistant", "sorted(x)"),
    )
)


# --------------------------------------------------------------------------------------------- requests


def test_the_request_of_instagger_is_to_the_letter() -> None:
    params = Params(model="OFA-Sys/InsTagger", wording="instagger", turns="first", template="vicuna_v1.1")
    (message,) = instag.request(TALK, params)
    assert message.role == "user"
    assert message.content == (
        "Please identify tags of user intentions in the following user query and provide an explanation for each tag. "
        'Please respond in the JSON format {"tag": str, "explanation": str}.\n'
        "User query: Hello {name}"
    )


def test_the_general_request_holds_the_query_between_its_marks() -> None:
    (message,) = instag.request(TALK, LOCAL)
    assert "[begin]\nHello {name}\n\nSort a list\n[end]" in message.content
    assert 'JSON list: [{"tag": "...", "explanation": "..."}, ...]' in message.content


def test_a_query_is_made_of_user_turns_only() -> None:
    for turns in ("all", "first"):
        (message,) = instag.request(TALK, Params(model="m", turns=turns))
        assert "Be brief" not in message.content
        assert "sorted(x)" not in message.content


def test_a_query_that_is_too_long_is_cut_and_says_so() -> None:
    params = Params(model="m", max_chars=5)
    assert "[begin]\nHello\n[end]" in instag.request(TALK, params)[0].content
    assert instag.is_cut(TALK, params)
    assert not instag.is_cut(TALK, LOCAL)


# ---------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('[{"tag": "sorting", "explanation": "x"}, {"tag": "python", "explanation": "y"}]', ("sorting", "python")),
        ('```json\n[{"tag": "sorting", "explanation": "x"}]\n```', ("sorting",)),
        ('Here are the tags [1]:\n[{"tag": "sorting", "explanation": "x"}]\nI hope this helps!', ("sorting",)),
        ('{"tag": "sorting", "explanation": "x"}', ("sorting",)),
        ('{"tag": "a", "explanation": "x"}\n{"tag": "b", "explanation": "y"}', ("a", "b")),
        ('{"tag": "a", "explanation": "x"}, {"tag": "b", "explanation": "y"}.', ("a", "b")),
        ('["sorting", "python"]', ("sorting", "python")),
        ('[{"tag": " sorting ", "explanation": "two\nlines"}, {"tag": "sorting"}]', ("sorting",)),
        ("[]", ()),
    ],
    ids=[
        "list",
        "fence",
        "text around",
        "one object",
        "objects in lines",
        "objects in a row",
        "texts",
        "repeated",
        "none",
    ],
)
def test_an_answer_is_read(text: str, tags: tuple[str, ...]) -> None:
    assert instag.parse(text, LOCAL) == tags


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sorting, python",
        '[{"tag": "a", "explanation": "x"}, {"tag": "b", "expl',
        '{"tag": "a", "explanation": "x"} {"tag": "b", "expl',
        '[{"label": "a"}]',
        '[{"tag": 3}]',
        "[1, 2]",
        '{"tag": null}',
        "{}",
    ],
    ids=["empty", "prose", "cut list", "cut row", "other key", "number", "numbers", "null", "empty object"],
)
def test_an_answer_that_cannot_be_read_is_none_and_never_zero_tags(text: str) -> None:
    assert instag.parse(text, LOCAL) is None


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).map(str.strip).filter(bool)


@given(
    st.lists(WORDS, max_size=6, unique=True),
    st.sampled_from(["", "```json\n", "Tags: "]),
    st.sampled_from(["", "\n```", " Done."]),
)
def test_what_is_written_as_json_is_read_back(tags: list[str], before: str, after: str) -> None:
    text = before + json.dumps([{"tag": tag, "explanation": "[{}]"} for tag in tags], ensure_ascii=False) + after
    assert instag.parse(text, LOCAL) == tuple(tags)


@given(st.text())
def test_no_text_makes_the_reader_fail(text: str) -> None:
    found = instag.parse(text, LOCAL)
    assert found is None or all(tag == tag.strip() != "" for tag in found)


# ------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("given", [{}, {"model": "m", "endpoint": {"url": "http://h/v1", "model": "n"}}])
def test_exactly_one_answerer_is_asked_for(given: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="needs exactly one of model and endpoint"):
        validate(Params, given)


def test_a_template_for_an_endpoint_is_refused() -> None:
    with pytest.raises(ValidationError, match="template belongs to model"):
        Params(endpoint={"url": "http://h/v1", "model": "m"}, template="plain")  # type: ignore[arg-type]


def test_a_key_in_the_recipe_is_refused_and_not_shown() -> None:
    with pytest.raises(RecipeError) as caught:
        validate(Params, {"endpoint": {"url": "http://h/v1", "model": "m", "key_env": "sk-secret-1"}})
    assert "sk-secret-1" not in str(caught.value)
    assert "name of an environment variable" in str(caught.value)


def test_the_identity_holds_what_changes_tags_and_not_how_they_are_asked_for() -> None:
    asked = {"url": "http://h/v1", "model": "m"}
    plain = validate(Params, {"endpoint": asked})
    hasty = validate(Params, {"endpoint": {**asked, "key_env": "K", "concurrency": 64, "timeout": 5, "retries": 0}})
    assert instag.identity(plain) == instag.identity(hasty)
    other = validate(Params, {"endpoint": {**asked, "model": "n"}})
    ids = {canonical.digest(instag.identity(params)) for params in (plain, other, LOCAL)}
    assert len(ids) == 3


def test_a_local_models_name_is_no_part_of_the_identity_and_its_template_is() -> None:
    assert instag.identity(Params(model="a")) == instag.identity(Params(model="b"))
    assert instag.identity(Params(model="a")) != instag.identity(Params(model="a", template="plain"))


def test_answers_are_generated_greedily() -> None:
    assert instag.generation(LOCAL) == {"max_new_tokens": 512, "temperature": 0.0}
