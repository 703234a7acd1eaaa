"""The checks on real templates and real conversations: good data fails nothing, and real faults are found."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from cuvee.data import examples, files, formats, preflight, rendered
from cuvee.data.chat import Chat
from tests.data.test_chat_real import TEMPLATES, conversations, folder_for

pytestmark = pytest.mark.real

FAULTS = {
    # The next user turn alone closes an answer: nothing ends the last one.
    "GLM-4.6": {"end_token"},
    # The generation prompt opens a think block that training rows do not have.
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": {"template"},
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": {"template"},
}
"""What is wrong with the real templates themselves when a model is trained with them."""

GAPS = {
    "GLM-4.6": "<think></think>",
    "Qwen-Qwen3-0.6B": "<think>\n\n</think>",
    "openai-gpt-oss-120b": "<|channel|>final<|message|>",
}
"""What training shows between the generation prompt and an answer."""


def made(folder: Path, chat: Chat, rows: list[examples.Example]) -> preflight.Inputs:
    loaded, render = folder / "load", folder / "render"
    loaded.mkdir()
    render.mkdir()
    summary = examples.write(loaded, rows, Fraction(1, 2))
    source = preflight.Source("a" * 64, loaded, render, summary, rendered.write(render, loaded, chat))
    return preflight.Inputs([source], chat)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_good_rows_fail_nothing_but_what_is_wrong_with_the_template(name: str, shared: Path, tmp_path: Path) -> None:
    chat = Chat(folder_for(name, shared, tmp_path))
    inputs = made(tmp_path, chat, conversations(shared))
    found = {one.check: one for one in preflight.check(inputs, {})}
    assert {check for check, one in found.items() if one.level == "fail"} == FAULTS.get(name, set())
    assert found["mask"].numbers["sampled"] == len(inputs.sources[0].rows) > 90
    assert list(found["template"].numbers["gaps"]) == ([GAPS[name]] if name in GAPS else [])


@pytest.mark.parametrize("template", ["tokenizer", "vicuna_v1.1", "alpaca", "chatml", "plain"])
@pytest.mark.parametrize("rule", ["trim", "split", "drop"])
def test_a_real_source_fails_nothing_but_what_the_length_rule_costs(
    template: str, rule: str, shared: Path, tmp_path: Path
) -> None:
    found = []
    for line, row in files.sample(shared / "data/chat/sharegpt_sample_tagged.jsonl.gz", 300):
        try:
            found.append(formats.example(row, "sharegpt", path="sharegpt", line=line))  # type: ignore[arg-type]
        except ValueError:
            continue
    chat = Chat(shared / "models/smollm2-135m-instruct", template, max_length=1024, too_long=rule)
    checked = preflight.check(made(tmp_path, chat, found), {"max_lost": "1"})
    assert [one.check for one in checked if one.level == "fail"] == []
    assert next(one for one in checked if one.check == "lengths").numbers["lost"] > 0
