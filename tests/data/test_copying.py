"""A template that is said to copy contents gives the text that its shape has with the contents put in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.data import templates
from cuvee.data.copying import Flow
from cuvee.data.masks import Shapes
from cuvee.values import Message

HEAD = "{% for m in messages %}"
COPYING = [
    HEAD + "{{ m.role + ': ' + m['content'] ~ '\n' }}{% endfor %}",
    HEAD + "{% if m.role == 'user' or loop.last %}{{ m.content }}{% endif %}|{% endfor %}",
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% else %}{% set s = 'none' %}{% endif %}"
    "{{ s }}{% for m in messages[1:] %}{{ '[' + m.content + ']' }}{% endfor %}",
    HEAD + "{% if 'tool_calls' in m %}x{% endif %}{% if m.content is string %}{{ m.content }}{% endif %}{% endfor %}",
    HEAD + "{% if messages|length > 2 and not m.tool_calls %}{{ m.content }}{% endif %};{% endfor %}",
    HEAD + "{{ messages[loop.index0].content if m.role == 'user' else '<' + m.content + '>' }}{% endfor %}",
]
TIDYING = [
    HEAD + "{{ m.content | trim }}\n{% endfor %}",
    HEAD + "{{ '<' + m['content'].strip() + '>' }}{% endfor %}",
    HEAD + "{% if m.content and m.role != 'tool' %}{{ m.content }}{% endif %},{% endfor %}",
]
LOOKING = [
    HEAD + "{% if m.content == 'a' %}b{% endif %}{{ m.content }}{% endfor %}",
    HEAD + "{% if 'a' in m.content %}b{% endif %}{{ m.content }}{% endfor %}",
    HEAD + "{% set c = m.content %}{% if 'a' in c %}b{% endif %}{{ c }}{% endfor %}",
    HEAD + "{{ m.content | upper }}{% endfor %}",
    HEAD + "{{ m.content.split('a')[-1] }}{% endfor %}",
    HEAD + "{{ m.content[0:1] }}{% endfor %}",
    HEAD + "{{ (m.content + ' ') | trim }}{% endfor %}",
    HEAD + "{{ m.content | length }}{{ m.content }}{% endfor %}",
    HEAD + "{{ m }}{% endfor %}",
    HEAD + "{{ m | tojson }}{% endfor %}",
    HEAD + "{% for k, v in m.items() %}{{ v }}{% endfor %}{% endfor %}",
    HEAD + "{% set f = m.values %}{{ f() | join }}{% endfor %}",
    HEAD + "{% for letter in m.content %}{{ letter }}-{% endfor %}{% endfor %}",
    HEAD + "{{ m.content if m.content != 'a' else 'b' }}{% endfor %}",
    HEAD + "{{ loop.previtem.content == m.content }}{% endfor %}",
    HEAD + "{% if loop.changed(m.content) %}x{% endif %}{% endfor %}",
    "{% set ns = namespace(c='') %}" + HEAD + "{% set ns.c = m.content %}{% endfor %}{% if ns.c == 'a' %}b{% endif %}",
    "{% set c = '' %}" + HEAD + "{% if c == 'a' %}b{% endif %}{% set c = m.content %}{{ c }}{% endfor %}",
    "{% macro show(m) %}{{ m.content | upper }}{% endmacro %}" + HEAD + "{{ show(m) }}{% endfor %}",
    HEAD + "{{ '%s' % m.content }}{{ m.content * 2 }}{% endfor %}",
    "{% filter upper %}" + HEAD + "{{ m.content }}{% endfor %}{% endfilter %}",
    "{{ messages | map(attribute='content') | join }}",
]
CONTENTS = st.one_of(
    st.sampled_from(["", "a", " a", "a\n", "b", "[]", "\u00a0x", "\ue000mark0\ue001"]), st.text(max_size=8)
)
TALKS = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), CONTENTS), min_size=1, max_size=4
)


@pytest.mark.parametrize("text", [*COPYING, *TIDYING, *templates.BUILT_IN.values()])
@settings(max_examples=60, deadline=None)
@given(talk=TALKS)
def test_a_shape_with_contents_is_what_rendering_gives(text: str, talk: list[Message]) -> None:
    tokens = {"eos_token": "</s>"}
    flow = Flow(templates.environment(), text)
    assert flow.copies
    render = templates.compile(text, tokens)
    copied = Shapes(render, flow).copied(talk)
    if copied is None:
        return
    shown, places = copied
    assert shown == render([message.as_dict() for message in talk], False)
    assert [shown[start:end] for start, end in places] == [message.content for message in talk]


@pytest.mark.parametrize("text", COPYING)
def test_contents_that_are_only_copied_may_be_anything(text: str) -> None:
    flow = Flow(templates.environment(), text)
    assert (flow.copies, flow.tidy) == (True, False)


@pytest.mark.parametrize("text", TIDYING)
def test_contents_that_are_stripped_or_asked_for_must_be_tidy(text: str) -> None:
    flow = Flow(templates.environment(), text)
    assert (flow.copies, flow.tidy) == (True, True)
    shapes = Shapes(templates.compile(text, {}), flow)
    assert shapes.copied([Message("user", "a b")]) is not None
    assert [shapes.copied([Message("user", content)]) for content in ("", " a", "a\n")] == [None] * 3


@pytest.mark.parametrize("text", LOOKING)
def test_a_template_that_may_look_at_a_content_is_rendered(text: str) -> None:
    assert not Flow(templates.environment(), text).copies


@pytest.mark.real
def test_real_templates_that_copy_give_the_same_text(shared: Path) -> None:
    talks = [
        [Message("user", "Hi  there"), Message("assistant", "#### 4")],
        [Message("system", "Be brief."), Message("user", "<|im_end|> ü"), Message("assistant", "</think>a")] * 2,
    ]
    seen = 0
    for path in sorted((shared / "models" / "templates").glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        shapes = Shapes(
            render := templates.compile(text, {"bos_token": "<s>", "eos_token": "</s>"}),
            Flow(templates.environment(), text),
        )
        for talk in talks:
            copied = shapes.copied(talk)
            if copied is not None:
                seen += 1
                assert copied[0] == render([message.as_dict() for message in talk], False), path.name
    assert seen
