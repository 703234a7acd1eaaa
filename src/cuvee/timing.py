"""How long stages take: floating-point operations over a rate that is given, measured in the store, or assumed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from cuvee import bases, runner
from cuvee.footprint import weights_of
from cuvee.plan import Plan
from cuvee.runtime import Runtime, cores
from cuvee.sizes import Book, judging_of, parameters_of, root_of
from cuvee.stage import Base, Stage

CPU_RATE = 40e9
"""Assumed useful floating-point operations a second and core: what small float32 models reached on server cores."""

GPU_RATE = 150e12
"""Assumed useful operations a second and GPU in bfloat16."""

FOLD_RATE = 2e8
"""Assumed bytes of a folded model written in a second."""

MERGE_RATE = 5e8
"""Assumed bytes of models that a merge reads and writes in a second."""

GENERATION_SLOWDOWN = 6.0
"""Assumed ratio of training's rate to token-by-token generation's."""

JUDGE_SECONDS = 8.0
"""Assumed seconds of one request to a judge behind an endpoint."""


def default_rate(runtime: Runtime) -> float:
    """Return the assumed useful operations a second of one worker."""
    if runtime.device == "cuda" or (runtime.device == "auto" and runner.gpus()):
        return GPU_RATE
    workers = runtime.workers or min(cores(), 4)
    return CPU_RATE * max(1, runtime.threads or cores() // workers)


def rates_of(book: Book) -> tuple[dict[str, float], str]:
    """Return useful operations a second of one worker by base id: given, measured in this store, or assumed.

    Measured are all of the store's trainings from that base, whatever recipe they belong to.
    """
    if book.rate_given:
        return {}, f"{book.rate:.3g} useful operations a second and worker (given)"
    trainings = [stage for stage in book.plan.stages if stage.kind == "train"]
    roots = {stage.id: root_of(stage).id for stage in trainings}
    size = {root_of(stage).id: parameters_of(stage, book) for stage in trainings}
    measured: dict[str, list[float]] = {}
    for manifest in book.store.stages("train") if trainings else ():
        # Trainings of other recipes count where they start from a base of this one.
        root = roots.get(manifest["id"]) or manifest["inputs"].get("model", [""])[0].partition("-")[2]
        passes = _passes(manifest["component"], manifest["identity"]["params"])
        work = passes * size.get(root, 0) * manifest["summary"].get("total_tokens", 0)
        if work and (seconds := _computing(manifest)) > 0.5:
            measured.setdefault(root, []).append(work / seconds)
    rates = {base: statistics.median(found) for base, found in measured.items()}
    if not rates:
        return {}, f"{book.rate:.3g} useful operations a second and worker (assumed; --flops gives another)"
    count = sum(len(found) for found in measured.values())
    shown = " and ".join(f"{rate:.3g}" for rate in rates.values())
    return rates, f"{shown} useful operations a second and worker (median of {count} stored trainings)"


def seconds_of(stage: Stage, book: Book, rates: Mapping[str, float]) -> float:
    """Return about how long a stage takes: to start, to compute, to write."""
    size = book.sizes[stage.id]
    if work := _work(stage, book):
        return work / rates.get(root_of(stage).id, book.rate) + 0.3
    if stage.kind in ("fold", "mark"):
        return weights_of(stage, book) / FOLD_RATE + 0.5
    if stage.kind == "merge":
        folders = len(stage.inputs["models"]) + len(stage.inputs.get("base", ())) + 1
        return folders * weights_of(stage, book) / MERGE_RATE + 2
    if stage.kind == "judge":
        return _judging_seconds(stage, book)
    if stage.kind == "select":
        return sum(book.sizes[pool.id].rows for pool in stage.inputs["pools"]) / 500_000 + 0.2
    return size.total_tokens / 500_000 if stage.kind == "render" else 0.05


def _work(stage: Stage, book: Book) -> float:
    """Return the floating-point operations of a model in a stage; 0 without one."""
    size = book.sizes[stage.id]
    if stage.kind == "train":
        return _training_work(stage, book)
    if stage.kind == "mark":  # the training may have left it on the way
        training = stage.one("training")
        return _training_work(training, book) * float(stage.params["fraction"]) if training.id in book.present else 0
    if stage.kind == "fisher":
        return 6.0 * parameters_of(stage, book) * size.total_tokens
    if "model" not in stage.inputs:
        return 0
    if stage.kind in ("score", "embed", "choose"):
        tokens = size.supervised_tokens if stage.params.get("prompt") is False else size.total_tokens
        passes = 6.0 if stage.component == "gradients" else 2.0
        return passes * parameters_of(stage.one("model"), book) * tokens
    if stage.kind == "generate":
        return 2.0 * parameters_of(stage.one("model"), book) * size.total_tokens * GENERATION_SLOWDOWN
    return 0


def _judging_seconds(stage: Stage, book: Book) -> float:
    judge, asked = stage.one("judge"), judging_of(stage, book)
    if server := judge.locate.get("endpoint"):
        return JUDGE_SECONDS * asked.requests / int(server.get("concurrency", 8))
    work = asked.prompt_tokens + asked.new_tokens * GENERATION_SLOWDOWN
    return 2.0 * bases.parameters(judge, None) * work / book.rate + 0.2 if isinstance(judge, Base) else 0.2


def _training_work(stage: Stage, book: Book) -> float:
    """Return a training's floating-point operations."""
    return _passes(stage.component, stage.params) * parameters_of(stage, book) * book.sizes[stage.id].total_tokens


def _passes(component: str, params: Mapping[str, Any]) -> float:
    """Return a training's operations by parameter and token.

    With LoRA no gradient of the base's weights is computed; KL to the start needs a forward pass of it.
    """
    return (4.0 if component == "lora" else 6.0) + (2.0 if "kl" in (params.get("regulariser") or {}) else 0.0)


def _computing(manifest: Mapping[str, Any]) -> float:
    """Return the seconds that a stored training computed: by the clock, without what other work on the cores took."""
    seconds = float(manifest["summary"].get("seconds") or 0)
    spent, how = float(manifest["summary"].get("cpu_seconds") or 0), manifest.get("runtime", {})
    threads = int(how.get("threads") or 0)
    return min(seconds, spent / threads) if how.get("device") == "cpu" and threads and spent else seconds


def longest_chain(plan: Plan, seconds: Mapping[str, float]) -> float:
    """Return the seconds of the stages that wait for one another longest."""
    ends: dict[str, float] = {}
    for stage in plan.stages:
        ends[stage.id] = seconds[stage.id] + max((ends[p.id] for p in plan.before(stage)), default=0.0)
    return max(ends.values(), default=0.0)


def untimed(book: Book, todo: frozenset[str]) -> list[str]:
    """Return a sentence on stages whose time is not known."""
    count = sum(stage.kind == "harness" and stage.id in todo for stage in book.plan.stages)
    return [f"no time of {count} run(s) of lm-evaluation-harness: unknown"] if count else []
