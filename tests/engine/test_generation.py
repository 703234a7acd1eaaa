"""Answers equal those of transformers' own generate, prompt by prompt; stops and limits are honoured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee.engine import generation  # noqa: E402
from cuvee.errors import StageFailed, UsageError  # noqa: E402

from .conftest import RUNTIME, make_rows, silent  # noqa: E402

PROMPTS = [row.ids for row in make_rows(24, seed=5)]


def reference(folder: Path, prompt: Sequence[int], new: int, stops: list[int]) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([list(prompt)])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=stops or None,
        pad_token_id=0,
    )
    return list(found[0, len(prompt) :].tolist())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma2", "neox", "mistral", "phi", "bloom"])
def test_answers_equal_transformers_own_generate(kind: str, model_folder: Callable[[str], Path]) -> None:
    replies = generation.generate(model_folder(kind), PROMPTS, 12, [], RUNTIME, silent)
    for prompt, reply in list(zip(PROMPTS, replies, strict=True))[::5]:
        assert list(reply.ids) == reference(model_folder(kind), prompt, 12, [])
        assert reply.finish == "length"


def test_stop_tokens_end_an_answer_and_are_not_part_of_it(model_folder: Callable[[str], Path]) -> None:
    free = generation.generate(model_folder("llama"), PROMPTS, 20, [], RUNTIME, silent)
    stops = sorted({reply.ids[7] for reply in free[::3]})
    replies = generation.generate(model_folder("llama"), PROMPTS, 20, stops, RUNTIME, silent)
    for whole, reply in zip(free, replies, strict=True):
        cut = next((i for i, token in enumerate(whole.ids) if token in stops), None)
        assert list(reply.ids) == list(whole.ids[:cut])
        assert reply.finish == ("length" if cut is None else "stop")
    assert {reply.finish for reply in replies} == {"stop", "length"}


def test_batches_change_nothing(model_folder: Callable[[str], Path]) -> None:
    wide = generation.generate(model_folder("llama"), PROMPTS, 9, [7], RUNTIME, silent)
    narrow = generation.generate(model_folder("llama"), PROMPTS, 9, [7], replace(RUNTIME, micro_tokens=8), silent)
    assert wide == narrow


def test_a_table_of_positions_ends_the_answer(model_folder: Callable[[str], Path]) -> None:
    replies = generation.generate(model_folder("gpt2"), [[5] * 120, [6, 7]], 50, [], RUNTIME, silent)
    assert [len(reply.ids) for reply in replies] == [8, 50]
    with pytest.raises(StageFailed, match="no room for an answer"):
        generation.generate(model_folder("gpt2"), [[5] * 128], 1, [], RUNTIME, silent)


def test_impossible_requests_are_errors_not_answers(model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(StageFailed, match="prompt 1 is empty"):
        generation.generate(model_folder("llama"), [[5], []], 4, [], RUNTIME, silent)
    with pytest.raises(UsageError, match="at least 1"):
        generation.generate(model_folder("llama"), PROMPTS, 0, [], RUNTIME, silent)
    assert generation.generate(model_folder("llama"), [], 4, [], RUNTIME, silent) == []
