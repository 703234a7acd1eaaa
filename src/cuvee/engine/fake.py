"""A stand-in for training and evaluating, without torch: for dry runs and tests. Its numbers mean nothing.

A fake model is a folder with ``fake.json``:

    {"exposure": {"math": 1200.0}, "start_loss": 2.5, "floor_loss": 0.5, "scale": 2000.0, "decay": 20000.0}

`exposure` counts, for every part (a source's or ability's name), the supervised tokens it was trained on.
A step adds its own tokens to the parts it trains and shrinks every other by exp(-tokens / decay): training
on one thing forgets the rest, and replaying some of the rest repairs it.

    skill(part) = 1 - exp(-exposure / scale)      loss = floor + (start - floor) * (1 - skill), and a row's own noise
    a request is answered right iff hash(request) < skill(ability)
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

from cuvee import preemption, seeds
from cuvee.engine.decoding import Decoding, Prompt
from cuvee.engine.disk import (
    Checkpoints,
    Journal,
    Ticker,
    fingerprint,
    loss_by_part,
    mark_file,
    mark_step,
    sync_tree,
    write_text,
)
from cuvee.errors import ModelError
from cuvee.protocols import Likelihood, Progress, Reply, Scored, TokenRow, TokenRows
from cuvee.runtime import Runtime

_CONSTANTS = {"start_loss": 2.5, "floor_loss": 0.5, "scale": 2000.0, "decay": 20000.0}


def _load(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / "fake.json").read_text(encoding="utf-8"))
        return {**_CONSTANTS, **data, "exposure": dict(data.get("exposure", {}))}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}/fake.json: cannot be read ({error}); write {{}} for an untrained one") from None


def _skill(model: Mapping[str, Any], name: str) -> float:
    return 1.0 - math.exp(-model["exposure"].get(name, 0.0) / model["scale"])


def _loss(model: Mapping[str, Any], name: str) -> float:
    low, high = float(model["floor_loss"]), float(model["start_loss"])
    return low + (high - low) * (1.0 - _skill(model, name))


def _tokens(row: TokenRow) -> int:
    return int(sum(max(end - max(start, 1), 0) for start, end in row.spans))


def _draw(purpose: str, ids: Sequence[int], occurrence: int = 0) -> float:
    """A number in [0, 1) that hangs on the token ids alone, another one for each occurrence."""
    return seeds.rank(0, purpose, ",".join(map(str, ids)).encode(), occurrence) / 2**64


def _learn(model: dict[str, Any], tokens: Mapping[str, int]) -> None:
    total = sum(tokens.values())
    kept = math.exp(-total / model["decay"])
    for name in sorted({*model["exposure"], *tokens}):
        old = model["exposure"].get(name, 0.0)
        model["exposure"][name] = old + tokens[name] if name in tokens else old * kept


def train(
    model_folder: Path,
    rows: TokenRows,
    steps: Sequence[Sequence[int]],
    hyper: Mapping[str, Any],
    out: Path,
    work: Path,
    runtime: Runtime,
    progress: Progress,
    *,
    micro_batches: Callable[..., list[list[int]]] | None = None,
    adapter: Path | None = None,
    fisher: Path | None = None,
    marks: Sequence[Fraction] = (),
    until: int | None = None,
    track: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Raise the exposure of what is trained; the signature, log, checkpoints and summary of the real one.

    An adapter is a fake model like any other, which knows all that its base knew.

    `hyper` needs ``part_names``: the name of each part number, the same names `generate` takes as ability.
    """
    start, resumed = time.monotonic(), []
    checkpoints = Checkpoints(work, fingerprint(hyper, steps, len(rows)))
    if (before := checkpoints.finished(out)) is not None:
        return before
    model_folder = adapter or model_folder
    model, journal, done = _load(model_folder), Journal(work / "log.jsonl"), 0
    found = checkpoints.newest(lambda text: progress({"note": text}))
    if found is not None:
        done, model = found[1]["step"], found[1]["model"]
        resumed = [*found[1]["resumed"], done]
        progress({"note": f"resumed from step {done} of {len(steps)}"})
    journal.cut(done)
    for record in journal.records():
        track(record)
    end = until or len(steps)
    ticker, last = Ticker(progress, end), time.monotonic()
    with preemption.patient(), closing(journal):
        for number in range(done, end):
            record = _step(model, [rows[i] for i in steps[number]], number, hyper, len(steps))
            journal.append(record)
            for at in [at for at in marks if mark_step(at, len(steps)) == number + 1]:
                mark_file(work, at).parent.mkdir(exist_ok=True)
                write_text(mark_file(work, at), json.dumps(model))
            track(record)
            time.sleep(runtime.step_sleep)
            ticker.tick(number + 1, record["total_tokens"], loss=record["loss"])
            due = runtime.checkpoint_steps and (number + 1) % runtime.checkpoint_steps == 0
            if number + 1 < end and (due or time.monotonic() - last >= runtime.checkpoint_seconds):
                journal.sync()
                checkpoints.write(number + 1, lambda folder: None, {"model": model, "resumed": resumed})
                last = time.monotonic()
            if preemption.asked():
                journal.sync()
                checkpoints.write(number + 1, lambda folder: None, {"model": model, "resumed": resumed})
                raise preemption.Stopped
    _save(model, model_folder, out)
    summary = _summary(list(journal.records()), resumed, time.monotonic() - start)
    checkpoints.finish(summary)
    return summary


def fold(base: Path, adapter: Path, out: Path, precision: str) -> dict[str, Any]:
    """Return the adapter as the model; the signature of the real one."""
    _save(_load(adapter), adapter, out)
    return {"fake": True}


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
    adapter: Path | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Take what the training left, or do its steps again; the signature and summary of the real one."""
    step, taken = mark_step(fraction, len(steps)), written.is_file()
    if taken:
        _save(json.loads(written.read_text(encoding="utf-8")), adapter or model_folder, out)
    elif not out.is_dir():
        train(model_folder, rows, steps, hyper, out, work, runtime, progress, adapter=adapter, until=step)
    records = list(Journal(log).records())[:step]
    again = list(Journal(work / "log.jsonl").records())
    tokens = sum(record["supervised_tokens"] for record in records)
    facts = {"step": step, "steps": len(steps), "loss": records[-1]["loss"], "supervised_tokens": tokens}
    return {**facts, **({"made": "replayed", "largest_difference": 0.0} if again else {"made": "taken"})}


def fisher(
    model_folder: Path,
    rows: TokenRows,
    chosen: Sequence[int],
    draws: Sequence[int],
    settings: Mapping[str, Any],
    out: Path,
    runtime: Runtime,
    progress: Progress,
) -> dict[str, Any]:
    """Note which rows were chosen; the signature of the real one."""
    out.mkdir(parents=True, exist_ok=True)
    tokens = [_tokens(rows[index]) for index in chosen]
    facts = {
        "rows": len(chosen),
        "supervised_tokens": sum(tokens),
        "total_tokens": sum(len(rows[i].ids) for i in chosen),
    }
    write_text(out / "fisher.json", json.dumps({**settings, **facts}, indent=1))
    return {**facts, "parameters": 0, "fake": True}


def merge(models: Sequence[Path], weights: Sequence[float] | None, out: Path) -> dict[str, Any]:
    """Return the mean of the models' exposures, whatever the merger."""
    loaded, shares = [_load(folder) for folder in models], list(weights or [1.0] * len(models))
    names = sorted({name for model in loaded for name in model["exposure"]})
    whole = sum(shares) or 1.0
    exposure = {
        name: sum(w * model["exposure"].get(name, 0.0) for w, model in zip(shares, loaded, strict=True)) / whole
        for name in names
    }
    _save({**loaded[0], "exposure": exposure}, models[0], out)
    return {"fake": True, "models": len(models)}


def _step(
    model: dict[str, Any], rows: Sequence[TokenRow], number: int, hyper: Mapping[str, Any], steps: int
) -> dict[str, Any]:
    by_part: Counter[int] = Counter()
    for row in rows:
        by_part[row.part] += _tokens(row)
    names = hyper["part_names"]
    parts = {str(p): {"nll": _loss(model, names[p]) * n, "tokens": n} for p, n in sorted(by_part.items())}
    by_name: Counter[str] = Counter()
    for part, tokens in by_part.items():
        by_name[names[part]] += tokens
    _learn(model, by_name)
    supervised = sum(by_part.values())
    return {
        "step": number + 1,
        "epoch": number // int(hyper.get("steps_per_epoch") or steps) + 1,
        "loss": sum(float(p["nll"]) for p in parts.values()) / max(supervised, 1),
        "lr": float(hyper.get("learning_rate", 0.0)),
        "grad_norm": 1.0,
        "supervised_tokens": supervised,
        "total_tokens": sum(len(row.ids) for row in rows),
        "parts": parts,
        "seconds": 0.0,
    }


def _save(model: Mapping[str, Any], source: Path, out: Path) -> None:
    part = out.with_name(out.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    # Whatever else the folder has (tokenizer, template) goes with the model.
    shutil.copytree(source, part)
    write_text(part / "fake.json", json.dumps(model, indent=1, sort_keys=True))
    sync_tree(part)
    if out.exists():
        shutil.rmtree(out)
    os.replace(part, out)


def _summary(records: Sequence[Mapping[str, Any]], resumed: list[int], seconds: float) -> dict[str, Any]:
    return {
        "steps": len(records),
        "first_loss": records[0]["loss"],
        "final_loss": records[-1]["loss"],
        "supervised_tokens": sum(r["supervised_tokens"] for r in records),
        "total_tokens": sum(r["total_tokens"] for r in records),
        "seconds": seconds,
        "cpu_seconds": 0.0,
        "peak_rss_mb": 0.0,
        "layout": "fake",
        "resumed_from": resumed,
        "loss_by_part": loss_by_part(records),
    }


def score(
    model_folder: Path,
    rows: TokenRows,
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    part_names: Sequence[str] = (),
    entropy: bool = False,
    each: bool = False,
    journal: Path | None = None,
) -> list[Likelihood]:
    """Return a loss for every row that falls with the exposure of its part; `part_names` as in `train`."""
    model, found = _load(model_folder), []
    for row in (rows[i] for i in range(len(rows))):
        name = part_names[row.part] if part_names else str(row.part)
        noise = 0.8 + 0.4 * _draw("fake score", row.ids)
        loss, tokens = _loss(model, name) * noise, _tokens(row)
        found.append(
            Likelihood(loss * tokens, tokens, loss * tokens if entropy else None, [loss] * tokens if each else None)
        )
    progress({"step": len(rows), "steps": len(rows)})
    return found


def embed(
    model_folder: Path,
    rows: TokenRows,
    out: Path,
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    layer: int = -1,
    pooling: str = "weighted_mean",
    journal: Path | None = None,
    part_names: Sequence[str] = (),
) -> int:
    """Write a vector a row that hangs on its first tokens and a little on the others; the signature of the real one."""
    import numpy as np  # here: a dry run without vectors does without it

    width = 8
    found = np.lib.format.open_memmap(out, "w+", np.float32, (len(rows), width))
    for index, row in enumerate(rows[i] for i in range(len(rows))):
        ids = list(row.ids)
        common, own = ([_draw(f"fake vector {n}", text) - 0.5 for n in range(width)] for text in (ids[:4], ids))
        vector = np.asarray(common) + 0.3 * np.asarray(own)
        found[index] = vector / np.linalg.norm(vector)
    found.flush()
    return width


def features(
    model_folder: Path,
    state: Path,
    rows: TokenRows,
    out: Path,
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    dims: int,
    **settings: Any,
) -> int:
    """Write the vectors of `embed`; the signature of the real one."""
    return embed(model_folder, rows, out, runtime, progress, precision)


def generate(
    model_folder: Path,
    prompts: Sequence[Prompt],
    settings: Decoding,
    stop_ids: Sequence[int],
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    journal: Path | None = None,
    references: Sequence[Sequence[int]],
    ability: str,
) -> list[Reply]:
    """Answer with the reference where the request's hash is below the skill, else with its last token changed.

    Each sample of a prompt has a hash of its own, unless nothing is drawn.
    """
    model, replies = _load(model_folder), []
    skill = _skill(model, ability)
    for prompt, reference in zip(prompts, references, strict=True):
        for sample in range(settings.samples):
            draw = _draw("fake answer", prompt.ids, 0 if settings.greedy else sample)
            replies.append(_answer(list(reference), draw < skill, settings.max_new_tokens))
    progress({"step": len(replies), "steps": len(replies)})
    return replies


def choose(
    model_folder: Path,
    items: Sequence[Sequence[TokenRow]],
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    journal: Path | None = None,
    cut: bool = True,
    golds: Sequence[Sequence[int]],
    ability: str,
) -> list[list[Scored]]:
    """Prefer the right choice where the item's hash is below the skill, else another; all lengths cost the same."""
    model, found = _load(model_folder), []
    skill = _skill(model, ability)
    for rows, gold in zip(items, golds, strict=True):
        right = _draw("fake choice", rows[0].ids) < skill
        best = gold[0] if right else next((at for at in range(len(rows)) if at not in gold), gold[0])
        # So far apart that no length turns the order round.
        found.append([Scored(-1.0 if at == best else -1e6, _tokens(row), at == best) for at, row in enumerate(rows)])
    progress({"step": len(items), "steps": len(items)})
    return found


def _answer(ids: list[int], right: bool, most: int) -> Reply:
    if ids and not right:
        ids[-1] += 1 if ids[-1] == 0 else -1
    return Reply(tuple(ids[:most]), "length" if len(ids) >= most else "stop")
