"""Flat rows, chunked loss and accumulation give the loss and gradients of a plain float64 reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee.engine import attention, example_losses, loading, loop, loss  # noqa: E402
from cuvee.engine.disk import Checkpoints  # noqa: E402
from cuvee.engine.flat import flatten  # noqa: E402
from cuvee.protocols import TokenRow  # noqa: E402
from cuvee.runtime import Runtime  # noqa: E402

from .conftest import RUNTIME, hyper, make_rows, micro_batches, silent  # noqa: E402

FLAT = ["llama", "llama-tied", "qwen2", "gemma2", "neox", "mistral", "phi", "phi3", "gpt2"]
SINGLE = ["bloom"]

TOLERANCE = 2e-5
"""Largest difference of a parameter's gradient, relative to that parameter's largest reference entry."""


def reference(
    folder: Path, rows: list[TokenRow], change: Callable[[Any], Any] = lambda model: model
) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of one step in float64, one example at a time, transformers' eager attention."""
    model = change(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager"))
    total = sum(end - start for row in rows for start, end in row.spans)
    whole = 0.0
    for row in rows:
        ids = torch.tensor([list(row.ids)])
        logits = model(input_ids=ids).logits[0, :-1]
        marks = torch.zeros(len(row.ids), dtype=torch.bool)
        for start, end in row.spans:
            marks[start:end] = True
        value = torch.nn.functional.cross_entropy(logits[marks[1:]], ids[0, 1:][marks[1:]], reduction="sum") / total
        value.backward()
        whole += float(value.detach())
    return whole, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_step(
    folder: Path, rows: list[TokenRow], work: Path, runtime: Runtime = RUNTIME, **settings: Any
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The record of one step of our loop, its gradients, and the layout."""
    caught: dict[str, Any] = {}
    steps = [list(range(len(rows)))]
    training = loop.Training(folder, rows, steps, hyper(**settings), work, runtime, silent, micro_batches)
    training.resume_or_start(Checkpoints(work, ""))

    def catch(rate: float) -> Any:
        caught.update(
            {name: p.grad.clone() for name, p in training.trainee.optimiser.masters.items() if p.grad is not None}
        )
        return torch.tensor(0.0)

    training.trainee.optimiser.step = catch  # type: ignore[method-assign]
    return training.step(0), caught, training.passes.layout


def furthest(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest relative difference between two sets of gradients."""
    assert found.keys() == expected.keys()
    scale = max(float(e.abs().max()) for e in expected.values())
    return max(float((found[n] - e).abs().max()) / max(float(e.abs().max()), 1e-3 * scale) for n, e in expected.items())


@pytest.mark.parametrize("kind", FLAT + SINGLE)
def test_a_step_equals_the_padding_free_float64_reference(
    kind: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [*make_rows(10), make_rows(1, seed=9)[0], make_rows(1, seed=9)[0]]  # the last two share a length
    record, gradients, layout = one_step(model_folder(kind), rows, tmp_path)
    value, expected = reference(model_folder(kind), rows)
    assert layout == ("single" if kind in SINGLE else "flat")
    assert record["loss"] == pytest.approx(value, rel=1e-6)
    assert furthest(gradients, expected) < TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_each_example_s_loss_equals_the_float64_reference(
    kind: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [*make_rows(10), TokenRow([5, 6, 7], [(0, 1)])]  # nothing of the last one is supervised
    steps = [[3, 10, 0, 7], [9, 1, 2, 4, 5, 6, 8]]
    given = (hyper(learning_rate=1e-12), tmp_path / "out", tmp_path, replace(RUNTIME, micro_tokens=40), silent)
    loop.train(model_folder(kind), rows, steps, *given, micro_batches=micro_batches)
    found = example_losses.read(tmp_path)
    assert found is not None
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float64, attn_implementation="eager")
    for index, value in zip([i for step in steps for i in step], found.tolist(), strict=True):
        if index == 10:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(alone(model, rows[index]), rel=1e-5)


def alone(model: Any, row: TokenRow) -> float:
    """The mean nll of a row's supervised tokens, one row a pass."""
    ids = torch.tensor([list(row.ids)])
    places = [i for start, end in row.spans for i in range(max(start, 1), end)]
    with torch.no_grad():
        told = model(input_ids=ids).logits[0].log_softmax(-1)
    return -sum(float(told[i - 1, row.ids[i]]) for i in places) / len(places)


def test_many_micro_batches_equal_one(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    rows = make_rows(20)
    whole = one_step(model_folder("llama"), rows, tmp_path / "a", Runtime(threads=1, micro_tokens=10_000))
    split = one_step(model_folder("llama"), rows, tmp_path / "b", Runtime(threads=1, micro_tokens=35))
    assert split[0]["loss"] == pytest.approx(whole[0]["loss"], rel=1e-6)
    assert furthest(split[1], whole[1]) < TOLERANCE


def test_bfloat16_gathers_gradients_in_float32(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    rows = make_rows(12)
    record, gradients, _ = one_step(model_folder("llama"), rows, tmp_path, precision="bfloat16")
    value, expected = reference(model_folder("llama"), rows)
    assert record["loss"] == pytest.approx(value, rel=2e-2)
    assert all(g.dtype == torch.float32 for g in gradients.values())
    large = {n: e for n, e in expected.items() if float(e.norm()) > 1e-2}
    assert all(float((gradients[n] - e).norm() / e.norm()) < 0.1 for n, e in large.items())


def test_neighbours_do_not_change_a_row(model_folder: Callable[[str], Path]) -> None:
    """Replacing one example of a flat row leaves the others' loss alone, bit for bit where shapes are equal."""
    loaded = loading.load(model_folder("llama"), "float32", torch.device("cpu"))
    loaded.use("flat")
    rows = make_rows(6)
    other = [TokenRow([(i * 7) % 90 + 3 for i in rows[0].ids], rows[0].spans), *rows[1:]]
    device = torch.device("cpu")
    with torch.no_grad():
        before, after = (loss.token_losses(loaded.model, flatten(r, device), segments=True) for r in (rows, other))
    first = sum(end - start for start, end in rows[0].spans)
    assert not torch.equal(before[:first], after[:first])
    assert torch.allclose(before[first:], after[first:], rtol=1e-6, atol=0)


def test_chunks_of_the_loss_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(37, 50, generator=draw)
    targets = torch.randint(50, (37,), generator=draw)
    expected = torch.nn.functional.cross_entropy(values, targets, reduction="none")
    for chunk in (1, 120, 1 << 22):
        monkeypatch.setattr(loss, "CHUNK", chunk)
        logits = values.clone().requires_grad_()
        nll = loss._TokenLoss.apply(logits * 1.0, targets)
        assert torch.allclose(nll, expected, rtol=1e-6, atol=1e-6)
        nll.sum().backward()
        right = torch.softmax(values, 1) - torch.nn.functional.one_hot(targets, 50)
        assert torch.allclose(logits.grad, right, atol=1e-6)


@pytest.mark.parametrize("kind", FLAT + SINGLE)
def test_logits_are_asked_for_at_supervised_positions_only(kind: str, model_folder: Callable[[str], Path]) -> None:
    assert loss.takes_positions(AutoModelForCausalLM.from_pretrained(model_folder(kind)))


def test_a_model_without_that_choice_gives_the_same_losses(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loading.load(model_folder("llama"), "float32", torch.device("cpu"))
    batch = flatten(make_rows(5), torch.device("cpu"))
    kept = loss.token_losses(loaded.model, batch, segments=True)
    monkeypatch.setattr(loss, "takes_positions", lambda model: False)
    assert torch.allclose(loss.token_losses(loaded.model, batch, segments=True), kept, rtol=1e-6)


def test_runs_join_equal_neighbours() -> None:
    assert attention.runs((3, 3, 5, 3)) == ((2, 3), (1, 5), (1, 3))


def test_a_model_that_needs_longest_row_positions_is_fed_singly(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    loaded = loading.load(model_folder("llama"), "float32", torch.device("cpu"))
    assert not loaded.obstacle
    loaded.model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert "longest" in attention.supports(loaded.model)


def test_first_batch_check_falls_back_and_says_so(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attention that leaks between neighbours passes no first batch."""
    right = attention.runs
    monkeypatch.setattr(attention, "supports", lambda model: model.set_attn_implementation(attention.NAME) or "")
    monkeypatch.setattr(attention, "runs", lambda lengths: right((sum(lengths),)))
    said: list[Any] = []
    rows = make_rows(8)
    training = loop.Training(
        model_folder("llama"), rows, [list(range(8))], hyper(), tmp_path, RUNTIME, said.append, micro_batches
    )
    training.resume_or_start(Checkpoints(tmp_path, ""))
    assert training.passes.layout == "single"
    assert "first batch differ" in said[-1]["note"]
    record = training.step(0)
    assert record["loss"] == pytest.approx(reference(model_folder("llama"), rows)[0], rel=1e-6)
