"""The plan's arithmetic of memory against what tensors there are, what the process took, and numbers by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from cuvee import memory
from cuvee.recipe import Training
from cuvee.runtime import Runtime

LLAMA_7B = memory.shape(
    6_738_415_616, {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11_008, "vocab_size": 32_000}
)


def held(model: memory.Shape, precision: str, runtime: Runtime, tokens: int = 0, trained: int = 0) -> dict[str, int]:
    items = memory.of_training(model, trained or model.parameters, precision, runtime, tokens, tokens)
    return {item.name: item.bytes for item in items}


def test_a_7b_model_on_eight_gpus_by_hand() -> None:
    found = held(LLAMA_7B, "bfloat16", Runtime(processes=8, checkpoint_activations=True), 4096)
    assert LLAMA_7B.block == 4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096 + 128  # and a share of the last norm
    assert LLAMA_7B.outer == 2 * 32_000 * 4096
    assert found == {
        "weights": 3_369_207_808,  # 4 bytes of each, an eighth
        "gradient": 3_369_207_808,
        "two moments": 6_738_415_616,
        "gathered weights": 2 * (262_144_000 + 2 * 202_383_488),
        "gradients on their way": 6 * 262_144_000,
        "activations": 4096 * (32 * 4096 + 12 * 4096 + 4 * 11_008) * 2,
        "logits": 4096 * 32_000 * 2 + 48 * 2**20,
    }
    assert 16e9 < sum(found.values()) < 20e9


def test_a_7b_model_on_one_gpu_needs_twenty_bytes_a_weight() -> None:
    found = held(LLAMA_7B, "bfloat16", Runtime())
    assert sum(found.values()) - found["logits"] == 20 * LLAMA_7B.parameters
    assert sum(held(LLAMA_7B, "float32", Runtime()).values()) - found["logits"] == 16 * LLAMA_7B.parameters


def test_plain_data_parallel_divides_nothing() -> None:
    assert held(LLAMA_7B, "bfloat16", Runtime(processes=8, shard="ddp")) == held(LLAMA_7B, "bfloat16", Runtime())


def test_an_optimiser_costs_the_moments_that_it_keeps() -> None:
    whole = {
        name: sum(i.bytes for i in memory.of_training(LLAMA_7B, LLAMA_7B.parameters, "float32", Runtime(), 0, 0, name))
        for name in memory.MOMENTS
    }
    assert set(whole) == set(get_args(Training.model_fields["optimiser"].annotation))
    assert whole["adamw"] - whole["sgd"] == 4 * LLAMA_7B.parameters
    assert whole["adamw"] - whole["adafactor"] == 8 * LLAMA_7B.parameters


def test_adapters_cost_their_own_state_alone() -> None:
    found = held(LLAMA_7B, "bfloat16", Runtime(), trained=20_000_000)
    assert found["frozen weights"] == 2 * (LLAMA_7B.parameters - 20_000_000)
    assert found["weights"] + found["gradient"] + found["two moments"] == 16 * 20_000_000


def test_a_shape_is_guessed_from_the_parameters_alone() -> None:
    guess = memory.shape(6_738_415_616, {})
    assert guess.hidden == pytest.approx(4096, rel=0.2)
    tied = memory.shape(134_515_008, {"layers": 30, "hidden": 576, "feed_forward": 1536, "vocabulary": 49_152})
    assert tied.outer == pytest.approx(49_152 * 576, rel=0.01)


# ------------------------------------------------------------------------------------------------ measured

torch = pytest.importorskip("torch")


def small(layers: int, precision: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    return LlamaForCausalLM(config).to(precision)


def kept(model: Any, tokens: int) -> int:
    """Return the bytes of what a forward pass keeps for the backward pass, weights left out."""
    from cuvee.engine import loading
    from cuvee.engine.flat import flatten
    from cuvee.engine.loss import token_losses
    from cuvee.protocols import TokenRow

    loaded = loading.ready(model)
    loaded.use("flat")
    model.train()
    flat = flatten([TokenRow([3] * tokens, [(tokens - 1, tokens)], 0)], torch.device("cpu"))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    alive: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in weights:
            alive[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_losses(model, flat, segments=True)
    return sum(tensor.untyped_storage().nbytes() for tensor in alive.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("twice", [False, True])
def test_activations_are_what_the_arithmetic_says(precision: str, twice: bool) -> None:
    tokens, dtype = 256, getattr(torch, precision)
    found = []
    for layers in (1, 5):
        model = small(layers, dtype)
        if twice:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        found.append(kept(model, tokens))
    shapes = [memory.Shape(0, layers, 128, 344, 64) for layers in (1, 5)]
    expected = [held(s, precision, Runtime(checkpoint_activations=twice), tokens)["activations"] for s in shapes]
    assert (found[1] - found[0]) / (expected[1] - expected[0]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_gradients_and_moments_are_what_the_arithmetic_says(precision: str) -> None:
    from cuvee.engine.optimiser import Optimiser

    from .conftest import hyper

    model = small(2, getattr(torch, precision))
    optimiser = Optimiser(model, hyper())
    for _ in range(2):
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        tensors = {id(t): t for t in [*model.parameters(), *optimiser.masters.values(), *optimiser.tensors().values()]}
        passed = [weight.grad for weight in model.parameters()]
        optimiser.gather()
        gathered = [master.grad for master in optimiser.masters.values()]
        every = {id(t): t for t in [*tensors.values(), *passed, *gathered]}
        optimiser.step(1e-3)
    found = sum(t.numel() * t.element_size() for t in every.values() if t.ndim)
    count = sum(weight.numel() for weight in model.parameters())
    expected = held(memory.Shape(count, 2, 128, 344, 64), precision, Runtime())
    assert found == sum(expected.values()) - expected["logits"]


MEASURE = """
import resource, sys, torch
from pathlib import Path
sys.path.append({tests!r})
from tests.engine.conftest import hyper, micro_batches, silent
from cuvee.engine import loop
from cuvee.protocols import TokenRow
from cuvee.runtime import Runtime
from transformers import LlamaConfig, LlamaForCausalLM
place = Path(sys.argv[1])
if not (place / "model").exists():
    LlamaForCausalLM(LlamaConfig(**{config!r})).save_pretrained(place / "model")
    sys.exit()
before = loop.peak_rss_mb()
rows = [TokenRow([5 + i % 7] * 512, [(256, 512)], 0) for i in range(16)]
runtime = Runtime(device="cpu", threads=1, micro_tokens=2048, checkpoint_activations=sys.argv[2] == "twice")
steps, settings = [list(range(4)), list(range(4, 8))], hyper(precision=sys.argv[3])
made = loop.train(place / "model", rows, steps, settings, place / "out", place / "work", runtime, silent,
                  micro_batches=micro_batches)
print(made["peak_rss_mb"] - before)
"""


@pytest.mark.real
@pytest.mark.parametrize(("precision", "twice"), [("float32", "once"), ("float32", "twice")])
def test_a_process_takes_what_the_arithmetic_says(precision: str, twice: str, tmp_path: Any) -> None:
    config = {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    }
    script = MEASURE.format(tests=str(Path(__file__).parents[2]), config=config)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        command = [sys.executable, "-c", script, str(tmp_path), twice, precision]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    parameters = 2 * 8192 * 512 + 8 * (4 * 512**2 + 3 * 512 * 1376)
    runtime = Runtime(checkpoint_activations=twice == "twice")
    items = memory.of_training(memory.shape(parameters, config), parameters, precision, runtime, 2048, 1024)
    expected = sum(item.bytes for item in items) / 1e6
    print(f"{precision} {twice}: {float(said):.0f} MB more than before, {expected:.0f} MB by arithmetic")
    assert 0.6 < float(said) / expected < 1.6
