"""LESS features: cuvee's gradients of a batch against autograd on one row at a time, same projection, in one run.

    PYTHONPATH=src python benchmarks/less_speed.py --rows 64 --rounds 2

A random LLaMA with adapters on queries and values, chat-like rows, float32, one thread. Both ways end with projected
features of length 1; signs are made before. What is counted is tokens over processor seconds; features must agree.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from cuvee.engine import gradients, loading, lora
from cuvee.engine.scoring import batches

CPU = torch.device("cpu")
SETTINGS = {"rank": 8, "alpha": 16, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "rslora": False}
BETAS = (0.9, 0.999)


def in_batches(model: Any, weights: dict[str, Tensor], rows: Sequence[Any], signs: gradients.Signs) -> Tensor:
    """Return features from one backward pass a flat batch."""
    found = torch.zeros(len(rows), signs.dims)
    for batch in batches(rows, range(len(rows)), 4096):
        each = gradients.per_row(model, list(weights), [rows[i] for i in batch], CPU, segments=True)
        found[batch] = signs.project(_stepped(each))
    return torch.nn.functional.normalize(found, dim=1)


def one_by_one(model: Any, weights: dict[str, Tensor], rows: Sequence[Any], signs: gradients.Signs) -> Tensor:
    """Return features from one backward pass a row."""
    found = []
    for row in rows:
        ids = torch.tensor([list(row.ids)])
        odds = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1], -1)
        right = odds.gather(1, ids[0, 1:, None])[:, 0]
        loss = -right[row.spans[0][0] - 1 :].mean()
        each = torch.autograd.grad(loss, list(weights.values()))
        gathered = {name: grad.flatten()[None] for name, grad in zip(weights, each, strict=True)}
        found.append(signs.project(_stepped(gathered)))
    return torch.nn.functional.normalize(torch.cat(found), dim=1)


def _stepped(each: dict[str, Tensor]) -> dict[str, Tensor]:
    moments = {name: (torch.full(g.shape[1:], 1e-4), torch.full(g.shape[1:], 1e-6)) for name, g in each.items()}
    return {name: gradients.adam_step(g, *moments[name], BETAS) for name, g in each.items()}


def main() -> None:
    """Compare."""
    from train_speed import make_model, make_rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dims", type=int, default=8192)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        size = make_model(Path(place) / "model", options.vocabulary)
        loaded = loading.load(Path(place) / "model", "float32", CPU)
    stock = loaded.model.config._attn_implementation
    lora.attach(loaded.model, SETTINGS, 0, None)
    weights: dict[str, Tensor] = {name: w for name, w in loaded.model.named_parameters() if w.requires_grad}
    with torch.no_grad():
        for weight in weights.values():
            weight.normal_(std=0.05)
    rows = make_rows(options.rows, options.vocabulary, 1024, 0)
    tokens = sum(len(row.ids) for row in rows)
    signs = gradients.Signs(options.dims, 0, CPU)
    parameters = sum(weight.numel() for weight in weights.values())
    for number in range(-(-parameters // gradients.BLOCK)):
        signs.block(number)
    speeds: dict[str, list[float]] = {"cuvee": [], "one row at a time": []}
    for _ in range(options.rounds):
        found = {}
        for name, way in (("cuvee", in_batches), ("one row at a time", one_by_one)):
            loaded.use("flat" if name == "cuvee" else "single")
            start = time.process_time()
            found[name] = way(loaded.model, weights, rows, signs)
            speeds[name].append(tokens / (time.process_time() - start))
        far = float((found["cuvee"] - found["one row at a time"]).abs().max())
        assert far < 1e-3, f"features differ by {far:.1e}"
    shape = f"{size / 1e6:.1f} M parameters, {parameters:,} of adapters, {options.dims} dims"
    print(f"{shape}, {len(rows)} rows, {tokens:,} tokens, {stock} attention, 1 thread")
    ours = statistics.median(speeds["cuvee"])
    for name, each in speeds.items():
        shown = " / ".join(f"{speed:,.0f}" for speed in each)
        print(f"  {name:18} {shown:>20} tokens a CPU s   cuvee is {ours / statistics.median(each):.2f} times as fast")


if __name__ == "__main__":
    main()
