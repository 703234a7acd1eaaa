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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from cuvee import preemption, seeds
from cuvee.engine import kernels, loading, lora
from cuvee.engine.devices import Restart, World, stored
from cuvee.engine.disk import (
    Background,
    Checkpoints,
    Journal,
    Ticker,
    fingerprint,
    loss_by_part,
    mark_file,
    mark_step,
    sync_file,
    sync_tree,
    write_text,
)
from cuvee.engine.flat import Flat, count, flatten
from cuvee.engine.loss import token_losses
from cuvee.engine.optimiser import SCHEDULES, Optimiser, learning_rate
from cuvee.engine.regularisers import WeightPenalty, ewc, kl, l2_sp
from cuvee.errors import StageFailed, UsageError, did_you_mean
from cuvee.protocols import Progress, TokenRow, TokenRows
from cuvee.runtime import Runtime

Track = Callable[[Mapping[str, Any]], None]
"""Takes the log's records one after another."""

MEMORY = "out_of_memory.json"
"""What processes that divide the weights ran out of, since all of them start again then."""

CHECKS = "checks.json"
"""What was measured on the first batch."""

Found = TypeVar("Found")

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
        work: folder for log.jsonl and checkpoints; a training found there is resumed.
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
    training = _Training(
        model_folder, rows, steps, hyper, work, runtime, progress, micro_batches, adapter, fisher, world
    )
    training.track = track or training.track
    training.marks = {at: mark_step(at, len(steps)) for at in marks}
    training.last, training.check = until or len(steps), check
    training.resume_or_start(checkpoints)
    training.run()
    training.export(model_folder, out)
    summary = training.summary()
    if world.is_writer:
        checkpoints.finish(summary)
    return summary


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


STATES = "states"
"""Folder of adapters with their moments at the end of each epoch, where ``states: epochs`` asks for them."""


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
        fisher: Path | None = None,
        world: World | None = None,
    ) -> None:
        self.clock = _Clock()
        self.world = world or World()
        self.rows, self.steps, self.hyper, self.runtime = rows, steps, hyper, runtime
        self.work, self.micro_batches = work, micro_batches
        self.progress = progress if self.world.is_writer else lambda facts: None
        self.journal = Journal(work / "log.jsonl")
        self.track: Track = lambda record: None
        self.threads = loading.set_threads(runtime)
        self.device = self.world.device(loading.device_of(runtime, self.progress))
        self.adapter = adapter
        self.kl: kl.KL | None = None
        asked = hyper.get("regulariser", {})
        self.loaded, self.wrapped = self._load(model_folder, asked)
        self._check_rows()
        self.optimiser = Optimiser(self.loaded.model, hyper, self.world)
        self.anchors = self._anchors(asked, fisher)
        self.layout = self.loaded.layout
        self.spent, self.done = _Spent(), 0
        self.micro_tokens = runtime.micro_tokens
        self.marks: Mapping[Fraction, int] = {}
        self.last = len(steps)
        self.check: Callable[[Mapping[str, Any]], None] = lambda record: None
        self.writer = Background()

    def _load(self, folder: Path, asked: Mapping[str, Any]) -> tuple[loading.Loaded, Any]:
        """Return the model and PEFT's wrapper around it, None without an adapter."""
        precision = self.hyper["precision"]
        if not self.world.sharded:
            self.loaded = loading.load(folder, precision, self.device)
            kernels.put(self.loaded.model, self.runtime)
            # Of the starting model, before an adapter is put into it.
            self.kl = self._kl(asked[kl.NAME], self.adapter) if kl.NAME in asked else None
            return self.loaded, self._attach(self.loaded.model)
        dtype = loading.dtype_of(precision)
        model = loading.load_stock(folder, dtype)
        kernels.put(model, self.runtime)
        wrapped = self._attach(model)
        self.world.divide(model, self.device, compute=dtype)
        return loading.ready(model), wrapped

    def _attach(self, model: Any) -> Any:
        if self.hyper.get("method") != "lora":
            return None
        return lora.attach(model, self.hyper["lora"], int(self.hyper["seed"]), self.adapter)

    def note(self, text: str) -> None:
        """Say something worth knowing."""
        self.progress({"note": text})

    def _check_rows(self) -> None:
        """Refuse rows that the model cannot take before the first step, where the rows can tell."""
        extent = getattr(self.rows, "extent", None)
        if extent is None:
            return
        longest, largest = extent()
        loading.check_extent(self.loaded.model, longest, largest)
        if longest > (known := loading.trained_positions(self.loaded.model)):
            self.note(f"rows of up to {longest} tokens; the model's configuration knows {known} positions")

    def _kl(self, settings: Mapping[str, Any], adapter: Path | None) -> kl.KL:
        """Return the penalty of the outputs; with LoRA the starting model shares the frozen weights."""
        twin = kl.frozen_twin(self.loaded, shared=self.hyper.get("method") == "lora")
        if adapter is not None:
            lora.freeze_with(twin.model, adapter)
        return kl.KL(float(settings["weight"]), settings["direction"], twin)

    def _anchors(self, asked: Mapping[str, Any], fisher: Path | None) -> list[WeightPenalty]:
        """Return the penalties of the weights, which are now those that the training starts from."""
        found: list[WeightPenalty] = []
        strengths = {name: float(settings["weight"]) for name, settings in asked.items() if name != kl.NAME}
        if self.wrapped is not None:
            if ewc.NAME in strengths:
                raise UsageError(
                    "regulariser ewc needs the Fisher information of what is trained, and an adapter is new"
                )
            if l2_sp.NAME in strengths:
                found.append(l2_sp.OfAdapter(strengths[l2_sp.NAME], lora.factors(self.wrapped)))
            return found
        if strengths:
            starts = {name: self.world.own(w).detach().clone() for name, w in self.optimiser.weights.items()}
        if l2_sp.NAME in strengths:
            found.append(l2_sp.of_weights(strengths[l2_sp.NAME], self.optimiser.masters, starts))
        if ewc.NAME in strengths:
            if fisher is None:
                raise UsageError("regulariser ewc needs the Fisher information of the starting model")
            found.append(ewc.of_weights(strengths[ewc.NAME], self.optimiser.masters, starts, fisher))
        return found

    # ------------------------------------------------------------------------------------- start and resume

    def resume_or_start(self, checkpoints: Checkpoints) -> None:
        """Take up the newest whole checkpoint, or check the first batch and start at step 0."""
        torch.manual_seed(seeds.stream(int(self.hyper["seed"]), "train"))
        self.checkpoints = checkpoints
        found = checkpoints.newest(self.note) if self.world.is_writer else None
        step = int(self.world.first(found[1]["step"] if found else -1))
        if step < 0:
            self._recall_memory()
            self._choose_layout()
        else:
            self._restore(*(found or checkpoints.at(step)))
        self.loaded.use(self.layout)
        if self.kl:
            self.kl.twin.use(self.layout)
        self.loaded.model.train()
        if self.runtime.checkpoint_activations:
            self._forget_activations()
        if self.world.is_writer:
            (self.work / "failure.json").unlink(missing_ok=True)  # of an earlier try
            self.journal.cut(self.done)
            for record in self.journal.records():
                self.track(record)

    def _recall_memory(self) -> None:
        """Go on with the smaller passes that were found to be needed."""
        path = self.work / MEMORY
        told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if len(told) > len(self.spent.out_of_memory):
            self.spent.out_of_memory = told
        if self.spent.out_of_memory:
            self.micro_tokens = min(self.micro_tokens, self.spent.out_of_memory[-1]["to"])

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
        examples = [self.rows[i] for i in self.steps[0]]
        while True:
            far = self._without_memory_error(lambda: self._flat_against_single(self._split(examples)[0]))
            if not self._short(far is None):
                break
            self.layout = "flat"
            self._shrink(0, examples)
        far = self.world.first(far or 0.0)
        if self.world.is_writer:
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
                passes = (
                    token_losses(self.loaded.model, flat, segments=layout == "flat")
                    for flat, _ in self._passes(examples)
                )
                sums[layout] = sum(float(nll.sum()) for nll in passes)
        return loading.distance(sums["flat"], sums["single"])

    def _restore(self, folder: Path, facts: dict[str, Any]) -> None:
        weights = self.optimiser.weights
        with safe_open(folder / "model.safetensors", "pt") as file, torch.no_grad():
            for name, part, weight in self._trained():
                part.copy_(self.world.read(file, name, weight))
        self.optimiser.round()
        with safe_open(folder / "state.safetensors", "pt") as file:
            names = file.keys()
            state = {name: self.world.read(file, name, stored(self.world, weights, name)) for name in names}
        self.optimiser.restore(state)
        if "random.cpu" in state:  # several processes draw anew at each step
            torch.set_rng_state(state["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in state:
            torch.cuda.set_rng_state(state["random.cuda"], self.device)
        self.done, self.layout = int(facts["step"]), facts["layout"]
        self.spent = _Spent(**facts["spent"])
        self.spent.resumed_from.append(self.done)
        self.spent.cpu_seconds *= self.world.is_writer  # one tells what all have spent
        self._recall_memory()
        self._tell_resume(facts["how"])

    def _trained(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """Yield what a training changes: weights that need a gradient (an adapter's alone with LoRA), and buffers.

        That is a name, what this process holds of it (in float32 where the optimiser does), and the weight that says
        how it is divided.
        """
        for name, weight in self.optimiser.weights.items():
            yield name, self.optimiser.masters[name], weight
        for name, buffer in self.loaded.model.named_buffers():
            yield name, buffer, None

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
            **({} if self.runtime.kernels == "stock" else {"kernels": self.runtime.kernels}),
            **({} if self.world.alone else {"processes": self.world.size, "shard": self.world.shard}),
        }

    def _checkpoint(self) -> None:
        """Copy the state and let a thread write it: training goes on meanwhile."""
        weights = self.world.copies(self._trained())
        of = self.optimiser.weights
        state = self.world.copies((n, t, stored(self.world, of, n)) for n, t in self.optimiser.tensors().items())
        spent = {**asdict(self.spent), "cpu_seconds": sum(self.world.each(self.spent.cpu_seconds))}
        if not self.world.is_writer:
            return
        if self.world.alone:
            state["random.cpu"] = torch.get_rng_state()
            if self.device.type == "cuda":
                state["random.cuda"] = torch.cuda.get_rng_state(self.device)

        def fill(folder: Path) -> None:
            save_file(weights, folder / "model.safetensors")
            save_file(state, folder / "state.safetensors")

        step, facts = self.done, {"layout": self.layout, "spent": spent, "how": self._how()}

        def write() -> None:
            self.journal.sync()
            self.checkpoints.write(step, fill, facts)

        self.writer.start(write)

    def _write_marks(self) -> None:
        """Leave the weights for the marks of this step; checkpoints after it wait for them, the training does not."""
        for at in [at for at, step in self.marks.items() if step == self.done]:
            file, weights = mark_file(self.work, at), self.world.copies(self._trained())
            if not self.world.is_writer:
                continue
            if self.wrapped is None:  # adapters are in float32 whatever the model is
                dtype = loading.dtype_of(self.hyper["precision"])
                weights |= {name: weights[name].to(dtype) for name in self.optimiser.weights}
            self.writer.follow(lambda file=file, weights=weights: _write_weights(file, weights))  # type: ignore[misc]

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
                    record = self._step(self.done)
                    self.check(record)
                    self.done += 1
                    self._keep_epoch(record)
                    if self.world.is_writer:
                        self.journal.append(record)
                        self.track(record)
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
                self.writer.wait()
        self.clock.lap(self.spent)

    def _keep_epoch(self, record: Mapping[str, Any]) -> None:
        """At the end of an epoch, write adapter and moments if they are asked for: LESS reads them.

        The step that ends it is not logged before, so that a resumed training writes it again.
        """
        length = int(self.hyper.get("steps_per_epoch") or len(self.steps))
        if self.hyper.get("states") != "epochs" or self.done % length:
            return
        of = self.optimiser.weights
        held = [(f"weight.{name}", self.optimiser.masters[name], weight) for name, weight in of.items()]
        held += [(name, t, stored(self.world, of, name)) for name, t in self.optimiser.tensors().items()]
        tensors = self.world.copies(held)
        if not self.world.is_writer:
            return
        folder = self.work / STATES
        folder.mkdir(exist_ok=True)
        part, final = folder / "partial", folder / f"epoch-{record['epoch']}.safetensors"
        save_file(tensors, part)
        part.replace(final)

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

    def _step(self, number: int) -> dict[str, Any]:
        indexes = self.steps[number]
        examples = [self.rows[i] for i in indexes]
        supervised, total = sum(map(count, examples)), sum(len(row.ids) for row in examples)
        if not supervised:
            raise self._failure(number, "it has no supervised token", {})
        if not self.world.alone:
            torch.manual_seed(seeds.stream(int(self.hyper["seed"]), f"train {number} {self.world.rank}"))
        while (found := self._gradients(examples, supervised)) is None:
            self._shrink(number, examples)
        losses, parts, apart = found
        self.optimiser.pool()
        penalties = self._penalties(apart, supervised)
        rate = learning_rate(number, len(self.steps), self.hyper)
        norm = self.optimiser.step(rate)
        losses, parts = self._of_all(losses, parts, examples, supervised)
        # The step's only wait for the device.
        told = torch.stack([norm, *penalties.values()]).float()
        host = torch.cat([told, *losses]).cpu().numpy().astype(np.float64)
        record = self._record(number, host[len(told) :], np.concatenate(parts), supervised, total)
        record["grad_norm"] = float(host[0])
        if penalties:
            record["penalties"] = dict(zip(penalties, map(float, host[1 : len(told)]), strict=True))
        record["lr"] = rate
        record["seconds"] = self.clock.lap(self.spent)
        if not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])):
            raise self._failure(number, "the loss or the gradient is not finite", record)
        return record

    def _penalties(self, apart: Sequence[torch.Tensor], supervised: int) -> dict[str, torch.Tensor]:
        """Add the gradients of the weights' penalties; return all penalties, each (), of all processes together."""
        found = {}
        if self.kl:
            found[kl.NAME] = torch.stack([torch.zeros((), device=self.device), *apart]).sum() / supervised
            self.world.sum(found[kl.NAME])
        for anchor in self.anchors:
            found[anchor.name] = anchor.add()
            if self.world.sharded:  # of this process's part of the weights
                self.world.sum(found[anchor.name])
        return found

    def _gradients(
        self, examples: Sequence[TokenRow], supervised: int
    ) -> tuple[list[torch.Tensor], list[NDArray[Any]], list[torch.Tensor]] | None:
        """Gather a step's gradients, or return None where the memory was too small.

        After None the gradients are dropped and the random state is the one before.

        Returns:
            nll of each token, part of each, and where the start holds the outputs the weighted KL of each pass.
        """
        random = torch.get_rng_state()
        random_cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        found = self._without_memory_error(lambda: self._gathered(examples, supervised))
        if not self._short(found is None):
            return found
        self.optimiser.clear()
        torch.set_rng_state(random)
        if random_cuda is not None:
            torch.cuda.set_rng_state(random_cuda, self.device)
        return None

    def _gathered(
        self, examples: Sequence[TokenRow], supervised: int
    ) -> tuple[list[torch.Tensor], list[NDArray[Any]], list[torch.Tensor]]:
        losses, parts, apart = [], [], []
        share = self.world.share(examples)
        # FSDP divides gradients by the number of processes; here they are sums.
        scale = self.world.size if self.world.sharded else 1
        for micro in self._split(share):
            for flat, owners in self._passes(micro):
                segments = self.layout == "flat"
                if self.kl:
                    objective, nll, far = self.kl.losses(self.loaded.model, flat, segments=segments)
                    apart.append(far.sum())
                else:
                    objective = nll = token_losses(self.loaded.model, flat, segments=segments)
                torch.autograd.backward(objective.sum() / (supervised / scale))
                losses.append(nll.detach())
                parts.append(owners)
            self.optimiser.gather()
        self._keep_company(examples, share)
        return losses, parts, apart

    def _keep_company(self, examples: Sequence[TokenRow], share: Sequence[TokenRow]) -> None:
        """Do as many passes as the process with the most: divided weights are gathered by all or by none."""
        if not self.world.sharded:
            return
        most = max(self._count_passes(self.world.share(examples, rank)) for rank in range(self.world.size))
        shortest = min(filter(count, examples), key=lambda row: len(row.ids))
        for _ in range(most - self._count_passes(share)):
            for flat, _ in self._passes([shortest]):
                nll = token_losses(self.loaded.model, flat, segments=self.layout == "flat")
                torch.autograd.backward(nll.sum() * 0.0)
            self.optimiser.gather()

    def _count_passes(self, share: Sequence[TokenRow]) -> int:
        return sum(len(self._groups(micro)) for micro in self._split(share))

    def _of_all(
        self, losses: list[torch.Tensor], parts: list[NDArray[Any]], examples: Sequence[TokenRow], supervised: int
    ) -> tuple[list[torch.Tensor], list[NDArray[Any]]]:
        """Return nll and part of the tokens of all processes, in order of rank."""
        if self.world.alone:
            return losses, parts
        counts = [sum(map(count, self.world.share(examples, rank))) for rank in range(self.world.rank)]
        none = torch.zeros(0, device=self.device)
        owners = torch.from_numpy(np.concatenate([np.zeros(0), *parts])).to(none)
        nll, part = self.world.pool(torch.stack([torch.cat([none, *losses]), owners]), sum(counts), supervised)
        return [nll], [part.cpu().numpy().astype(np.int64)]

    def _short(self, here: bool) -> bool:
        """Return whether memory was too small in some process; where weights are divided the others cannot be asked."""
        return here if self.world.alone or self.world.sharded else self.world.any(here)

    def _without_memory_error(self, work: Callable[[], Found]) -> Found | None:
        """Return what `work` returns, or None where device or host had too little memory for it."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        return None

    def _shrink(self, number: int, examples: Sequence[TokenRow]) -> None:
        """Take half the tokens a pass from now on: the same step, in more passes."""
        shares = [self.world.share(examples, rank) for rank in range(self.world.size)]
        largest = max(sum(len(row.ids) for row in group) for share in shares for group in self._split(share))
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
        if self.world.sharded:
            write_text(self.work / MEMORY, json.dumps(self.spent.out_of_memory))
            raise Restart(f"out of memory at step {number + 1}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _record(
        self, number: int, nll: NDArray[Any], parts: NDArray[Any], supervised: int, total: int
    ) -> dict[str, Any]:
        self.spent.supervised_tokens += supervised
        self.spent.total_tokens += total
        sums, tokens = np.bincount(parts, weights=nll), np.bincount(parts)
        return {
            "step": number + 1,
            "epoch": number // int(self.hyper.get("steps_per_epoch") or len(self.steps)) + 1,
            "loss": float(nll.sum() / supervised),
            "grad_norm": 0.0,
            "supervised_tokens": supervised,
            "total_tokens": total,
            "parts": {str(p): {"nll": float(sums[p]), "tokens": int(tokens[p])} for p in np.flatnonzero(tokens)},
        }

    def _split(self, examples: Sequence[TokenRow]) -> list[list[TokenRow]]:
        """Return a step's examples in groups of at most `micro_tokens`."""
        lengths = np.asarray([len(row.ids) for row in examples], dtype=np.int64)
        groups = self.micro_batches(lengths, np.arange(len(examples)), self.micro_tokens)
        return [[examples[i] for i in group] for group in groups]

    def _passes(self, examples: Sequence[TokenRow]) -> Iterable[tuple[Flat, NDArray[Any]]]:
        """Yield the forward passes of one micro batch, each with the part of every supervised token."""
        for group in self._groups(examples):
            loading.check_fit(self.loaded.model, group)
            flat = flatten(group, self.device)
            part = np.asarray([row.part for row in group], dtype=np.int64)
            yield flat, part[flat.owner]

    def _groups(self, examples: Sequence[TokenRow]) -> list[list[TokenRow]]:
        """Return the rows of each forward pass of one micro batch."""
        rows = sorted(filter(count, examples), key=lambda row: len(row.ids))  # equal lengths share attention calls
        groups = [rows] if self.layout == "flat" else [[row] for row in rows]
        return [group for group in groups if group]

    def _failure(self, number: int, why: str, record: Mapping[str, Any]) -> StageFailed:
        rows = [int(i) for i in self.steps[number]]
        evidence = {"step": number + 1, "why": why, "rows": rows, "record": _plain(record)}
        if self.world.is_writer or not record:  # what has no numbers may be known to one process alone
            write_text(self.work / "failure.json", json.dumps(evidence, indent=1))
        shown = ", ".join(map(str, rows[:16])) + (", ..." if len(rows) > 16 else "")
        return StageFailed(
            f"step {number + 1} of {len(self.steps)}: {why}; rows {shown}. All rows and the step's numbers are in "
            f"{self.work / 'failure.json'}. Look at these rows, or lower learning_rate",
            stage="train",
        )

    # ----------------------------------------------------------------------------------------------- the end

    def export(self, source: Path, out: Path) -> None:
        """Save the model as an ordinary folder; the writer does, from what all hold."""
        model, wrapped = self.loaded.model, self.wrapped
        if self.world.sharded:
            if self.world.is_writer:
                # A stock model of its own in host memory takes the whole weights, one after another.
                model = loading.load_stock(source, loading.dtype_of(self.hyper["precision"]))
                wrapped = self._attach(model)
            targets = dict(model.named_parameters())
            for name, weight in self.optimiser.weights.items():
                whole = self.world.whole(self.optimiser.masters[name], weight)
                if self.world.is_writer:
                    targets[name].data = whole.to("cpu", targets[name].dtype, copy=True)
        if not self.world.is_writer:
            return
        if wrapped is None:
            loading.save(model, source, out)
        else:
            lora.save(wrapped, source, out)

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
            "layout": self.layout,
            "processes": self.world.size,
            "trained_parameters": sum(weight.numel() for weight in self.optimiser.weights.values()),
            "packed_against_unpacked": self._checked(),
            "resumed_from": self.spent.resumed_from,
            "out_of_memory": self.spent.out_of_memory,
            "loss_by_part": loss_by_part(records),
        }


def _write_weights(file: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file, complete or absent, flushed to disk."""
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(file.name + ".partial")
    save_file(weights, part)
    sync_file(part)
    part.replace(file)
    sync_tree(file.parent, files=False)


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
