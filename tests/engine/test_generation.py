"""Answers equal those of transformers' own generate, prompt by prompt; company, memory and kills change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee import engine  # noqa: E402
from cuvee.engine import generation, kv_cache, loading  # noqa: E402
from cuvee.engine.answer import Row  # noqa: E402
from cuvee.engine.decoding import Decoding, Prompt  # noqa: E402
from cuvee.engine.kv_cache import Begin, Pass, Slots  # noqa: E402
from cuvee.errors import StageFailed, UsageError  # noqa: E402
from cuvee.protocols import Reply  # noqa: E402

from .conftest import RUNTIME, make_rows, silent  # noqa: E402

PROMPTS = [Prompt(f"p{i}", row.ids) for i, row in enumerate(make_rows(24, seed=5))]
FLAT = ["llama", "llama-tied", "qwen2", "gemma2", "neox", "mistral", "phi", "phi3", "gpt2"]
DRAWN = Decoding(10, temperature=1.0, seed=4)

Folder = Callable[[str], Path]


def answers(
    folder: Path, prompts: Sequence[Prompt], settings: Decoding, stops: Sequence[int] = (), **changes: Any
) -> list[Reply]:
    """Generate with the small runtime; `journal` and `progress` are passed on, the rest changes the runtime."""
    progress, journal = changes.pop("progress", silent), changes.pop("journal", None)
    runtime = replace(RUNTIME, **changes)
    return generation.generate(folder, prompts, settings, stops, runtime, progress, journal=journal)


def reference(folder: Path, prompt: Prompt, new: int, stops: list[int]) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([list(prompt.ids)])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=stops or None,
        pad_token_id=0,
    )
    return list(found[0, len(prompt.ids) :].tolist())


@pytest.mark.parametrize("kind", [*FLAT, "bloom"])
def test_answers_equal_transformers_own_generate(kind: str, model_folder: Folder) -> None:
    replies = answers(model_folder(kind), PROMPTS, Decoding(12))
    for prompt, reply in list(zip(PROMPTS, replies, strict=True))[::5]:
        assert list(reply.ids) == reference(model_folder(kind), prompt, 12, [])
        assert reply.finish == "length"


@pytest.mark.parametrize("kind", FLAT)
def test_logits_in_a_full_table_are_those_of_the_row_alone(kind: str, model_folder: Folder) -> None:
    loaded = loading.load(model_folder(kind), "float32", torch.device("cpu"))
    model, rows = loaded.model, [[*p.ids, 7, 8] for p in PROMPTS]
    assert not loaded.obstacle
    with torch.inference_mode():
        loaded.use("single")
        alone = torch.cat([model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -2:] for row in rows])
        model.set_attn_implementation(kv_cache.NAME)
        slots = Slots(len(rows), 40)
        # Odd rows have a part of their prompt in the slot before the rest comes.
        past = [len(row) // 2 if i % 2 else 0 for i, row in enumerate(rows)]
        first = [Begin(i, 0, n) for i, n in enumerate(past) if n]
        generation.forward(
            model, torch.tensor([t for b in first for t in rows[b.slot][: b.new]]), Pass(slots, (), first, model.device)
        )
        rest = [Begin(i, n, len(row) - 1 - n) for i, (row, n) in enumerate(zip(rows, past, strict=True))]
        ids = torch.tensor([t for row, n in zip(rows, past, strict=True) for t in row[n:-1]])
        one = generation.forward(model, ids, Pass(slots, (), rest, model.device))
        last = torch.tensor([row[-1] for row in rows])
        two = generation.forward(model, last, Pass(slots, [len(row) - 1 for row in rows], (), model.device))
    found = torch.stack([one, two], 1).flatten(0, 1)
    assert float((found - alone).abs().max()) < 1e-4


def test_stop_tokens_end_an_answer_and_are_not_part_of_it(model_folder: Folder) -> None:
    for kind in ("llama", "bloom"):
        free = answers(model_folder(kind), PROMPTS, Decoding(20))
        stops = sorted({reply.ids[7] for reply in free[::3]})
        replies = answers(model_folder(kind), PROMPTS, Decoding(20), stops)
        for whole, reply in zip(free, replies, strict=True):
            cut = next((i for i, token in enumerate(whole.ids) if token in stops), None)
            assert list(reply.ids) == list(whole.ids[:cut])
            assert reply.finish == ("length" if cut is None else "stop")
        assert {reply.finish for reply in replies} == {"stop", "length"}


@pytest.mark.parametrize("settings", [Decoding(9), DRAWN, replace(DRAWN, top_p=0.8, samples=3)])
@pytest.mark.parametrize("kind", ["llama", "mistral", "bloom"])
def test_company_order_and_batch_size_change_nothing(settings: Decoding, kind: str, model_folder: Folder) -> None:
    folder, n = model_folder(kind), settings.samples
    wide = answers(folder, PROMPTS, settings, [7])
    assert answers(folder, PROMPTS, settings, [7], micro_tokens=8) == wide
    backwards = answers(folder, PROMPTS[::-1], settings, [7])
    for number in range(len(PROMPTS)):
        back = len(PROMPTS) - 1 - number
        assert backwards[back * n : back * n + n] == wide[number * n : number * n + n]
    assert answers(folder, PROMPTS[6:7], settings, [7]) == wide[6 * n : 7 * n]


def test_draws_hang_on_seed_request_and_sample_alone(model_folder: Folder) -> None:
    folder, same = model_folder("llama"), [Prompt("a", [5, 6, 7]), Prompt("b", [5, 6, 7])]
    replies = answers(folder, same, replace(DRAWN, samples=4))
    assert len({reply.ids for reply in replies}) == 8
    assert answers(folder, same[:1], DRAWN) == replies[:1]
    assert answers(folder, same[:1], replace(DRAWN, samples=2)) == replies[:2]
    assert answers(folder, same, replace(DRAWN, samples=4, seed=5)) != replies
    assert len({reply.ids for reply in answers(folder, same, Decoding(10, samples=4))}) == 1


def count_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of tokens of every pass."""
    passes: list[int] = []
    forward = generation.forward

    def counted(model: Any, ids: Any, now: Pass) -> Any:
        passes.append(len(ids))
        return forward(model, ids, now)

    monkeypatch.setattr(generation, "forward", counted)
    return passes


@pytest.mark.parametrize("micro_tokens", [8, 64, 1024])
def test_the_prompt_of_several_samples_is_computed_once(
    micro_tokens: int, model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_tokens(monkeypatch)
    prompt = Prompt("a", [5 + i % 80 for i in range(60)])
    replies = answers(model_folder("llama"), [prompt], replace(DRAWN, samples=6), micro_tokens=micro_tokens)
    # The probe has 7 tokens, the prompt 60; every token but the last of each answer is fed once, and so is
    # the prompt's last token by each further sample.
    assert sum(passes) == 7 + 60 + 5 + sum(len(reply.ids) - 1 for reply in replies)


def test_a_beginning_that_prompts_have_in_common_is_computed_once(
    model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = [5 + i % 80 for i in range(50)]
    prompts = [Prompt(f"q{i}", [*shots, 90 - i, 3, *range(4, 4 + i)]) for i in range(12)]
    alone = [answers(model_folder("gemma2"), [prompt], Decoding(6))[0] for prompt in prompts]
    passes = count_tokens(monkeypatch)
    assert answers(model_folder("gemma2"), prompts, Decoding(6), micro_tokens=1024) == alone
    assert sum(passes) == 7 + 50 + sum(len(prompt.ids) - 50 for prompt in prompts) + 12 * 5


@pytest.mark.parametrize("budget", [60, 200])
def test_a_table_that_outgrows_its_memory_sends_rows_back(
    budget: int, model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(DRAWN, max_new_tokens=60)
    free = answers(model_folder("llama"), PROMPTS, settings, [7])
    sizes: list[tuple[int, int]] = []
    resize = Slots.resize
    monkeypatch.setattr(Slots, "resize", lambda slots, n, room: (sizes.append((n, room)), resize(slots, n, room))[1])
    monkeypatch.setattr(generation, "ROOM", 4)
    monkeypatch.setattr(generation, "CACHE_FACTOR", 1)
    assert answers(model_folder("llama"), PROMPTS, settings, [7], micro_tokens=budget) == free
    assert sizes
    assert all(n == 1 or n * room <= budget for n, room in sizes)


def test_one_long_prompt_does_not_widen_the_slots_of_the_others(model_folder: Folder) -> None:
    prompts = [Prompt("long", [5] * 100), *PROMPTS]
    rows = [Row(i, p, 0, Decoding(5), frozenset(), 5) for i, p in enumerate(prompts)]
    assert len(next(generation._bands(rows, 200))) == 1
    assert [len(band) for band in generation._bands(rows, 1 << 20)] == [25]


def test_the_context_ends_an_answer(model_folder: Folder) -> None:
    for kind in ("gpt2", "llama"):
        prompts = [Prompt("a", [5] * 120), Prompt("b", [6, 7])]
        assert [len(reply.ids) for reply in answers(model_folder(kind), prompts, Decoding(50))] == [8, 50]
        with pytest.raises(StageFailed, match=r"request gsm/9 has 128 tokens .* context is 128: no room"):
            answers(model_folder(kind), [Prompt("gsm/9", [5] * 128)], Decoding(1))


def test_a_model_that_never_stops_is_cut(model_folder: Folder) -> None:
    (reply,) = answers(model_folder("llama"), [Prompt("a", [5, 6])], Decoding(100), [])
    assert (len(reply.ids), reply.finish) == (100, "length")


def test_impossible_requests_are_errors_not_answers(model_folder: Folder) -> None:
    folder = model_folder("llama")
    with pytest.raises(StageFailed, match="request q7 is empty"):
        answers(folder, [Prompt("a", [5]), Prompt("q7", [])], Decoding(4))
    with pytest.raises(StageFailed, match="1 request ids are there more than once, first a"):
        answers(folder, [Prompt("a", [5]), Prompt("a", [6])], Decoding(4))
    for wrong in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"samples": 0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Decoding(**{"max_new_tokens": 4, **wrong})
    assert answers(folder, [], Decoding(4)) == []


class Killed(Exception):
    """Stands for a kill."""


def kill_after(answers_written: int) -> Callable[[Any], None]:
    def progress(facts: Any) -> None:
        if facts.get("step", 0) >= answers_written:
            raise Killed

    return progress


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_a_kill_costs_unfinished_answers_only(
    kind: str, model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path, settings = model_folder(kind), tmp_path / "replies.jsonl", replace(DRAWN, samples=2)
    whole = answers(folder, PROMPTS, settings, [7])
    monkeypatch.setattr(generation.Ticker, "tick", lambda self, step, tokens: self._progress({"step": step}))
    with pytest.raises(Killed):
        answers(folder, PROMPTS, settings, [7], micro_tokens=16, journal=path, progress=kill_after(10))
    lines = path.read_text().splitlines()
    assert len(lines) == 11
    path.write_text("\n".join(lines)[:-9])  # the last line is cut
    notes: list[Any] = []
    steps: list[int] = []

    def progress(facts: Any) -> None:
        notes.extend([facts["note"]] if "note" in facts else [])
        steps.extend([facts["step"]] if "step" in facts else [])

    assert answers(folder, PROMPTS, settings, [7], journal=path, progress=progress) == whole
    assert "9 replies were there already" in notes
    assert len(steps) == 48 - 9
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 49
    assert answers(folder, PROMPTS, settings, [7], journal=path, progress=kill_after(1)) == whole


def test_a_journal_of_something_else_is_not_used(model_folder: Folder, tmp_path: Path) -> None:
    path, folder = tmp_path / "replies.jsonl", model_folder("llama")
    answers(folder, PROMPTS[:3], Decoding(5), journal=path)
    notes: list[Any] = []
    expected = answers(folder, PROMPTS[:3], Decoding(6))
    assert answers(folder, PROMPTS[:3], Decoding(6), journal=path, progress=notes.append) == expected
    assert "replies.jsonl holds replies of another model or other settings; it is begun anew" in [
        facts.get("note") for facts in notes
    ]
    # The same id with another prompt is another request.
    other = [Prompt("p0", [9, 9, 9]), *PROMPTS[1:3]]
    assert answers(folder, other, Decoding(6), journal=path) == answers(folder, other, Decoding(6))


def test_an_architecture_the_cache_cannot_serve_is_said(model_folder: Folder) -> None:
    notes: list[Any] = []
    answers(model_folder("bloom"), PROMPTS[:2], Decoding(2), progress=notes.append)
    assert any("transformers' own loop" in facts.get("note", "") for facts in notes)


def test_an_unknown_generator_is_refused_with_what_is_possible(model_folder: Folder) -> None:
    with pytest.raises(UsageError, match=r"generator 'vlm' is not possible\. Did you mean 'vllm'"):
        engine.for_model(model_folder("llama"), "vlm")


def test_weights_lie_as_before_and_can_be_trained_after_answers(model_folder: Folder) -> None:
    for kind in ("llama", "llama-tied"):
        loaded = loading.cached(model_folder(kind), "float32", torch.device("cpu"))
        before = {name: weight.clone() for name, weight in loaded.model.named_parameters()}
        with pytest.raises(Killed):
            answers(model_folder(kind), PROMPTS, Decoding(3), progress=kill_after(1))
        for name, weight in loaded.model.named_parameters():
            assert weight.is_contiguous(), name
            assert torch.equal(weight, before[name]), name
        loaded.use("single")
        loaded.model(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()
