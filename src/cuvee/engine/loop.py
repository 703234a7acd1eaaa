"""The training loop: flat rows, one mean a step, one host synchronisation a step, exact resume.

    loss of a step = sum of nll over its supervised tokens / their number     (across all micro batches)

A run that is killed and started again ends with the same bits as one that was not, on equal Runtime and
hardware: weights, optimiser, random states, log and layout all come from the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cuvee import preemption, seeds
from cuvee.engine import backward, first_batch, loading, shortage, state
from cuvee.engine.account import Clock, Losses, Spent, failure, peak_rss_mb
from cuvee.engine.devices import World
from cuvee.engine.disk import (
    Background,
    Checkpoints,
    Journal,
    Ticker,
    fingerprint,
    loss_by_part,
    mark_file,
    mark_step,
)
from cuvee.engine.example_losses import ExampleLosses
from cuvee.engine.flat import count
from cuvee.engine.optimiser import SCHEDULES, learning_rate
from cuvee.engine.passes import MicroBatches, Passes
from cuvee.engine.regularisers import l2_sp
from cuvee.engine.trainee import Trainee
from cuvee.errors import StageFailed, UsageError, did_you_mean
from cuvee.protocols import Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime

_USUAL: Mapping[str, Any] = {"kernels": "stock", "processes": 1, "shard": "none"}
"""What of the runtime earlier checkpoints leave out where it is so."""

Track = Callable[[Mapping[str, Any]], None]
"""Takes the log's records one after another."""


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
    fisher: Path | None = None,
    marks: Sequence[Fraction] = (),
    until: int | None = None,
    check: Callable[[Mapping[str, Any]], None] = lambda record: None,
    world: World | None = None,
    track: Track | None = None,
) -> dict[str, Any]:
    """Train a model and save it as an ordinary Hugging Face folder, or with method lora its adapter as a PEFT folder.

    Args:
        model_folder: where the weights start.
        rows: the examples as token ids.
        steps: row indexes of each optimiser step, over all epochs.
        hyper: learning_rate, schedule (see `optimiser.SCHEDULES`), warmup and decay (fractions of steps),
            optimiser (adamw unless said), weight_decay, betas, eps, clip, precision (float32, bfloat16), seed,
            steps_per_epoch; method (full, lora) and lora (see `lora.attach`); regulariser (settings by name, see
            `regularisers`). Other keys are ignored.
        out: folder of the trained model; made only at the end.
        work: folder for log.jsonl, the examples' losses (`example_losses`) and checkpoints; a training found there is
            resumed.
        runtime: device, threads, micro batch size, checkpoint intervals.
        progress: told {"step", "steps", "loss", "tokens", "tokens_per_second", "seconds_left"} about five
            times a second and {"note"} when something is worth saying.
        micro_batches: splits a step's rows; pure.
        adapter: with method lora, the adapter to go on with in place of a new one.
        fisher: with regulariser ewc, the file with the Fisher information (`cuvee.engine.fisher`).
        marks: fractions of the steps at which the weights are left in `work` (`disk.mark_file`).
        until: end after so many steps, on the schedule of all.
        check: shown the record of each step, and may raise.
        world: this process among those that train together; each calls this with the same arguments.
        track: told every record of the log, those before a resume too.

    Returns:
        Of the writer (see `World.is_writer`); the others return the same with less in it:
        steps, first_loss, final_loss, supervised_tokens, total_tokens, seconds, cpu_seconds, peak_rss_mb,
        layout, packed_against_unpacked (relative difference of the first batch's losses), resumed_from, and
        loss_by_part: per part the mean nll a supervised token over the last epoch.

    Raises:
        ModelError: the model cannot be loaded or cannot take the rows.
        StageFailed: the loss or the gradient is no longer finite, a step has nothing to learn from, or one example
            alone is too much for the memory.
        Stopped: SIGTERM came (see `preemption`); a checkpoint is written.
        Restart: memory ran out in a process for which the others wait; smaller passes are noted in `work`.
    """
    world = world or World()
    _check_hyper(hyper, steps)
    _check_world(world, hyper)
    checkpoints = Checkpoints(work, fingerprint(hyper, steps, len(rows)), writes=world.is_writer)
    if (before := checkpoints.finished(out)) is not None:
        return before
    loading.forget()
    training = Training(
        model_folder, rows, steps, hyper, work, runtime, progress, micro_batches, adapter, fisher, world
    )
    training.track = track or training.track
    training.marks = {at: mark_step(at, len(steps)) for at in marks}
    training.last, training.check = until or len(steps), check
    training.resume_or_start(checkpoints)
    training.run()
    training.trainee.export(out)
    summary = training.summary()
    if world.is_writer:
        checkpoints.finish(summary)
    return summary


def _check_hyper(hyper: Mapping[str, Any], steps: Sequence[Sequence[int]]) -> None:
    if not steps:
        raise UsageError("a training of 0 steps was asked for; it needs at least one row")
    if hyper["schedule"] not in SCHEDULES:
        raise UsageError(f"schedule '{hyper['schedule']}' is not possible.{did_you_mean(hyper['schedule'], SCHEDULES)}")


def _check_world(world: World, hyper: Mapping[str, Any]) -> None:
    """Refuse what needs whole weights where they are divided."""
    if not world.sharded:
        return
    remedy = "which --shard fsdp divides; use --shard ddp"
    if hyper.get("optimiser") == "adafactor":
        raise UsageError(f"optimiser: adafactor looks at rows and columns of whole weights, {remedy} or adamw")
    for name in hyper.get("regulariser", {}):
        if name != l2_sp.NAME or hyper.get("method") == "lora":
            raise UsageError(f"regulariser {name} of this training looks at whole weights, {remedy}")


class Training:
    """One training under way; arguments as in `train`."""

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
        fisher: Path | None = None,
        world: World | None = None,
    ) -> None:
        self.clock = Clock()
        self.world = world or World()
        self.rows, self.steps, self.hyper, self.runtime, self.work = rows, steps, hyper, runtime, work
        self.progress = progress if self.world.is_writer else lambda facts: None
        self.threads = loading.set_threads(runtime)
        self.device = self.world.device(loading.device_of(runtime, self.progress))
        self.trainee = Trainee(model_folder, hyper, runtime, self.device, self.world, adapter, fisher)
        self.note(self.trainee.check_rows(rows))
        layout = self.trainee.loaded.layout
        self.passes = Passes(self.trainee.model, layout, runtime.micro_tokens, micro_batches, self.device)
        self.journal, self.examples = Journal(work / "log.jsonl"), ExampleLosses(work, steps)
        self.spent, self.done, self.last = Spent(), 0, len(steps)
        self.losses = Losses(np.zeros(0), np.zeros(0, np.int64))  # of the step that was done last
        self.marks: Mapping[Fraction, int] = {}
        self.check: Callable[[Mapping[str, Any]], None] = lambda record: None
        self.track: Track = lambda record: None
        self.writer = Background()

    def note(self, text: str) -> None:
        """Say something worth knowing; nothing where there is none."""
        if text:
            self.progress({"note": text})

    # ------------------------------------------------------------------------------------- start and resume

    def resume_or_start(self, checkpoints: Checkpoints) -> None:
        """Take up the newest whole checkpoint, or check the first batch and start at step 0."""
        torch.manual_seed(seeds.stream(int(self.hyper["seed"]), "train"))
        self.checkpoints = checkpoints
        found = checkpoints.newest(self.note) if self.world.is_writer else None
        step = int(self.world.first(found[1]["step"] if found else -1))
        if step < 0:
            self._recall_shortage()
            self._choose_layout()
        else:
            self._restore(*(found or checkpoints.at(step)))
        self.note(self.trainee.begin(self.passes.layout))
        if self.world.is_writer:
            self._take_up_log()

    def _take_up_log(self) -> None:
        (self.work / "failure.json").unlink(missing_ok=True)  # of an earlier try
        self.journal.cut(self.done)
        self.examples.cut(self.done)
        held = 0
        for record in self.journal.records():
            held += 1
            self.track(record)
        if held < self.done:
            self.note(f"log.jsonl is damaged: it has {held} of the {self.done} steps done; the rest is not told")

    def _recall_shortage(self) -> None:
        """Go on with the smaller passes that were found to be needed."""
        self.spent.out_of_memory = shortage.recall(self.work, self.spent.out_of_memory)
        if self.spent.out_of_memory:
            self.passes.tokens = min(self.passes.tokens, self.spent.out_of_memory[-1]["to"])

    def _choose_layout(self) -> None:
        if self.trainee.loaded.obstacle:
            self.note(f"one example a forward pass: {self.trainee.loaded.obstacle}")
            return
        examples = [self.rows[i] for i in self.steps[0]]
        while True:
            far = shortage.attempt(lambda: first_batch.flat_against_single(self.trainee, self.passes, examples))
            if not shortage.anywhere(self.world, far is None):
                break
            self.passes.layout = "flat"
            self._shrink(0, examples)
        far = self.world.first(far or 0.0)
        if self.world.is_writer:
            first_batch.keep(self.work, far)
        if not far <= loading.TOLERANCE[self.hyper["precision"]]:
            self.passes.layout = "single"
            self.note(f"one example a forward pass: flat and single loss of the first batch differ by {far:.1e}")

    def _restore(self, folder: Path, facts: Mapping[str, Any]) -> None:
        state.restore(self.trainee, folder)
        self.done, self.passes.layout = int(facts["step"]), facts["layout"]
        if self.passes.flat and self.trainee.loaded.obstacle:  # another runtime's attention
            self.passes.layout = "single"
            self.note(f"one example a forward pass: {self.trainee.loaded.obstacle}")
        self.spent = Spent(**facts["spent"])
        self.spent.resumed_from.append(self.done)
        self.spent.cpu_seconds *= self.world.is_writer  # one tells what all have spent
        self._recall_shortage()
        before, now = {**_USUAL, **facts["how"]}, self._how()
        changed = [f"{k} {before.get(k)} -> {v}" for k, v in now.items() if before.get(k) != v]
        but = f"; another runtime ({', '.join(changed)}), so equal up to rounding only" if changed else ""
        self.note(f"resumed from step {self.done} of {len(self.steps)}{but}")

    def _how(self) -> dict[str, Any]:
        """What of the runtime may change rounding."""
        return {
            "device": str(self.device),
            "threads": self.threads,
            "micro_tokens": self.passes.tokens,
            "torch": torch.__version__,
            "kernels": self.runtime.kernels,
            "processes": self.world.size,
            "shard": _USUAL["shard"] if self.world.alone else self.world.shard,
        }

    # --------------------------------------------------------------------------------------------- the steps

    def run(self) -> None:
        """Do the steps that are left.

        Raises:
            Stopped: the process was asked to stop; a checkpoint is written.
        """
        ticker, last, owed = Ticker(self.progress, self.last), time.monotonic(), False
        with preemption.patient():
            try:
                while self.done < self.last:
                    record = self.step(self.done)
                    self._keep(record)
                    ticker.tick(self.done, record["total_tokens"], loss=record["loss"])
                    self._write_marks()
                    owed = owed or self._due(time.monotonic() - last)
                    # While one is being written the next waits, not the training.
                    save = owed and not self.writer.busy and self.done < self.last
                    asked, save = self._agree(preemption.asked(), save)
                    if asked or save:
                        self._checkpoint()
                        last, owed = time.monotonic(), False
                    if asked:
                        self.writer.wait()
                        self.world.wait()
                        raise preemption.Stopped
            finally:
                self.journal.close()
                self.examples.close()
                self.writer.wait()
        self.clock.lap(self.spent)

    def _keep(self, record: Mapping[str, Any]) -> None:
        """Count and log a step that was done."""
        self.check(record)
        self.done += 1
        length = int(self.hyper.get("steps_per_epoch") or len(self.steps))
        if self.hyper.get("states") == "epochs" and self.done % length == 0:
            # Before the step is logged, so that a resumed training writes it again.
            state.keep_epoch(self.trainee, self.work, record["epoch"])
        if self.world.is_writer:
            self.examples.append(self.losses.by_example(len(self.steps[self.done - 1])))
            self.journal.append(record)
            self.track(record)

    def _agree(self, asked: bool, save: bool) -> tuple[bool, bool]:
        """Return whether any process was asked to stop, and whether the writer wants a checkpoint."""
        if self.world.alone:
            return asked, save
        told = self.world.each(2 * asked + save)
        return any(value >= 2 for value in told), bool(told[0] % 2)

    def _due(self, passed: float) -> bool:
        """Say whether to checkpoint; those by time are written a tenth of it at most, however large the model."""
        every = self.runtime.checkpoint_steps
        least = max(self.runtime.checkpoint_seconds, 10 * self.writer.seconds)
        return bool(every and self.done % every == 0) or passed >= least

    def _checkpoint(self) -> None:
        """Copy the state and let a thread write it: training goes on meanwhile."""
        fill = state.copied(self.trainee)
        spent = {**asdict(self.spent), "cpu_seconds": sum(self.world.each(self.spent.cpu_seconds))}
        if fill is None:
            return
        step, facts = self.done, {"layout": self.passes.layout, "spent": spent, "how": self._how()}

        def write() -> None:
            self.journal.sync()
            self.examples.sync()
            self.checkpoints.write(step, fill, facts)

        self.writer.start(write)

    def _write_marks(self) -> None:
        """Leave the weights for the marks of this step; checkpoints after it wait for them, the training does not."""
        for at in [at for at, step in self.marks.items() if step == self.done]:
            file, weights = mark_file(self.work, at), state.marked(self.trainee)
            if self.world.is_writer:
                self.writer.follow(lambda file=file, weights=weights: state.write_weights(file, weights))  # type: ignore[misc]

    # ---------------------------------------------------------------------------------------------- one step

    def step(self, number: int) -> dict[str, Any]:
        """Do step `number` (from 0); return its record.

        Raises:
            StageFailed: see `train`.
        """
        examples = [self.rows[i] for i in self.steps[number]]
        supervised = sum(map(count, examples))
        if not supervised:
            raise self._failure(number, "it has no supervised token", {})
        if not self.world.alone:
            torch.manual_seed(seeds.stream(int(self.hyper["seed"]), f"train {number} {self.world.rank}"))
        while (found := self._gradient(examples, supervised)) is None:
            self._shrink(number, examples)
        self.trainee.optimiser.pool()
        penalties = self.trainee.penalties(found.kl, supervised)
        rate = learning_rate(number, len(self.steps), self.hyper)
        norm = self.trainee.optimiser.step(rate)
        nll, owners = backward.of_all(found, self.world, examples, supervised, self.device)
        # The step's only wait for the device.
        told = torch.stack([norm, *penalties.values()]).float()
        host = torch.cat([told, *nll]).cpu().numpy().astype(np.float64)
        self.losses = Losses(host[len(told) :], owners)
        record = self._record(number, examples, dict(zip(("", *penalties), map(float, host), strict=False)), rate)
        if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
            raise self._failure(number, "the loss or the gradient is not finite", record)
        return record

    def _gradient(self, examples: Sequence[TokenRow], supervised: int) -> backward.Found | None:
        """Gather a step's gradient, or return None where the memory was too small.

        After None the gradients are dropped and the random state is the one before.
        """
        random = torch.get_rng_state()
        random_cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        found = shortage.attempt(lambda: backward.gather(self.trainee, self.passes, self.world, examples, supervised))
        if not shortage.anywhere(self.world, found is None):
            return found
        self.trainee.optimiser.clear()
        torch.set_rng_state(random)
        if random_cuda is not None:
            torch.cuda.set_rng_state(random_cuda, self.device)
        return None

    def _shrink(self, number: int, examples: Sequence[TokenRow]) -> None:
        """Take half the tokens a pass from now on: the same step, in more passes."""
        try:
            before, now = shortage.halve(self.passes, self.world, examples)
        except shortage.TooLarge as error:
            raise self._failure(number, str(error), {}) from None
        self.spent.out_of_memory.append({"step": number + 1, "from": before, "to": now})
        self.note(
            f"out of memory at step {number + 1}; micro_tokens {before} -> {now} from here on, the same examples a step"
        )
        if self.world.sharded:
            raise shortage.restart(self.work, self.spent.out_of_memory, number + 1)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _record(self, number: int, examples: Sequence[TokenRow], told: dict[str, float], rate: float) -> dict[str, Any]:
        """Return a step's line of the log; `told` has the gradient's norm under no name, and the penalties."""
        supervised, total = len(self.losses.nll), sum(len(row.ids) for row in examples)
        self.spent.supervised_tokens += supervised
        self.spent.total_tokens += total
        norm = told.pop("")
        return {
            "step": number + 1,
            "epoch": number // int(self.hyper.get("steps_per_epoch") or len(self.steps)) + 1,
            "loss": self.losses.mean(),
            "grad_norm": norm,
            "supervised_tokens": supervised,
            "total_tokens": total,
            "parts": self.losses.by_part(examples),
            **({"penalties": told} if told else {}),
            "lr": rate,
            "seconds": self.clock.lap(self.spent),
        }

    def _failure(self, number: int, why: str, record: Mapping[str, Any]) -> StageFailed:
        # What has no numbers may be known to one process alone.
        return failure(self.work, number, self.steps, why, record, writes=self.world.is_writer or not record)

    # ----------------------------------------------------------------------------------------------- the end

    def summary(self) -> dict[str, Any]:
        """Return the facts about the whole training, resumes included."""
        cpu, memory = sum(self.world.each(self.spent.cpu_seconds)), max(self.world.each(peak_rss_mb()))
        card = max(self.world.each(torch.cuda.max_memory_allocated() / 1e6 if self.device.type == "cuda" else 0.0))
        if not self.world.is_writer:
            return {"steps": self.done}
        records = list(self.journal.records())
        return {
            "steps": self.done,
            "first_loss": records[0]["loss"],
            "final_loss": records[-1]["loss"],
            "supervised_tokens": self.spent.supervised_tokens,
            "total_tokens": self.spent.total_tokens,
            "seconds": self.spent.seconds,
            "cpu_seconds": cpu,
            "peak_rss_mb": memory,
            **({"peak_gpu_mb": card} if card else {}),
            "layout": self.passes.layout,
            "processes": self.world.size,
            "trained_parameters": sum(weight.numel() for weight in self.trainee.optimiser.weights.values()),
            "packed_against_unpacked": first_batch.kept(self.work),
            "resumed_from": self.spent.resumed_from,
            "out_of_memory": self.spent.out_of_memory,
            "loss_by_part": loss_by_part(records),
        }
