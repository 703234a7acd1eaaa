"""How long one training step takes here in each precision: a small random LLaMA, forward and backward, as we train.

python -m cuvee.engine.precision '{"device": "cpu", ...}'     prints {"float32": seconds, "bfloat16": seconds}
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cuvee.engine import loading
from cuvee.engine.flat import flatten
from cuvee.engine.loss import token_losses
from cuvee.protocols import TokenRow
from cuvee.runtime import Runtime

ROUNDS = 5

_SHAPE: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
}


def measure(runtime: Runtime, rounds: int = ROUNDS) -> dict[str, float]:
    """Return median seconds of a pass over 512 tokens, forward and backward, by precision.

    Precisions take turns, so that what else the machine does strikes both; processor seconds on a CPU.
    """
    loading.set_threads(runtime)
    device = loading.device_of(runtime)
    rows = [TokenRow([3 + i] * 128, [(1, 128)], 0) for i in range(4)]
    torch.manual_seed(0)
    stock = LlamaForCausalLM(LlamaConfig(**_SHAPE))
    models = {}
    times: dict[str, list[float]] = {name: [] for name in loading.PRECISIONS}
    for name, dtype in loading.PRECISIONS.items():
        copy: Any = LlamaForCausalLM(
            LlamaConfig(**_SHAPE)
        )  # attention is set in the configuration, so each has its own
        copy.load_state_dict(stock.state_dict())
        models[name] = loading.ready(copy.to(device, dtype))
        models[name].use(models[name].layout)
    flat = flatten(rows, device)
    for turn in range(rounds + 1):
        for name, loaded in models.items():
            start = _clock(device)
            torch.autograd.backward(token_losses(loaded.model, flat, segments=loaded.layout == "flat").sum())
            passed = _clock(device) - start
            loaded.model.zero_grad()
            if turn:  # the first warms up
                times[name].append(passed)
    return {name: statistics.median(found) for name, found in times.items()}


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Runtime.from_dict(json.loads(sys.argv[1])))) + "\n")
