from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cuvee.data import templates
from cuvee.errors import ModelError

Make = Callable[..., Path]
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
SYSTEM = {"role": "system", "content": "Be brief."}


def text(name: str, messages: list[dict[str, str]], generate: bool = True) -> str:
    return templates.compile(templates.BUILT_IN[name], {"eos_token": "</s>"})(messages, generate)


def test_vicuna_is_fastchats_string() -> None:
    assert text("vicuna_v1.1", TURNS) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: Hi ASSISTANT: Hello</s>USER: Bye ASSISTANT:"
    )
    assert text("vicuna_v1.1", [SYSTEM, *TURNS[:1]], False) == "Be brief. USER: Hi "


def test_alpaca_is_stanfords_string() -> None:
    assert text("alpaca", TURNS[:1]) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nHi\n\n### Response:"
    )
    assert text("alpaca", TURNS[:2], False).endswith("\n\n### Response:Hello</s>")


def test_chatml_and_plain_keep_every_character() -> None:
    assert text("chatml", [SYSTEM, *TURNS[:2]]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text("plain", TURNS) == "Hi\nHello</s>Bye\n"


@pytest.mark.parametrize("name", ["vicuna_v1.1", "alpaca"])
def test_roles_without_a_place_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="shows user and assistant turns only"):
        text(name, [*TURNS, {"role": "tool", "content": "x"}])


@pytest.mark.parametrize("name", sorted(templates.BUILT_IN))
def test_tool_calls_are_refused_and_not_left_out(name: str) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    with pytest.raises(ValueError, match="tool calls"):
        templates.compile(templates.BUILT_IN[name], {"eos_token": "</s>"})([TURNS[0], call], False)


def test_the_tokenizers_own_template_is_found_where_the_ecosystem_puts_it(model: Make) -> None:
    assert templates.find(model(template="file", chat_template="config"), "tokenizer") == "file"
    assert templates.find(model(chat_template="config"), "tokenizer") == "config"
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert templates.find(model(chat_template=named), "tokenizer") == "d"


def test_no_template_and_unknown_names_are_errors_with_a_remedy(model: Make) -> None:
    with pytest.raises(ModelError, match=r"no chat template .* set training.template to one of vicuna_v1.1"):
        templates.find(model(), "tokenizer")
    with pytest.raises(ModelError, match=r"Did you mean 'vicuna_v1.1'"):
        templates.find(model(), "vicuna")


def test_special_tokens_come_as_text_or_as_objects(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<a>"}, "pad_token": "<p>"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<e>", "pad_token": None}))
    assert templates.special_tokens(tmp_path) == {"bos_token": "<a>", "pad_token": "<p>", "eos_token": "<e>"}


def test_the_environment_is_the_ecosystems() -> None:
    source = (
        "{% for m in messages %}\n"
        "    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{% generation %}{{ m | tojson }}{% endgeneration %}\n"
        "{% endfor %}"
    )
    assert templates.compile(source, {})([{"role": "user", "content": "<é>"}], False) == (
        '{"role": "user", "content": "<é>"}'
    )


def test_the_sandbox_holds() -> None:
    with pytest.raises(ValueError, match="refuses"):
        templates.compile("{{ messages.append(1) }}", {})([{"role": "user", "content": "x"}], False)


def test_todays_date_is_refused_only_when_the_template_asks_for_it() -> None:
    calls = "{% if messages[0].role == 'system' %}Be brief.{% else %}{{ strftime_now('%Y') }}{% endif %}"
    render = templates.compile(calls, {})
    assert render([SYSTEM], False) == "Be brief."
    with pytest.raises(ModelError, match=r"strftime_now.*other tokens tomorrow"):
        render(TURNS, False)
    careful = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}26 Jul 2024{% endif %}"
    assert templates.compile(careful, {})(TURNS, False) == "26 Jul 2024"


def test_a_template_that_is_no_jinja_says_so() -> None:
    with pytest.raises(ModelError, match="no valid Jinja"):
        templates.compile("{% if %}", {})
