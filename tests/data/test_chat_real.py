"""Masks and tokens on real templates, a real tokenizer and real conversations, against transformers."""

from __future__ import annotations

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cuvee.data import examples, files, formats, rendered, templates
from cuvee.data.chat import Chat
from cuvee.errors import ModelError
from cuvee.values import Example, Message

pytestmark = pytest.mark.real

# The template, the token that closes an answer in the middle, and the one at the end; "" where there is none.
TEMPLATES = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",) * 2,
    "GLM-4.6": ("<|user|>", ""),
    "HuggingFaceTB-SmolLM3-3B": ("<|im_end|>",) * 2,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("<|im_end|>",) * 2,
    "Qwen-Qwen2.5-7B-Instruct": ("<|im_end|>",) * 2,
    "Qwen-Qwen3-0.6B": ("<|im_end|>",) * 2,
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("<｜end▁of▁sentence｜>",) * 2,
    "google-gemma-2-2b-it": ("<end_of_turn>",) * 2,
    "ibm-granite-granite-3.3-2B-Instruct": ("<|end_of_text|>",) * 2,
    "meta-llama-Llama-3.1-8B-Instruct": ("<|eot_id|>",) * 2,
    "meta-llama-Llama-3.2-3B-Instruct": ("<|eot_id|>",) * 2,
    "microsoft-Phi-3.5-mini-instruct": ("<|end|>",) * 2,
    "mistralai-Mistral-Nemo-Instruct-2407": ("</s>",) * 2,
    "openai-gpt-oss-120b": ("<|end|>", "<|return|>"),
}
EOS = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "<|END_OF_TURN_TOKEN|>",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "<｜end▁of▁sentence｜>",
    "ibm-granite-granite-3.3-2B-Instruct": "<|end_of_text|>",
    "mistralai-Mistral-Nemo-Instruct-2407": "</s>",
    "openai-gpt-oss-120b": "<|return|>",
}
# What templates say of calls of tools: those that cannot show them, or not as they are in the file.
REFUSED = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "the template does not show where an answer that calls tools lies",
    "HuggingFaceTB-SmolLM3-3B": "the template shows nothing of a tool call",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "the template shows nothing of a tool call",
    "google-gemma-2-2b-it": "the template refuses the row: Conversation roles must alternate",
    "ibm-granite-granite-3.3-2B-Instruct": "the template shows nothing of a tool call",
    "microsoft-Phi-3.5-mini-instruct": "the template shows nothing of a tool call",
    "mistralai-Mistral-Nemo-Instruct-2407": "the template refuses the row: Tool call IDs",
}
TURN = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|<\|start\|>user|<\|user\|>.")
DATED = ("ibm-granite-granite-3.3-2B-Instruct", "openai-gpt-oss-120b")
TOKEN = re.compile(r"<\|[^|<>\s]+\|>|<｜[^<>\s]+｜>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]")


def folder_for(name: str, shared: Path, folder: Path) -> Path:
    """Put a real template on the real SmolLM2 tokenizer, with the template's control tokens added to it."""
    source = (shared / "models" / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    if name in DATED:
        source = source.replace("strftime_now(", "'%Y' | string | replace('x', ")
        source = re.sub(r"'%Y' \| string \| replace\('x', [^)]*\)", "'today'", source)
    tokenizer = json.loads((shared / "models/smollm2-135m-instruct/tokenizer.json").read_text(encoding="utf-8"))
    eos = EOS.get(name, "</s>")
    known = {token["content"] for token in tokenizer["added_tokens"]} | set(tokenizer["model"]["vocab"])
    wanted = dict.fromkeys([*TOKEN.findall(source), *TEMPLATES[name], "<s>", eos])
    for token in wanted:
        for part in TOKEN.findall(token) or [token]:
            if part and part not in known:
                known.add(part)
                given = {"id": len(known), "content": part, "special": True}
                given |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
                tokenizer["added_tokens"].append(given)
    _renumber(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return folder


def _renumber(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    following = max(vocabulary.values())
    for token in tokenizer["added_tokens"]:
        if token["content"] not in vocabulary:
            following += 1
            token["id"] = following


def conversations(shared: Path) -> list[Example]:
    """Return real conversations that every template accepts: turns alternate and start with the user."""
    found = []
    for name, format in (("chat/lima", "alpaca"), ("chat/human_llm_multiturn", "messages"), ("math/gsm8k_train", "")):
        rows = files.sample(shared / "data" / f"{name}.jsonl.gz", 40)
        for line, row in rows:
            assert isinstance(row, dict)
            try:
                example = formats.example(row, format or "question_answer", path=name, line=line)
            except ValueError:
                continue
            roles = [message.role for message in example.messages]
            if roles == ["user", "assistant"] * (len(roles) // 2):
                found.append(example)
    tricky = [" padded \n", "<b>x</b>", "assistant", "...", "   code\n\tindented\n"]
    found += [Example((Message("user", "Say it"), Message("assistant", text)) * 2) for text in tricky]
    return found


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_real_templates_supervise_each_answer_and_its_end(name: str, shared: Path, tmp_path: Path) -> None:
    chat = Chat(folder_for(name, shared, tmp_path))
    talks = conversations(shared)
    assert len(talks) > 90
    middle, last = TEMPLATES[name]
    for example, row in zip(talks, chat.render(talks), strict=True):
        assert row.status == "kept", row.reason
        expected = [message.content for message in example.messages if message.role == "assistant"]
        shown = [chat.text(row.ids[start:end]) for start, end in row.spans]
        assert len(shown) == len(expected)
        for number, (text, content) in enumerate(zip(shown, expected, strict=True), start=1):
            end = last if number == len(expected) else middle
            assert text.endswith(end)
            body = text[: len(text) - len(end)]
            # Templates may strip an answer; a token may bring white space along from before it.
            assert body.strip() == content.strip()


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_real_templates_give_the_tokens_of_transformers(name: str, shared: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_for(name, shared, tmp_path)
    if name == "meta-llama-Llama-3.2-3B-Instruct":
        # transformers always offers a date; without one the template falls back to its own, as ours does.
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        (folder / "chat_template.jinja").write_text(source.replace("strftime_now is defined", "false"))
    chat, reference = Chat(folder), transformers.AutoTokenizer.from_pretrained(folder)
    talks = conversations(shared)[::4]
    # transformers passes tools=None, which this template of a tool-calling model cannot take.
    more: dict[str, Any] = {"tools": []} if "Hermes" in name else {}
    for example, row in zip(talks, chat.render(talks), strict=True):
        messages = [message.as_dict() for message in example.messages]
        assert list(row.ids) == reference.apply_chat_template(messages, tokenize=True, return_dict=False, **more)
        prompt = reference.apply_chat_template(
            messages[:-1], tokenize=True, return_dict=False, add_generation_prompt=True, **more
        )
        assert chat.prompt(example.messages[:-1]) == prompt


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_real_tool_calls_are_supervised_or_drop_their_row_with_a_reason(
    name: str, shared: Path, tmp_path: Path
) -> None:
    source = files.rows(shared / "data/chat/glaive_toolcall_en_300.jsonl.gz")
    talks = [example for example in formats.examples(source, "sharegpt") if isinstance(example, Example)]
    rows = Chat(folder_for(name, shared, tmp_path)).render(talks)
    calling = [any("tool_calls" in message.extra for message in talk.messages) for talk in talks]
    assert (len(talks), sum(calling)) == (300, 153)
    reason = REFUSED.get(name)
    assert {row.status for row, calls in zip(rows, calling, strict=True) if not calls} == {"kept"}
    if reason is not None:
        assert all(row.reason.startswith(reason) for row, calls in zip(rows, calling, strict=True) if calls)
        return
    chat = Chat(tmp_path)
    for talk, row in zip(talks, rows, strict=True):
        answers = [message for message in talk.messages if message.role == "assistant"]
        shown = [chat.text(row.ids[start:end]) for start, end in row.spans]
        for message, text in zip(answers, shown, strict=True):
            for call in message.extra.get("tool_calls", ()):
                assert call["function"]["name"] in text
            assert message.content.strip() in text
            assert not TURN.search(text)


@pytest.mark.parametrize("name", DATED)
def test_templates_that_write_todays_date_are_refused(name: str, shared: Path, tmp_path: Path) -> None:
    folder = folder_for(name, shared, tmp_path)
    shutil.copy(shared / "models" / "templates" / f"{name}.jinja", folder / "chat_template.jinja")
    with pytest.raises(ModelError, match=r"strftime_now"):
        Chat(folder).render([Example((Message("user", "Hi"), Message("assistant", "Hello")))])


def test_gemma_refuses_system_turns_row_by_row(shared: Path, tmp_path: Path) -> None:
    chat = Chat(folder_for("google-gemma-2-2b-it", shared, tmp_path))
    turns = (Message("user", "Hi"), Message("assistant", "Hello"))
    rows = chat.render([Example((Message("system", "Be brief."), *turns)), Example(turns)])
    assert [row.status for row in rows] == ["dropped", "kept"]
    assert "System role not supported" in rows[0].reason


def test_qwen3_reasoning_is_supervised_where_it_is_shown(shared: Path, tmp_path: Path) -> None:
    chat = Chat(folder_for("Qwen-Qwen3-0.6B", shared, tmp_path))
    thought = Message("assistant", "<think>\nEasy.\n</think>\n\n4")
    (row,) = chat.render([Example((Message("user", "2 + 2?"), thought) * 2)])
    shown = [chat.text(row.ids[start:end]) for start, end in row.spans]
    assert shown == ["4<|im_end|>", "<think>\nEasy.\n</think>\n\n4<|im_end|>"]


@pytest.mark.parametrize("template", [templates.TOKENIZER, "vicuna_v1.1", "alpaca", "chatml", "plain"])
def test_a_real_source_renders_with_every_row_accounted_for(template: str, shared: Path, tmp_path: Path) -> None:
    rows = files.sample(shared / "data/chat/sharegpt_sample_tagged.jsonl.gz", 120)
    found = []
    for line, row in rows:
        try:
            found.append(formats.example(row, "sharegpt", path="sharegpt", line=line))  # type: ignore[arg-type]
        except ValueError:
            continue
    examples.write(tmp_path, found, Fraction(0))
    chat = Chat(shared / "models/smollm2-135m-instruct", template, max_length=1024)
    summary = rendered.write(tmp_path, tmp_path, chat)
    assert summary["kept"] + summary["trimmed"] + summary["dropped"] == summary["rows"] == len(found)
    assert sum(summary["reasons"].values()) == summary["trimmed"] + summary["dropped"] > 0
    assert summary["open_turns"] == 0
    assert 0 < summary["supervised_tokens"] < summary["total_tokens"]
    assert summary["longest"] <= 1024
