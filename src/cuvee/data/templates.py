"""Chat templates: four built-in ones, the tokenizer's own, and the environment that renders them.

The built-in strings are interface facts: models were trained with exactly these, so they stand verbatim and
only the end token is the tokenizer's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from cuvee.errors import ModelError, did_you_mean

# FastChat, fastchat/conversation.py, conversation `vicuna_v1.1`: separator style ADD_COLON_TWO, sep " ",
# sep2 "</s>". Serialisation: system + " ", then ROLE + ": " + text + (" " after user, sep2 after assistant);
# an open assistant turn is "ASSISTANT:" without a trailing space.
_VICUNA = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}"
    "{% set system = 'A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user\\'s questions.' %}"
    "{% set turns = messages %}"
    "{% endif %}"
    "{{ system + ' ' }}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% elif message['role'] == 'assistant' and not message['tool_calls'] %}"
    "{{ 'ASSISTANT: ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('vicuna_v1.1 shows user and assistant turns only, and no tool calls') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# Stanford Alpaca, train.py, PROMPT_DICT["prompt_no_input"]; the answer follows "### Response:" directly and ends
# with the end token. An input is part of the user's text, as the alpaca format makes it. Alpaca itself has one
# turn; further turns repeat the headings.
_ALPACA = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}"
    "{% set system = 'Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.' %}"
    "{% set turns = messages %}"
    "{% endif %}"
    "{{ system }}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\n### Instruction:\\n' + message['content'] }}"
    "{% elif message['role'] == 'assistant' and not message['tool_calls'] %}"
    "{{ '\\n\\n### Response:' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('alpaca shows user and assistant turns only, and no tool calls') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n### Response:' }}{% endif %}"
)

# ChatML as OpenAI published it (openai-python, chatml.md) and as Qwen, SmolLM and others use it.
_CHATML = (
    "{% for message in messages %}"
    "{% if message['tool_calls'] %}{{ raise_exception('the built-in chatml shows no tool calls') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Our own: nothing but the texts, a line each, and the end token after an answer.
_PLAIN = (
    "{% for message in messages %}"
    "{% if message['tool_calls'] %}{{ raise_exception('plain shows no tool calls') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
)

BUILT_IN: Mapping[str, str] = {"vicuna_v1.1": _VICUNA, "alpaca": _ALPACA, "chatml": _CHATML, "plain": _PLAIN}

REQUIRED_TOKENS: Mapping[str, tuple[str, ...]] = {"chatml": ("<|im_start|>", "<|im_end|>")}
"""Tokens a built-in template needs as single tokens of the tokenizer."""

TOKENIZER = "tokenizer"
"""The name that means: the template that comes with the tokenizer."""

Tools = Sequence[Mapping[str, Any]] | None


class Render(Protocol):
    """(messages, add_generation_prompt, tools on offer) to text."""

    def __call__(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, tools: Tools = None, /
    ) -> str: ...


def find(folder: Path, name: str) -> str:
    """Return the text of the template called `name` for the model in `folder`.

    Args:
        folder: a model folder.
        name: one of `BUILT_IN`, or ``tokenizer`` for the folder's own: ``chat_template.jinja``, else
            ``chat_template`` in tokenizer_config.json (a text, or a list of named ones, of which ``default``).

    Raises:
        ModelError: no such name, or the folder has no template.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name != TOKENIZER:
        raise ModelError(f"there is no template {name!r}.{did_you_mean(name, [TOKENIZER, *BUILT_IN])}")
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    for file in ("tokenizer_config.json", "chat_template.json"):
        text = _default(_json(folder / file).get("chat_template"))
        if text:
            return text
    raise ModelError(
        f"the tokenizer in {folder} has no chat template (no chat_template.jinja, none in tokenizer_config.json); "
        f"set training.template to one of {', '.join(BUILT_IN)}"
    )


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the tokenizer's named special tokens, such as ``eos_token``, as chat templates take them."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in _json(folder / file).items():
            value = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(value, str):
                found[key] = value
    return found


def compile(text: str, tokens: Mapping[str, str]) -> Render:
    """Return a function that renders conversations.

    The environment is the ecosystem's (transformers, utils/chat_template_utils.py): a sandbox, trimmed blocks,
    loop controls, ``raise_exception``, ``tojson`` without escapes, ``{% generation %}`` blocks. What it has not
    is ``strftime_now``: a date in the prompt would give each day its own tokens. Templates that ask whether it
    is defined use their own fixed date; calling it is an error.

    Args:
        text: the template.
        tokens: values for ``eos_token`` and the like.

    Raises:
        ModelError: the template is no valid Jinja; when rendering, it calls ``strftime_now``.
        ValueError: when rendering, the template refuses the conversation.
    """
    try:
        template = environment().from_string(text)
    except jinja2.TemplateError as error:
        raise ModelError(f"the chat template is no valid Jinja: {error}; set training.template") from None

    def render(messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, tools: Tools = None) -> str:
        # Some templates ask whether `tools` is defined and cannot take None.
        offered = {"tools": tools} if tools else {}
        try:
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **offered, **tokens)
        except jinja2.UndefinedError as error:
            if "strftime_now" in str(error):
                raise ModelError(_NO_DATE) from None
            raise ValueError(f"the template refuses the row: {error}") from None
        except (jinja2.TemplateError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"the template refuses the row: {error}") from None

    return render


def environment() -> jinja2.Environment:
    """Return what templates are read and rendered with; see `compile`."""
    found = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    found.filters["tojson"] = _tojson
    found.globals["raise_exception"] = _raise
    return found


_NO_DATE = (
    "the chat template writes today's date into the prompt (strftime_now), so that the same data would give "
    "other tokens tomorrow; give every row a system turn if that keeps the template from it, put a template "
    f"with a fixed date into the model folder, or set training.template to one of {', '.join(BUILT_IN)}"
)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is broken JSON: {error}; fetch the model again") from None
    return data if isinstance(data, dict) else {}


def _default(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        text = named.get("default")
        return text if isinstance(text, str) else ""
    return ""


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(jinja2.ext.Extension):
    """Accept ``{% generation %}`` blocks as plain blocks; our masks do not depend on them."""

    tags = {"generation"}  # noqa: RUF012  jinja2 reads it from the class

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))
