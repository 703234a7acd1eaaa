"""Penalties and Fisher information equal plain float64 sums over examples, in every layout, and are resumed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from cuvee.engine import FISHER_FILE, fisher, loading, loop, loss  # noqa: E402
from cuvee.engine.disk import Checkpoints  # noqa: E402
from cuvee.engine.flat import flatten, supervised  # noqa: E402
from cuvee.engine.regularisers import kl  # noqa: E402
from cuvee.errors import ModelError, UsageError  # noqa: E402
from cuvee.protocols import TokenRow  # noqa: E402
from cuvee.runtime import Runtime  # noqa: E402

from .conftest import RUNTIME, hyper, make_rows, micro_batches, silent  # noqa: E402
from .test_gradients import TOLERANCE, furthest  # noqa: E402
from .test_loop import EVERY, ROWS, STEPS, Breaks, Stop, log, weights, without_times  # noqa: E402

Folder = Callable[[str], Path]
EXAMPLES = [*make_rows(9), make_rows(1, seed=9)[0]]
ONE_BY_ONE = Runtime(threads=1, micro_tokens=1, device="cpu")
LORA = {"method": "lora", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear", "rslora": False}}
ALL = {
    "l2_sp": {"weight": 0.3},
    "ewc": {"weight": 0.7},
    "kl": {"weight": 0.5, "direction": "reverse"},
}


def moved(model: Any) -> None:
    """Change weights, the same ones in the same way in any precision and with any adapter."""
    for name, weight in sorted(model.named_parameters()):
        if weight.requires_grad:
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
            weight.data += (0.05 * noise).to(weight.dtype)


def one_step(
    folder: Path, work: Path, runtime: Runtime = RUNTIME, fisher_file: Path | None = None, **settings: Any
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The record and gradients of a step that begins away from the start, and the model it began with."""
    caught: dict[str, Any] = {}
    training = loop.Training(
        folder, EXAMPLES, [list(range(10))], hyper(**settings), work, runtime, silent, micro_batches, None, fisher_file
    )
    training.resume_or_start(Checkpoints(work, ""))
    moved(training.trainee.model)
    before = copy.deepcopy(training.trainee.model)

    def catch(rate: float) -> Any:
        caught.update(
            {name: p.grad.clone() for name, p in training.trainee.optimiser.masters.items() if p.grad is not None}
        )
        return torch.tensor(0.0)

    training.trainee.optimiser.step = catch  # type: ignore[method-assign]
    return training.step(0), caught, before


def double(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")


def mean_nll_and_kl(model: Any, start: Any, direction: str) -> tuple[Any, Any]:
    """The two means over supervised tokens, one example at a time."""
    nll: Any = 0
    far: Any = 0
    for row in EXAMPLES:
        ids, places = torch.tensor([list(row.ids)]), torch.tensor(supervised(row)) - 1
        p = model(input_ids=ids).logits[0, places].log_softmax(1)
        with torch.no_grad():
            q = start(input_ids=ids).logits[0, places].log_softmax(1)
        nll = nll - p.gather(1, ids[0, places + 1][:, None]).sum()
        a, b = (p, q) if direction == "reverse" else (q, p)
        far = far + (a.exp() * (a - b)).sum()
    tokens = sum(len(supervised(row)) for row in EXAMPLES)
    return nll / tokens, far / tokens


def gradients(model: Any, value: Any) -> dict[str, Any]:
    torch.autograd.backward(value)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gemma2", "gpt2", "bloom"])
def test_kl_equals_the_float64_reference(kind: str, direction: str, model_folder: Folder, tmp_path: Path) -> None:
    settings = {"kl": {"weight": 0.5, "direction": direction}}
    record, found, _ = one_step(model_folder(kind), tmp_path, regulariser=settings)
    start, model = double(model_folder(kind)), double(model_folder(kind))
    moved(model)
    nll, far = mean_nll_and_kl(model, start, direction)
    assert record["loss"] == pytest.approx(float(nll.detach()), rel=1e-6), "the loss that is shown stays the data's"
    assert record["penalties"] == {"kl": pytest.approx(0.5 * float(far.detach()), rel=1e-4)}
    assert float(far.detach()) > 0.01
    assert furthest(found, gradients(model, nll + 0.5 * far)) < TOLERANCE


def test_penalties_of_the_weights_equal_the_float64_reference(model_folder: Folder, tmp_path: Path) -> None:
    start, model = double(model_folder("llama")), double(model_folder("llama"))
    moved(model)
    strengths = {
        name: torch.rand(p.shape, generator=torch.Generator().manual_seed(len(name)))
        for name, p in start.named_parameters()
    }
    save_file(strengths, tmp_path / "f.safetensors")
    settings = {name: ALL[name] for name in ("l2_sp", "ewc")}
    record, found, _ = one_step(
        model_folder("llama"), tmp_path, RUNTIME, tmp_path / "f.safetensors", regulariser=settings
    )
    nll, _ = mean_nll_and_kl(model, start, "reverse")
    pairs = [(name, p - start.get_parameter(name).detach()) for name, p in model.named_parameters()]
    l2_sp = 0.3 / 2 * sum((away**2).sum() for _, away in pairs)
    ewc = 0.7 / 2 * sum((strengths[name] * away**2).sum() for name, away in pairs)
    assert record["loss"] == pytest.approx(float(nll.detach()), rel=1e-6)
    expected = {
        "l2_sp": pytest.approx(float(l2_sp.detach()), rel=1e-5),
        "ewc": pytest.approx(float(ewc.detach()), rel=1e-5),
    }
    assert record["penalties"] == expected
    assert furthest(found, gradients(model, nll + l2_sp + ewc)) < TOLERANCE


@pytest.mark.parametrize("name", ["l2_sp", "kl"])
def test_an_adapter_is_held_by_what_it_does_to_the_weights(name: str, model_folder: Folder, tmp_path: Path) -> None:
    """The penalty of an adapter is that of the weights it would be folded into."""
    pytest.importorskip("peft")
    record, found, before = one_step(model_folder("llama"), tmp_path, regulariser={name: ALL[name]}, **LORA)
    model, start = before.double(), double(model_folder("llama"))
    model.set_attn_implementation("eager")
    nll, far = mean_nll_and_kl(model, start, "reverse")
    if name == "l2_sp":
        far = sum(
            (layer.get_delta_weight("default") ** 2).sum() for layer in model.modules() if hasattr(layer, "lora_A")
        )
        far = far / 2
    weight = float(ALL[name]["weight"])  # type: ignore[arg-type]
    assert record["penalties"] == {name: pytest.approx(weight * float(far.detach()), rel=1e-4)}
    assert furthest(found, gradients(model, nll + weight * far)) < TOLERANCE


def test_an_adapter_that_goes_on_is_held_where_it_was(model_folder: Folder, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    first = train(model_folder("llama"), tmp_path / "first", **LORA)
    assert first["steps"] == 8
    settings = {name: ALL[name] for name in ("l2_sp", "kl")}
    train(model_folder("llama"), tmp_path / "on", adapter=tmp_path / "first" / "out", regulariser=settings, **LORA)
    penalties = [record["penalties"] for record in log(tmp_path / "on")]
    assert penalties[0] == {"l2_sp": pytest.approx(0, abs=1e-9), "kl": pytest.approx(0, abs=1e-6)}
    assert penalties[-1]["l2_sp"] > 1e-6
    assert penalties[-1]["kl"] > 1e-5


def train(folder: Path, place: Path, runtime: Runtime = RUNTIME, rows: Any = ROWS, **more: Any) -> Any:
    given = {name: more.pop(name) for name in ("adapter", "fisher") if name in more}
    return loop.train(
        folder,
        rows,
        STEPS,
        hyper(**more),
        place / "out",
        place / "work",
        runtime,
        silent,
        micro_batches=micro_batches,
        **given,
    )


@pytest.fixture
def strengths(model_folder: Folder, tmp_path: Path) -> Path:
    """The Fisher information of a tiny model."""
    settings = {"labels": "data", "precision": "float32"}
    fisher.fisher(model_folder("llama"), ROWS, range(4), range(4), settings, tmp_path / "fisher", RUNTIME, silent)
    return tmp_path / "fisher" / FISHER_FILE


def test_eight_passes_of_one_example_equal_one_pass_of_eight(
    strengths: Path, model_folder: Folder, tmp_path: Path
) -> None:
    whole, split = (
        one_step(model_folder("llama"), tmp_path / str(runtime.micro_tokens), runtime, strengths, regulariser=ALL)
        for runtime in (replace(RUNTIME, micro_tokens=10_000), ONE_BY_ONE)
    )
    assert split[0]["penalties"] == {name: pytest.approx(v, rel=1e-5) for name, v in whole[0]["penalties"].items()}
    assert sorted(split[0]["penalties"]) == ["ewc", "kl", "l2_sp"]
    assert furthest(split[1], whole[1]) < TOLERANCE


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_held_training_is_resumed_bit_by_bit(
    precision: str, strengths: Path, model_folder: Folder, tmp_path: Path
) -> None:
    settings = {"regulariser": ALL, "fisher": strengths, "precision": precision}
    train(model_folder("llama"), tmp_path / "whole", **settings)
    with pytest.raises(Stop):
        train(model_folder("llama"), tmp_path / "broken", EVERY, Breaks(13, 2), **settings)
    assert train(model_folder("llama"), tmp_path / "broken", EVERY, **settings)["resumed_from"]
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert without_times(log(tmp_path / "broken")) == without_times(log(tmp_path / "whole"))


@pytest.mark.parametrize("name", ["l2_sp", "kl"])
def test_a_strong_hold_keeps_the_weights_where_they_were(name: str, model_folder: Folder, tmp_path: Path) -> None:
    far = {}
    start = load_file(model_folder("llama") / "model.safetensors")
    for weight in (1e-6, 300.0):
        place = tmp_path / str(weight)
        train(
            model_folder("llama"),
            place,
            regulariser={name: {"weight": weight, "direction": "reverse"}},
            optimiser="sgd",
            clip=0.0,
            learning_rate=1e-3,
            betas=[0.0, 0.0],
        )
        end = load_file(place / "out" / "model.safetensors")
        far[weight] = float(sum(((end[n] - start[n]) ** 2).sum() for n in start))
    assert far[300.0] < 0.6 * far[1e-6]


def test_ewc_is_refused_with_an_adapter_and_with_another_model_s_fisher(
    strengths: Path, model_folder: Folder, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    ewc = {"regulariser": {"ewc": {"weight": 1.0}}}
    with pytest.raises(UsageError, match="an adapter is new"):
        train(model_folder("llama"), tmp_path / "a", fisher=strengths, **ewc, **LORA)
    with pytest.raises(ModelError, match="another model's"):
        train(model_folder("qwen2"), tmp_path / "b", fisher=strengths, **ewc)


@pytest.mark.parametrize(("kind", "split"), [("llama", True), ("gemma2", True), ("gpt2", True), ("neox", True)])
def test_the_start_s_logits_come_in_chunks(
    kind: str, split: bool, model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loading.load(model_folder(kind), "float32", torch.device("cpu"))
    loaded.use("flat")
    batch = flatten(EXAMPLES, torch.device("cpu"))
    shapes: list[int] = []
    real = kl._logits
    monkeypatch.setattr(kl, "_logits", lambda model, hidden: shapes.append(len(hidden)) or real(model, hidden))
    twin = kl.frozen_twin(loaded, shared=False)
    monkeypatch.setattr(loss, "CHUNK", 96 * 7)
    held = kl.KL(1.0, "reverse", twin)
    assert held._split is split
    held.twin.use("flat")
    shapes.clear()
    objective, nll, far = held.losses(loaded.model, batch, segments=True)
    assert max(shapes) <= 7
    assert sum(shapes) == len(batch.targets)
    assert float(far.abs().max()) < 1e-6
    assert torch.allclose(objective, nll, atol=1e-6)


# ------------------------------------------------------------------------------------------ Fisher information


def brute_force(folder: Path, rows: list[TokenRow]) -> dict[str, Any]:
    """Mean of squared gradients of whole rows, in float64."""
    model = double(folder)
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in rows:
        model.zero_grad()
        ids, places = torch.tensor([list(row.ids)]), torch.tensor(supervised(row))
        logs = model(input_ids=ids).logits[0].log_softmax(1)
        logs[places - 1, ids[0, places]].sum().backward()
        for name, p in model.named_parameters():
            sums[name] += p.grad**2 / len(rows)
    return sums


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "bloom"])
def test_the_empirical_fisher_equals_the_float64_reference(kind: str, model_folder: Folder, tmp_path: Path) -> None:
    settings = {"labels": "data", "precision": "float32"}
    facts = fisher.fisher(model_folder(kind), ROWS, [3, 1, 7], [0, 0, 0], settings, tmp_path, RUNTIME, silent)
    found, expected = load_file(tmp_path / FISHER_FILE), brute_force(model_folder(kind), [ROWS[i] for i in (3, 1, 7)])
    assert furthest(found, expected) < 1e-4
    assert facts["rows"] == 3
    assert facts["parameters"] == sum(tensor.numel() for tensor in found.values())
    stored = set(load_file(model_folder(kind) / "model.safetensors"))
    assert set(found) == stored, "the names are those of the model's own file"


def test_sampled_labels_hang_on_their_seed_and_estimate_the_exact_expectation(
    model_folder: Folder, tmp_path: Path
) -> None:
    """Many draws of one short row against the sum over all labels of p(label) times the squared gradient."""
    row, folder = TokenRow([5, 9, 20], [(2, 3)]), model_folder("llama")
    settings = {"labels": "sampled", "precision": "float32"}

    def taken(draws: list[int], place: str) -> dict[str, Any]:
        fisher.fisher(folder, [row], [0] * len(draws), draws, settings, tmp_path / place, RUNTIME, silent)
        return load_file(tmp_path / place / FISHER_FILE)

    many = taken(list(range(240)), "many")
    model, expected = double(folder), None
    logs = model(input_ids=torch.tensor([[5, 9]])).logits[0, 1].log_softmax(0)
    name = "model.norm.weight"
    for label in range(len(logs)):
        (gradient,) = torch.autograd.grad(logs[label], model.get_parameter(name), retain_graph=True)
        term = logs[label].detach().exp() * gradient**2
        expected = term if expected is None else expected + term
    assert float(many[name].sum()) == pytest.approx(float(expected.sum()), rel=0.25)
    assert all(torch.equal(a, b) for a, b in zip(taken([4], "a").values(), taken([4], "b").values(), strict=True))
    assert not torch.equal(taken([5], "c")[name], taken([4], "d")[name])


def test_fisher_information_that_was_interrupted_goes_on_with_the_same_bits(
    model_folder: Folder, tmp_path: Path
) -> None:
    settings = {"labels": "sampled", "precision": "float32"}

    def take(place: str, rows: Any = ROWS, told: Any = silent) -> Any:
        runtime = replace(RUNTIME, checkpoint_steps=2)
        given = (rows, range(7), range(7), settings, tmp_path / place, runtime, told)
        fisher.fisher(model_folder("llama"), *given)
        return load_file(tmp_path / place / FISHER_FILE)

    said: list[Any] = []
    whole = take("whole")
    with pytest.raises(ZeroDivisionError):
        take("broken", Breaking(5))
    found = take("broken", told=said.append)
    assert "resumed from row 4 of 7" in said[0]["note"]
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == ["fisher.json", "fisher.safetensors"]


def test_a_slow_disk_does_not_hold_fisher_information_up(
    model_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def slow(self: Checkpoints, step: int, *given: Any) -> None:
        written.append(step)
        time.sleep(1.0)

    monkeypatch.setattr(Checkpoints, "write", slow)
    settings, always = {"labels": "data", "precision": "float32"}, replace(RUNTIME, checkpoint_seconds=0.0)
    fisher.fisher(model_folder("llama"), ROWS, range(7), range(7), settings, tmp_path, always, silent)
    assert written == [1]


class Breaking(list[TokenRow]):
    """Rows of which one cannot be read."""

    def __init__(self, at: int) -> None:
        super().__init__(ROWS)
        self.at = at

    def __getitem__(self, index: Any) -> Any:
        row = super().__getitem__(index)
        # Counted at the start, and read when its turn comes.
        self.reads = getattr(self, "reads", 0) + (index == self.at)
        if self.reads > 1:
            raise ZeroDivisionError
        return row


def test_a_fisher_of_nothing_is_refused(model_folder: Folder, tmp_path: Path) -> None:
    from cuvee.errors import StageFailed

    settings = {"labels": "data", "precision": "float32"}
    rows = [TokenRow([1, 2], [(0, 1)])]
    with pytest.raises(StageFailed, match="no row"):
        fisher.fisher(model_folder("llama"), rows, [0], [0], settings, tmp_path, RUNTIME, silent)
    with pytest.raises(UsageError, match="Did you mean 'sampled'"):
        fisher.fisher(
            model_folder("llama"), rows, [0], [0], {**settings, "labels": "sample"}, tmp_path, RUNTIME, silent
        )
