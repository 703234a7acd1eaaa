"""The training loop: flat rows, one mean a step, one host synchronisation a step, exact resume.

    loss of a step = sum of nll over its supervised tokens / their number     (across all micro batches)

A run that is killed and started again ends with the same bits as one that was not, on equal Runtime and
hardware: weights, optimiser, random states, log and layout all come from the checkpoint.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from cuvee import preemption, seeds
from cuvee.engine import loading, lora
from cuvee.engine.disk import Background, Checkpoints, Journal, Ticker, fingerprint, loss_by_part, write_text
from cuvee.engine.flat import count, flatten
from cuvee.engine.loss import token_losses
from cuvee.engine.optimiser import SCHEDULES, Optimiser, learning_rate
from cuvee.errors import StageFailed, UsageError, did_you_mean
from cuvee.protocols import Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime

CHECKS = "checks.json"
"""What was measured on the first batch."""

MicroBatches = Callable[[NDArray[np.int64], NDArray[np.int64], int], Sequence[Sequence[int] | NDArray[np.int64]]]
"""(lengths, indexes, budget) -> the indexes in groups of at most `budget` tokens; one alone may be larger.
`lengths[i]` is the length of example i of the step, `indexes` is 0 .. n - 1."""


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
    micro_batches: MicroBatches,
    adapter: Path | None = None,
) -> dict[str, Any]:
    """Train a model and save it as an ordinary Hugging Face folder, or with method lora its adapter as a PEFT folder.

    Args:
        model_folder: where the weights start.
        rows: the examples as token ids.
        steps: row indexes of each optimiser step, over all epochs.
        hyper: learning_rate, schedule (see `optimiser.SCHEDULES`), warmup and decay (fractions of steps),
            optimiser (adamw unless said), weight_decay, betas, eps, clip, precision (float32, bfloat16), seed,
            steps_per_epoch; method (full, lora) and lora (see `lora.attach`). Other keys are ignored.
        out: folder of the trained model; made only at the end.
        work: folder for log.jsonl and checkpoints; a training found there is resumed.
        runtime: device, threads, micro batch size, checkpoint intervals.
        progress: told {"step", "steps", "loss", "tokens", "tokens_per_second", "seconds_left"} about five
            times a second and {"note"} when something is worth saying.
        micro_batches: splits a step's rows; pure.
        adapter: with method lora, the adapter to go on with in place of a new one.

    Returns:
        steps, first_loss, final_loss, supervised_tokens, total_tokens, seconds, cpu_seconds, peak_rss_mb,
        layout, packed_against_unpacked (relative difference of the first batch's losses), resumed_from, and
        loss_by_part: per part the mean nll a supervised token over the last epoch.

    Raises:
        ModelError: the model cannot be loaded or cannot take the rows.
        StageFailed: the loss or the gradient is no longer finite, a step has nothing to learn from, or one example
            alone is too much for the memory.
        Stopped: SIGTERM came (see `preemption`); a checkpoint is written.
    """
    _check_hyper(hyper, steps)
    checkpoints = Checkpoints(work, fingerprint(hyper, steps, len(rows)))
    if (before := checkpoints.finished(out)) is not None:
        return before
    loading.forget()
    training = _Training(model_folder, rows, steps, hyper, work, runtime, progress, micro_batches, adapter)
    training.resume_or_start(checkpoints)
    training.run()
    if training.wrapped is None:
        loading.save(training.loaded.model, model_folder, out)
    else:
        lora.save(training.wrapped, model_folder, out)
    summary = training.summary()
    checkpoints.finish(summary)
    return summary


def _check_hyper(hyper: Mapping[str, Any], steps: Sequence[Sequence[int]]) -> None:
    if not steps:
        raise UsageError("a training of 0 steps was asked for; it needs at least one row")
    if hyper["schedule"] not in SCHEDULES:
        raise UsageError(f"schedule '{hyper['schedule']}' is not possible.{did_you_mean(hyper['schedule'], SCHEDULES)}")


@dataclass
class _Spent:
    """Totals that survive a resume."""

    supervised_tokens: int = 0
    total_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    resumed_from: list[int] = field(default_factory=list)
    out_of_memory: list[dict[str, int]] = field(default_factory=list)


class _Clock:
    """Wall and processor seconds since it was last read."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def lap(self, spent: _Spent) -> float:
        """Add what passed to `spent`; return the wall seconds."""
        wall, cpu = time.monotonic(), time.process_time()
        passed = wall - self._wall
        spent.seconds += passed
        spent.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
        return passed


class _Training:
    """State of one training; see `train`."""

    def __init__(
        self,
        model_folder: Path,
        rows: TokenRows,
        steps: Sequence[Sequence[int]],
        hyper: Mapping[str, Any],
        work: Path,
        runtime: Runtime,
        progress: Progress,
        micro_batches: MicroBatches,
        adapter: Path | None = None,
    ) -> None:
        self.clock = _Clock()
        self.rows, self.steps, self.hyper, self.runtime = rows, steps, hyper, runtime
        self.work, self.progress, self.micro_batches = work, progress, micro_batches
        self.journal = Journal(work / "log.jsonl")
        self.threads = loading.set_threads(runtime)
        self.device = loading.device_of(runtime, progress)
        self.loaded = loading.load(model_folder, hyper["precision"], self.device)
        self.wrapped = None
        if hyper.get("method") == "lora":
            self.wrapped = lora.attach(self.loaded.model, hyper["lora"], int(hyper["seed"]), adapter)
        self.optimiser = Optimiser(self.loaded.model, hyper)
        self.layout = self.loaded.layout
        self.spent, self.done = _Spent(), 0
        self.micro_tokens = runtime.micro_tokens
        self.writer = Background()

    def note(self, text: str) -> None:
        """Say something worth knowing."""
        self.progress({"note": text})

    # ------------------------------------------------------------------------------------- start and resume

    def resume_or_start(self, checkpoints: Checkpoints) -> None:
        """Take up the newest whole checkpoint, or check the first batch and start at step 0."""
        torch.manual_seed(seeds.stream(int(self.hyper["seed"]), "train"))
        self.checkpoints = checkpoints
        (self.work / "failure.json").unlink(missing_ok=True)  # of an earlier try
        found = checkpoints.newest(self.note)
        if found is None:
            self._choose_layout()
        else:
            self._restore(*found)
        self.loaded.use(self.layout)
        self.loaded.model.train()
        if self.runtime.checkpoint_activations:
            self._forget_activations()
        self.journal.cut(self.done)

    def _forget_activations(self) -> None:
        if not getattr(self.loaded.model, "supports_gradient_checkpointing", False):
            self.note("checkpoint_activations: the architecture cannot; all activations are kept")
            return
        model = self.loaded.model
        # The second is its name in earlier versions of transformers.
        name = "activation_checkpointing_enable"
        enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
        # Not reentrant: the other kind loses the gradients of adapters on a frozen base.
        enable({"use_reentrant": False})

    def _choose_layout(self) -> None:
        if self.loaded.obstacle:
            self.note(f"one example a forward pass: {self.loaded.obstacle}")
            return
        far = self._flat_against_single(self._split([self.rows[i] for i in self.steps[0]])[0])
        write_text(self.work / CHECKS, json.dumps({"packed_against_unpacked": far}))
        if not far <= loading.TOLERANCE[self.hyper["precision"]]:
            self.layout = "single"
            self.note(f"one example a forward pass: flat and single loss of the first batch differ by {far:.1e}")

    def _checked(self) -> float | None:
        """Return how far packed and unpacked loss of the first batch lay apart; None where nothing is packed."""
        path = self.work / CHECKS
        return float(json.loads(path.read_text(encoding="utf-8"))["packed_against_unpacked"]) if path.exists() else None

    def _flat_against_single(self, examples: Sequence[TokenRow]) -> float:
        """Return the relative difference between the two layouts' loss on one micro batch."""
        self.loaded.model.eval()
        sums = {}
        with torch.no_grad():
            for layout in ("single", "flat"):
                self.loaded.use(layout)
                self.layout = layout
                sums[layout] = sum(float(nll.sum()) for nll, _ in self._passes(examples))
        return loading.distance(sums["flat"], sums["single"])

    def _restore(self, folder: Path, facts: dict[str, Any]) -> None:
        with safe_open(folder / "model.safetensors", "pt") as file:
            weights = self._trained()
            with torch.no_grad():
                for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    weights[name].copy_(file.get_tensor(name))
        with safe_open(folder / "state.safetensors", "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - as above
        self.optimiser.restore(state)
        torch.set_rng_state(state["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in state:
            torch.cuda.set_rng_state(state["random.cuda"], self.device)
        self.done, self.layout = int(facts["step"]), facts["layout"]
        self.spent = _Spent(**facts["spent"])
        self.spent.resumed_from.append(self.done)
        if self.spent.out_of_memory:  # as it went on after it
            self.micro_tokens = min(self.micro_tokens, self.spent.out_of_memory[-1]["to"])
        self._tell_resume(facts["how"])

    def _trained(self) -> dict[str, torch.Tensor]:
        """Return what a training changes: weights that need a gradient (an adapter's alone with LoRA), and buffers."""
        model = self.loaded.model
        weights = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
        return {**weights, **dict(model.named_buffers())}

    def _tell_resume(self, before: Mapping[str, Any]) -> None:
        now = self._how()
        changed = [f"{k} {before.get(k)} -> {v}" for k, v in now.items() if before.get(k) != v]
        but = f"; another runtime ({', '.join(changed)}), so equal up to rounding only" if changed else ""
        self.note(f"resumed from step {self.done} of {len(self.steps)}{but}")

    def _how(self) -> dict[str, Any]:
        """What of the runtime may change rounding."""
        return {
            "device": str(self.device),
            "threads": self.threads,
            "micro_tokens": self.micro_tokens,
            "torch": torch.__version__,
        }

    def _checkpoint(self) -> None:
        """Copy the state and let a thread write it: training goes on meanwhile."""
        weights = _copies(self._trained())
        state = {**_copies(self.optimiser.tensors()), "random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["random.cuda"] = torch.cuda.get_rng_state(self.device)

        def fill(folder: Path) -> None:
            save_file(weights, folder / "model.safetensors")
            save_file(state, folder / "state.safetensors")

        step, facts = self.done, {"layout": self.layout, "spent": asdict(self.spent), "how": self._how()}

        def write() -> None:
            self.journal.sync()
            self.checkpoints.write(step, fill, facts)

        self.writer.start(write)

    # --------------------------------------------------------------------------------------------- the steps

    def run(self) -> None:
        """Do the steps that are left.

        Raises:
            Stopped: the process was asked to stop; a checkpoint is written.
        """
        ticker, last, owed = Ticker(self.progress, len(self.steps)), time.monotonic(), False
        with preemption.patient():
            try:
                while self.done < len(self.steps):
                    record = self._step(self.done)
                    self.done += 1
                    self.journal.append(record)
                    ticker.tick(self.done, record["total_tokens"], loss=record["loss"])
                    owed = owed or self._due(time.monotonic() - last)
                    # While one is being written the next waits, not the training.
                    if preemption.asked() or (owed and not self.writer.busy and self.done < len(self.steps)):
                        self._checkpoint()
                        last, owed = time.monotonic(), False
                    if preemption.asked():
                        raise preemption.Stopped
            finally:
                self.journal.close()
                self.writer.wait()
        self.clock.lap(self.spent)

    def _due(self, passed: float) -> bool:
        """Say whether to checkpoint; those by time are written a tenth of it at most, however large the model."""
        every = self.runtime.checkpoint_steps
        least = max(self.runtime.checkpoint_seconds, 10 * self.writer.seconds)
        return bool(every and self.done % every == 0) or passed >= least

    def _step(self, number: int) -> dict[str, Any]:
        indexes = self.steps[number]
        examples = [self.rows[i] for i in indexes]
        supervised, total = sum(map(count, examples)), sum(len(row.ids) for row in examples)
        if not supervised:
            raise self._failure(number, "it has no supervised token", {})
        while (found := self._gradients(examples, supervised)) is None:
            self._shrink(number, examples)
        losses, parts = found
        rate = learning_rate(number, len(self.steps), self.hyper)
        norm = self.optimiser.step(rate)
        # The step's only wait for the device.
        host = torch.cat([*losses, norm[None].float()]).cpu().numpy().astype(np.float64)
        record = self._record(number, host, np.concatenate(parts), supervised, total)
        record["lr"] = rate
        record["seconds"] = self.clock.lap(self.spent)
        if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
            raise self._failure(number, "the loss or the gradient is not finite", record)
        return record

    def _gradients(
        self, examples: Sequence[TokenRow], supervised: int
    ) -> tuple[list[torch.Tensor], list[NDArray[Any]]] | None:
        """Gather a step's gradients; return the nll and part of each token, or None where the memory was too small.

        After None the gradients are dropped and the random state is the one before.
        """
        random = torch.get_rng_state()
        random_cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        losses, parts = [], []
        try:
            for micro in self._split(examples):
                for nll, owners in self._passes(micro):
                    torch.autograd.backward(nll.sum() / supervised)
                    losses.append(nll.detach())
                    parts.append(owners)
                self.optimiser.gather()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        else:
            return losses, parts
        self.optimiser.clear()
        torch.set_rng_state(random)
        if random_cuda is not None:
            torch.cuda.set_rng_state(random_cuda, self.device)
        return None

    def _shrink(self, number: int, examples: Sequence[TokenRow]) -> None:
        """Take half the tokens a pass from now on: the same step, in more passes."""
        largest = max(sum(len(row.ids) for row in group) for group in self._split(examples))
        longest = max(len(row.ids) for row in examples)
        if self.layout == "single" or largest <= longest:
            raise self._failure(
                number,
                f"out of memory with one example of at most {longest} tokens a forward pass; use "
                "--checkpoint-activations, a smaller max_length, precision: bfloat16, method: lora or fewer --workers",
                {},
            )
        before, self.micro_tokens = self.micro_tokens, max(longest, min(self.micro_tokens, largest) // 2)
        self.spent.out_of_memory.append({"step": number + 1, "from": before, "to": self.micro_tokens})
        self.note(
            f"out of memory at step {number + 1}; micro_tokens {before} -> {self.micro_tokens} from here on, the same "
            "examples a step"
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _record(
        self, number: int, host: NDArray[Any], parts: NDArray[Any], supervised: int, total: int
    ) -> dict[str, Any]:
        nll, norm = host[:-1], float(host[-1])
        self.spent.supervised_tokens += supervised
        self.spent.total_tokens += total
        sums, tokens = np.bincount(parts, weights=nll), np.bincount(parts)
        return {
            "step": number + 1,
            "epoch": number // int(self.hyper.get("steps_per_epoch") or len(self.steps)) + 1,
            "loss": float(nll.sum() / supervised),
            "grad_norm": norm,
            "supervised_tokens": supervised,
            "total_tokens": total,
            "parts": {str(p): {"nll": float(sums[p]), "tokens": int(tokens[p])} for p in np.flatnonzero(tokens)},
        }

    def _split(self, examples: Sequence[TokenRow]) -> list[list[TokenRow]]:
        """Return a step's examples in groups of at most `micro_tokens`."""
        lengths = np.asarray([len(row.ids) for row in examples], dtype=np.int64)
        groups = self.micro_batches(lengths, np.arange(len(examples)), self.micro_tokens)
        return [[examples[i] for i in group] for group in groups]

    def _passes(self, examples: Sequence[TokenRow]) -> Iterable[tuple[torch.Tensor, NDArray[Any]]]:
        """Yield (nll of each supervised token, part of each) for the forward passes of one micro batch."""
        rows = sorted(filter(count, examples), key=lambda row: len(row.ids))  # equal lengths share attention calls
        groups = [rows] if self.layout == "flat" else [[row] for row in rows]
        for group in filter(None, groups):
            loading.check_fit(self.loaded.model, group)
            flat = flatten(group, self.device)
            part = np.asarray([row.part for row in group], dtype=np.int64)
            yield token_losses(self.loaded.model, flat, segments=self.layout == "flat"), part[flat.owner]

    def _failure(self, number: int, why: str, record: Mapping[str, Any]) -> StageFailed:
        rows = [int(i) for i in self.steps[number]]
        evidence = {"step": number + 1, "why": why, "rows": rows, "record": _plain(record)}
        write_text(self.work / "failure.json", json.dumps(evidence, indent=1))
        shown = ", ".join(map(str, rows[:16])) + (", ..." if len(rows) > 16 else "")
        return StageFailed(
            f"step {number + 1} of {len(self.steps)}: {why}; rows {shown}. All rows and the step's numbers are in "
            f"{self.work / 'failure.json'}. Look at these rows, or lower learning_rate",
            stage="train",
        )

    # ----------------------------------------------------------------------------------------------- the end

    def summary(self) -> dict[str, Any]:
        """Return the facts about the whole training, resumes included."""
        records = list(self.journal.records())
        return {
            "steps": len(self.steps),
            "first_loss": records[0]["loss"],
            "final_loss": records[-1]["loss"],
            "supervised_tokens": self.spent.supervised_tokens,
            "total_tokens": self.spent.total_tokens,
            "seconds": self.spent.seconds,
            "cpu_seconds": self.spent.cpu_seconds,
            "peak_rss_mb": peak_rss_mb(),
            "layout": self.layout,
            "trained_parameters": sum(weight.numel() for weight in self.optimiser.weights.values()),
            "packed_against_unpacked": self._checked(),
            "resumed_from": self.spent.resumed_from,
            "out_of_memory": self.spent.out_of_memory,
            "loss_by_part": loss_by_part(records),
        }


def _copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors in memory of their own on the host."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that device or host had too little memory."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in text


def _plain(value: Any) -> Any:
    """Turn numbers that JSON does not have into text."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def peak_rss_mb() -> float:
    """Return the largest memory this process has held, in MB (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
