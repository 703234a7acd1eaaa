"""Scores equal a plain reference, come back in input order, and do not hang on the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee.engine import attention, head, loading, prompts, scoring, tiles  # noqa: E402
from cuvee.engine.flat import flatten  # noqa: E402
from cuvee.protocols import Likelihood, TokenRow  # noqa: E402

from .conftest import RUNTIME, make_rows, silent  # noqa: E402

ROWS = [*make_rows(30), TokenRow([5, 6, 7], []), TokenRow([], [])]


def reference(folder: Path, row: TokenRow) -> Likelihood:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    ids = torch.tensor([list(row.ids)])
    with torch.no_grad():
        odds = torch.log_softmax(model(input_ids=ids).logits[0], -1)
    places = [i for start, end in row.spans for i in range(start, end) if i]
    return Likelihood(-sum(float(odds[i - 1, row.ids[i]]) for i in places), len(places))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "bloom"])
def test_scores_equal_the_reference_in_input_order(kind: str, model_folder: Callable[[str], Path]) -> None:
    found = scoring.score(model_folder(kind), ROWS, RUNTIME, silent)
    for row, likelihood in list(zip(ROWS, found, strict=True))[:30:4]:
        expected = reference(model_folder(kind), row)
        assert likelihood.tokens == expected.tokens
        assert likelihood.nll == pytest.approx(expected.nll, rel=1e-5)
    assert found[-2:] == [Likelihood(0.0, 0), Likelihood(0.0, 0)]


def test_neighbours_change_nothing_but_rounding(model_folder: Callable[[str], Path]) -> None:
    together = scoring.score(model_folder("llama"), ROWS, replace(RUNTIME, micro_tokens=100_000), silent)
    assert scoring.score(model_folder("llama"), [TokenRow([5], [(0, 1)])], RUNTIME, silent) == [Likelihood(0.0, 0)]
    alone = [scoring.score(model_folder("llama"), [row], RUNTIME, silent)[0] for row in ROWS]
    for a, b in zip(together, alone, strict=True):
        assert a.nll == pytest.approx(b.nll, rel=1e-5)


def test_the_model_is_loaded_once_and_again_when_its_files_change(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model_folder("llama"), folder)
    calls: list[Path] = []
    original = loading.load

    def counting(place: Path, *rest: Any) -> Any:
        calls.append(place)
        return original(place, *rest)

    monkeypatch.setattr(loading, "load", counting)
    for _ in range(3):
        scoring.score(folder, ROWS[:2], RUNTIME, silent)
    assert len(calls) == 1
    os.utime(folder / "model.safetensors", (1, 1))
    scoring.score(folder, ROWS[:2], RUNTIME, silent)
    assert len(calls) == 2


def sampled(prompts: int, answers: int) -> list[TokenRow]:
    """Return several answers to each prompt, with a token behind them that no loss sees."""
    draw = torch.Generator().manual_seed(1)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, 90, (count,), generator=draw).tolist()

    shared = [tokens(12) for _ in range(prompts)]
    return [TokenRow([*prompt, *tokens(5 + n), 2], [(12, 17 + n)]) for n in range(answers) for prompt in shared]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_prompt_that_rows_share_goes_through_the_model_once(
    kind: str, model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*ROWS[:6], *sampled(3, 4), *ROWS[6:]]
    found = prompts.groups(rows, range(len(rows)), 64)
    assert [numbers for numbers, _ in found] == [[6 + n + 3 * k for k in range(4)] for n in range(3)]
    assert prompts.groups(rows, range(len(rows)), 18) != found, "what the model cannot hold stays by itself"
    shared = scoring.score(model_folder(kind), rows, RUNTIME, silent, journal=tmp_path / "scored.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["scored.jsonl"]
    monkeypatch.setattr(prompts, "WORTH", 2.0)
    alone = scoring.score(model_folder(kind), rows, RUNTIME, silent)
    assert [one.tokens for one in shared] == [one.tokens for one in alone]
    assert [one.nll for one in shared] == pytest.approx([one.nll for one in alone], rel=1e-5)


def test_no_rows_no_scores(model_folder: Callable[[str], Path]) -> None:
    assert scoring.score(model_folder("llama"), [], RUNTIME, silent) == []


def test_a_model_that_differs_between_the_layouts_is_scored_one_by_one(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scoring.score(model_folder("llama"), ROWS, RUNTIME, silent)
    loading.forget()
    right, flats = scoring.token_statistics, []

    def wrong(model: Any, flat: Any, *, segments: bool, **how: Any) -> Any:
        flats.append(segments)
        nll, entropy = right(model, flat, segments=segments, **how)
        return nll * (1.01 if segments else 1.0), entropy

    # The probe made at loading sees nothing of it.
    monkeypatch.setattr(scoring, "token_statistics", wrong)
    notes: list[str] = []
    found = scoring.score(
        model_folder("llama"), ROWS, RUNTIME, lambda facts: notes.append(facts["note"]) if "note" in facts else None
    )
    assert [one.nll for one in found] == pytest.approx([one.nll for one in expected], rel=1e-5)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    (note,) = notes
    assert "flat and single loss of the longest row differ by 1.0e-02" in note
    assert flats == [False, False, True, *[False] * 30]


def test_layouts_that_agree_cost_one_row_more_and_stay_flat(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading.forget()
    right, seen = scoring.token_statistics, []

    def watched(model: Any, flat: Any, *, segments: bool, chunked: bool, **how: Any) -> Any:
        seen.append((segments, model.config._attn_implementation, len(flat.lengths), chunked))
        return right(model, flat, segments=segments, chunked=chunked, **how)

    monkeypatch.setattr(scoring, "token_statistics", watched)
    scoring.score(
        model_folder("llama"), ROWS, RUNTIME, lambda facts: pytest.fail("nothing to say") if "note" in facts else None
    )
    probe, seen = seen[:2], seen[2:]
    assert [chunked for *_, chunked in probe] == [True, False]
    alone = [(name, rows) for segments, name, rows, _ in seen if not segments]
    assert [rows for _, rows in alone] == [1]
    assert {name for segments, name, *_ in seen if segments} == {attention.NAME}
    assert attention.NAME not in {name for name, _ in alone}
    assert sum(rows for segments, _, rows, _ in seen if segments) == 30


def test_a_longer_row_is_compared_again_and_a_shorter_one_is_not(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = scoring.token_statistics

    def wrong(model: Any, flat: Any, *, segments: bool, **how: Any) -> Any:
        nll, entropy = right(model, flat, segments=segments, **how)
        return nll * (1.01 if segments and max(flat.lengths) > 20 else 1.0), entropy

    monkeypatch.setattr(scoring, "token_statistics", wrong)
    short, long = [row for row in ROWS if len(row.ids) <= 20], ROWS
    folder, notes = model_folder("llama"), []
    loading.forget()
    for rows in (short, long, short, long):
        scoring.score(folder, rows, RUNTIME, lambda facts: notes.append(facts["note"]) if "note" in facts else None)
    assert len(notes) == 2
    assert loading.cached(folder, "float32", torch.device("cpu")).agreed == max(len(row.ids) for row in short)


@pytest.mark.parametrize("reached", ["what is before", "what is behind"])
def test_a_row_that_sees_its_neighbours_is_found(
    reached: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scoring.score(model_folder("llama"), ROWS, RUNTIME, silent)
    loading.forget()
    right = scoring.token_statistics

    def leaks(model: Any, flat: Any, *, segments: bool, **how: Any) -> Any:
        nll, entropy = right(model, flat, segments=segments, **how)
        spared = 0 if reached == "what is before" else len(flat.lengths) - 1
        return nll * torch.from_numpy(1 + 0.01 * (segments & (flat.owner != spared))).float(), entropy

    monkeypatch.setattr(scoring, "token_statistics", leaks)
    found = scoring.score(model_folder("llama"), ROWS, RUNTIME, silent)
    assert [one.nll for one in found] == pytest.approx([one.nll for one in expected], rel=1e-5)


def test_the_longest_row_is_compared_in_company_whatever_the_budget(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, seen = scoring.token_statistics, []

    def mixed_up(model: Any, flat: Any, *, segments: bool, **how: Any) -> Any:
        seen.append((segments, len(flat.lengths)))
        nll, entropy = right(model, flat, segments=segments, **how)
        return nll * (1.01 if segments and len(flat.lengths) > 1 else 1.0), entropy

    expected = scoring.score(model_folder("llama"), ROWS, RUNTIME, silent)
    loading.forget()
    monkeypatch.setattr(scoring, "token_statistics", mixed_up)
    monkeypatch.setattr(scoring, "CPU_TOKENS", 40)  # two of the longest rows are more: the shortest come along
    notes: list[str] = []
    rows = [*ROWS, TokenRow(list(range(3, 38)), [])]  # the longest of all has nothing to compare
    found = scoring.score(
        model_folder("llama"), rows, RUNTIME, lambda facts: notes.append(facts["note"]) if "note" in facts else None
    )
    assert [rows for segments, rows in seen if segments] == [3]
    assert [one.nll for one in found[: len(ROWS)]] == pytest.approx([one.nll for one in expected], rel=1e-5)
    assert len(notes) == 1


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2", "phi"])
def test_a_plain_head_goes_through_the_vocabulary_in_tiles(
    kind: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 20)  # the last tile has 16 of 96
    monkeypatch.setattr(tiles, "ROWS", 3)
    loaded = loading.load(model_folder(kind), "float32", torch.device("cpu"))
    loaded.use("single")
    flat = flatten([ROWS[0]], torch.device("cpu"))
    assert head.plain_head(loaded.model)
    with torch.inference_mode():
        found = head.token_statistics(loaded.model, flat, segments=False, chunked=True, tiled=True, entropy=True)
        odds = loaded.model(input_ids=flat.ids).logits[0, flat.keep].double().log_softmax(-1)
        alone, _ = head.token_statistics(loaded.model, flat, segments=False, chunked=True, tiled=True)
    expected = (-odds.gather(1, flat.targets[:, None])[:, 0], -(odds.exp() * odds).sum(1))
    for one, right in zip((*found, alone), (*expected, expected[0]), strict=True):
        assert one is not None
        assert one.tolist() == pytest.approx(right.tolist(), abs=1e-5)


def test_a_head_that_bends_or_breaks_is_not_tiled(model_folder: Callable[[str], Path]) -> None:
    softcapped = loading.load(model_folder("gemma2"), "float32", torch.device("cpu"))
    assert not head.plain_head(softcapped.model)
    layer = torch.nn.Linear(8, 30)
    with torch.inference_mode():
        assert tiles.is_plain(layer, layer)
        assert not tiles.is_plain(layer, lambda hidden: layer(hidden) / 2)
        assert not tiles.is_plain(layer, lambda hidden: torch.nan * layer(hidden))


def test_large_logits_and_those_that_are_no_number_give_what_the_plain_formula_gives() -> None:
    layer = torch.nn.Linear(1, 3000, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-300, 300, 3000)[:, None])
    hidden, targets = torch.tensor([[1.0], [-1.0], [torch.nan]]), torch.tensor([2999, 2999, 5])
    with torch.inference_mode():
        nll, entropy = tiles.statistics(layer, hidden, targets, True)
        odds = layer(hidden).double().log_softmax(1)
    assert entropy is not None
    assert nll[:2].tolist() == pytest.approx((-odds.gather(1, targets[:, None])[:2, 0]).tolist(), rel=1e-6, abs=1e-5)
    assert entropy[:2].tolist() == pytest.approx((-(odds.exp() * odds).sum(1)[:2]).tolist(), rel=1e-4)
    assert nll[2].isnan()


@pytest.mark.parametrize("kind", ["llama-tied", "gemma2", "gpt2", "bloom", "neox", "phi"])
def test_the_head_by_itself_in_chunks_gives_what_the_whole_model_gives(
    kind: str, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK", 4 * 96)  # four positions at a time
    loaded = loading.load(model_folder(kind), "float32", torch.device("cpu"))
    loaded.use("single")
    flat = flatten([ROWS[0]], torch.device("cpu"))
    with torch.inference_mode():
        apart = head.token_statistics(loaded.model, flat, segments=False, chunked=True, entropy=True)
        whole = head.token_statistics(loaded.model, flat, segments=False, chunked=False, entropy=True)
        logits = loaded.model(input_ids=flat.ids).logits[0, flat.keep].double()
    odds = logits.log_softmax(-1)
    expected = (-odds.gather(1, flat.targets[:, None])[:, 0], -(odds.exp() * odds).sum(1))
    for found in (apart, whole):
        for one, right in zip(found, expected, strict=True):
            assert one is not None
            torch.testing.assert_close(one.double(), right, rtol=1e-4, atol=1e-5)


def test_no_more_logits_than_a_chunk_are_made_at_once(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK", 4 * 96)
    monkeypatch.setattr(scoring, "PROBED", 5)
    monkeypatch.setattr(scoring, "plain_head", lambda model: False)  # one that is plain makes no row of logits at all
    loading.forget()
    loaded = loading.cached(model_folder("llama"), "float32", torch.device("cpu"))
    sizes: list[int] = []
    hook = loaded.model.lm_head.register_forward_hook(lambda *given: sizes.append(given[2].shape[-2]))
    found = scoring.score(model_folder("llama"), ROWS, RUNTIME, silent, entropy=True)
    hook.remove()
    assert max(sizes) == 4
    assert sum(one.tokens for one in found) + 4 + 4 <= sum(sizes)  # the probe, and one row twice
    assert all(one.entropy is not None and 0 <= one.entropy <= one.tokens * 4.57 for one in found)  # log 96 = 4.564


@pytest.mark.parametrize("layout", ["flat", "single"])
def test_a_stopped_scoring_goes_on_where_it_was_to_the_last_digit(
    layout: str, model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    likeness = scoring.token_statistics

    def differs(model: Any, flat: Any, *, segments: bool, **how: Any) -> Any:
        nll, entropy = likeness(model, flat, segments=segments, **how)
        return nll * (1.01 if segments and layout == "single" and max(flat.lengths) > 20 else 1.0), entropy

    monkeypatch.setattr(scoring, "token_statistics", differs)
    monkeypatch.setattr(scoring, "CPU_TOKENS", 80)
    loading.forget()
    expected = scoring.score(model_folder("llama"), ROWS, RUNTIME, silent, each=True)
    journal, right, batches = tmp_path / "scores.jsonl", scoring._Scorer.score, []

    def stops(self: Any, examples: Any) -> Any:
        batches.append(len(examples))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return right(self, examples)

    monkeypatch.setattr(scoring._Scorer, "score", stops)
    with pytest.raises(KeyboardInterrupt):
        scoring.score(model_folder("llama"), ROWS, RUNTIME, silent, journal=journal, each=True)
    with open(journal, "a", encoding="utf-8") as log:
        log.write('{"rows": [1, 2')  # what a kill left of a line
    loading.forget()  # another process
    found = scoring.score(model_folder("llama"), ROWS, RUNTIME, silent, journal=journal, each=True)
    assert sum(batches) == len(ROWS) + batches[2]
    assert found == expected
    assert scoring.score(tmp_path / "no model is needed", ROWS, RUNTIME, silent, journal=journal, each=True) == found
