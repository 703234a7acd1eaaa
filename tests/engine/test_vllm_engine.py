"""What vLLM is asked for and what its answers become, with a stand-in for its module."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cuvee.engine import vllm_engine
from cuvee.engine.decoding import Decoding, Prompt
from cuvee.errors import ModelError, StageFailed, UsageError
from cuvee.protocols import Reply

from .conftest import RUNTIME, silent

PROMPTS = [Prompt("a", [5, 6]), Prompt("b", [7])]
SETTINGS = Decoding(4, temperature=0.5, top_p=0.9, samples=2, seed=3)


@dataclass
class StandIn:
    """Counts up from a prompt's last token; 9 stops, and four tokens are enough."""

    calls: list[Any]

    def LLM(self, **options: Any) -> Any:
        self.calls.append(options)
        if "broken" in options["model"]:
            raise ValueError("no such architecture\nand more")
        config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=16))
        return SimpleNamespace(generate=self.generate, llm_engine=config)

    def generate(self, asked: Any, how: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append((asked, how))
        found = []
        for request, params in zip(asked, how, strict=True):
            last = request["prompt_token_ids"][-1]
            ids = [last + 1 + i for i in range(params.max_tokens)]
            cut = next((i + 1 for i, token in enumerate(ids) if token in params.stop_token_ids), None)
            reason = "length" if cut is None else "stop"
            found.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids[:cut], finish_reason=reason)]))
        return found


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Put the stand-in in place; return what it is called with."""
    module, stand = ModuleType("vllm"), StandIn([])
    module.LLM, module.SamplingParams = stand.LLM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return stand.calls


def test_answers_come_in_order_without_their_stop_token(vllm: list[Any], tmp_path: Path) -> None:
    replies = vllm_engine.generate(tmp_path, PROMPTS, SETTINGS, [9], RUNTIME, silent)
    assert replies == [Reply((7, 8), "stop")] * 2 + [Reply((8,), "stop")] * 2
    replies = vllm_engine.generate(tmp_path, PROMPTS, SETTINGS, [], RUNTIME, silent)
    assert replies == [Reply((7, 8, 9, 10), "length")] * 2 + [Reply((8, 9, 10, 11), "length")] * 2


def test_settings_and_a_seed_of_its_own_reach_every_sample(vllm: list[Any], tmp_path: Path) -> None:
    vllm_engine.generate(tmp_path, PROMPTS, SETTINGS, [9], RUNTIME, silent, "bfloat16")
    options, (asked, how) = vllm
    assert (options["model"], options["dtype"]) == (str(tmp_path), "bfloat16")
    assert asked == [{"prompt_token_ids": [5, 6]}] * 2 + [{"prompt_token_ids": [7]}] * 2
    assert {(p.max_tokens, p.temperature, p.top_p, tuple(p.stop_token_ids)) for p in how} == {(4, 0.5, 0.9, (9,))}
    assert len({p.seed for p in how}) == 4
    vllm.clear()
    vllm_engine.generate(tmp_path, PROMPTS[1:], replace(SETTINGS, samples=1), [9], RUNTIME, silent)
    assert vllm[1][1][0].seed == how[2].seed


def test_what_is_in_the_journal_is_not_asked_again(vllm: list[Any], tmp_path: Path) -> None:
    journal = tmp_path / "work" / "replies.jsonl"
    first = vllm_engine.generate(tmp_path, PROMPTS[:1], SETTINGS, [9], RUNTIME, silent, journal=journal)
    vllm.clear()
    both = vllm_engine.generate(tmp_path, PROMPTS, SETTINGS, [9], RUNTIME, silent, journal=journal)
    assert both[:2] == first
    assert [request["prompt_token_ids"] for request in vllm[0][0]] == [[7], [7]]  # the model is held
    vllm.clear()
    assert vllm_engine.generate(tmp_path, PROMPTS, SETTINGS, [9], RUNTIME, silent, journal=journal) == both
    assert vllm == []


def test_faults_are_said_in_our_own_terms(vllm: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vllm_engine.generate(tmp_path, [], SETTINGS, [9], RUNTIME, silent) == []
    with pytest.raises(StageFailed, match="request long has 16 tokens"):
        vllm_engine.generate(tmp_path, [Prompt("long", [5] * 16)], SETTINGS, [9], RUNTIME, silent)
    with pytest.raises(ModelError, match=r"broken: vLLM cannot load it: no such architecture$"):
        vllm_engine.generate(tmp_path / "broken", PROMPTS, SETTINGS, [9], RUNTIME, silent)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match="generator vllm needs vllm"):
        vllm_engine.generate(tmp_path, PROMPTS, SETTINGS, [9], RUNTIME, silent)
