"""Scores equal a plain reference, come back in input order, and do not hang on the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee.engine import attention, loading, scoring  # noqa: E402
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


def test_no_rows_no_scores(model_folder: Callable[[str], Path]) -> None:
    assert scoring.score(model_folder("llama"), [], RUNTIME, silent) == []


def test_a_first_batch_that_differs_between_the_layouts_is_scored_one_by_one(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scoring.score(model_folder("llama"), ROWS, RUNTIME, silent)
    right, flats = scoring.token_losses, []

    def wrong(model: Any, flat: Any, *, segments: bool) -> Any:
        flats.append(segments)
        return right(model, flat, segments=segments) * (1.01 if segments else 1.0)

    # The probe made at loading sees nothing of it.
    monkeypatch.setattr(scoring, "token_losses", wrong)
    notes: list[str] = []
    found = scoring.score(
        model_folder("llama"), ROWS, RUNTIME, lambda facts: notes.append(facts["note"]) if "note" in facts else None
    )
    assert [one.nll for one in found] == pytest.approx([one.nll for one in expected], rel=1e-5)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    (note,) = notes
    assert "flat and single loss of the first batch differ by 1.0e-02" in note
    assert flats == [True, *[False] * 30]


def test_layouts_that_agree_cost_one_batch_more_and_stay_flat(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, seen = scoring.token_losses, []

    def watched(model: Any, flat: Any, *, segments: bool) -> Any:
        seen.append((segments, model.config._attn_implementation, len(flat.lengths)))
        return right(model, flat, segments=segments)

    monkeypatch.setattr(scoring, "token_losses", watched)
    scoring.score(
        model_folder("llama"), ROWS, RUNTIME, lambda facts: pytest.fail("nothing to say") if "note" in facts else None
    )
    alone = [(name, rows) for segments, name, rows in seen if not segments]
    first = seen[0][2]
    assert [rows for _, rows in alone] == [1] * first
    assert {name for segments, name, _ in seen if segments} == {attention.NAME}
    assert attention.NAME not in {name for name, _ in alone}
    assert sum(rows for segments, _, rows in seen if segments) == 30
