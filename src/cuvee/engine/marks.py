"""The weights at a mark of a finished training: those that it left on the way, or made again by doing its steps anew.

A training done anew must have the losses of the first one: equal bits on equal Runtime and hardware, and elsewhere
nothing but rounding. The first step that differs by more ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from cuvee.engine import loading, loop, lora
from cuvee.engine.disk import Journal, mark_step
from cuvee.engine.passes import MicroBatches
from cuvee.errors import StageFailed
from cuvee.protocols import Progress, TokenRows
from cuvee.runtime import Runtime

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
"""Relative difference of a step's loss that another machine's rounding may make."""


def mark(
    model_folder: Path,
    rows: TokenRows,
    steps: Sequence[Sequence[int]],
    hyper: Mapping[str, Any],
    out: Path,
    work: Path,
    runtime: Runtime,
    progress: Progress,
    *,
    fraction: Fraction,
    written: Path,
    log: Path,
    then: str = "",
    micro_batches: MicroBatches,
    adapter: Path | None = None,
    fisher: Path | None = None,
) -> dict[str, Any]:
    """Save the model or adapter of a mark; arguments as in `loop.train`, besides:

    Args:
        fraction: of the training's steps.
        written: where the training left the weights, if it did.
        log: the training's own ``log.jsonl``.
        then: how the training was done, for the message where a replay differs.

    Returns:
        step, steps, loss (of that step), supervised_tokens (until then), made (``taken`` or ``replayed``), and of a
        replay ``largest_difference`` of a step's loss, relative.

    Raises:
        StageFailed: a replay's loss differs from the training's; names the first step.
        and as `loop.train`.
    """
    step, records = mark_step(fraction, len(steps)), list(Journal(log).records())
    if len(records) < step:
        raise StageFailed(f"{log} ends after step {len(records)} of {len(steps)}, so nothing can be checked by it")
    replay = Journal(work / "log.jsonl")
    if not out.is_dir() and not (written.is_file() and _taken(written, model_folder, hyper, out, adapter, progress)):
        check = _comparison(records, TOLERANCE[hyper["precision"]], then)
        train = partial(loop.train, micro_batches=micro_batches, adapter=adapter, fisher=fisher)
        progress({"note": f"the training left no weights at {fraction}: steps 1 to {step} are done again"})
        train(model_folder, rows, steps, hyper, out, work, runtime, progress, until=step, check=check)
    facts = {
        "step": step,
        "steps": len(steps),
        "loss": records[step - 1]["loss"],
        "supervised_tokens": sum(record["supervised_tokens"] for record in records[:step]),
    }
    again = list(replay.records())
    if not again:
        return {**facts, "made": "taken"}
    far = max(_far(record, first) for record, first in zip(again, records, strict=False))
    return {**facts, "made": "replayed", "largest_difference": far}


def _taken(
    written: Path,
    model_folder: Path,
    hyper: Mapping[str, Any],
    out: Path,
    adapter: Path | None,
    progress: Progress,
) -> bool:
    """Save what the training left; False where its file is damaged."""
    model = loading.load_stock(model_folder, loading.PRECISIONS[hyper["precision"]])
    low_rank = hyper.get("method") == "lora"
    wrapped = lora.attach(model, hyper["lora"], int(hyper["seed"]), adapter) if low_rank else None
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    try:
        with safe_open(written, "pt") as file, torch.no_grad():
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                tensors[name].copy_(file.get_tensor(name))
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        progress({"note": f"{written} is damaged ({error})"})
        return False
    if wrapped is None:
        loading.save(model, model_folder, out)
    else:
        lora.save(wrapped, model_folder, out)
    return True


def _comparison(records: Sequence[Mapping[str, Any]], limit: float, then: str) -> Callable[[Mapping[str, Any]], None]:
    def check(record: Mapping[str, Any]) -> None:
        first = records[record["step"] - 1]
        if not _far(record, first) <= limit or record["supervised_tokens"] != first["supervised_tokens"]:
            raise StageFailed(
                f"step {record['step']}: done again its loss is {record['loss']:.6g} over "
                f"{record['supervised_tokens']} tokens, and was {first['loss']:.6g} over "
                f"{first['supervised_tokens']} in the training, which was done with {then}. Ask for the mark under the "
                "same conditions; otherwise a training with other settings, such as another seed, leaves its marks on "
                "the way"
            )

    return check


def _far(record: Mapping[str, Any], first: Mapping[str, Any]) -> float:
    return float(loading.distance(record["loss"], first["loss"]))
