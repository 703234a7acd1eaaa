"""Walk a plan's graph: ask the store before each stage, give what is missing to workers, go on past failures.

What is missing is `needs.wanted`'s answer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from cuvee import gate, job, tracking
from cuvee.bases import MODEL
from cuvee.engine import endpoint, kernels
from cuvee.errors import UsageError, WorkFailed, WorkStopped
from cuvee.needs import kept_models, present, wanted
from cuvee.plan import Plan
from cuvee.runtime import Runtime, cores
from cuvee.stage import Made, Stage
from cuvee.store import Store

Listener = Callable[[str, Stage, Mapping[str, Any]], None]
"""Told what happens: started, progress, done, failed, skipped, waiting, stopped."""

RETRY_SECONDS = 0.3
"""How long to wait before asking again for a stage that another process is making."""


@dataclass
class Outcome:
    """What a run did.

    Args:
        executed: short names of the stages that were executed here.
        elsewhere: stages that another process finished meanwhile.
        cached: how many wanted stages were there already.
        failed: error text by short name.
        skipped: stages that were not tried, with the failed stage they hang from.
        stopped: whether SIGTERM ended the run early.
        unfinished: stages that were under way then.
        seconds: wall-clock seconds.
    """

    executed: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    cached: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    unfinished: list[str] = field(default_factory=list)
    seconds: float = 0.0


def execute(
    plan: Plan,
    runtime: Runtime,
    listen: Listener = lambda event, stage, facts: None,
    costs: Mapping[str, float] | None = None,
    targets: Sequence[Stage] | None = None,
    *,
    gated: bool = False,
) -> Outcome:
    """Execute what a plan lacks.

    Args:
        plan: what to do.
        runtime: how to do it.
        listen: told of every event.
        costs: seconds by stage id; the stage with the longest way to a leaf goes first.
        targets: execute no more than these stages and what they need; the whole recipe when None.
        gated: of `targets`, whether trainings wait for what the preflight says, as they do of a whole recipe.

    Raises:
        UsageError: the plan holds data or a model that is only declared.
    """
    provisional = plan.provisional()
    if provisional:
        names = ", ".join(sorted({stage.label for stage in provisional}))
        raise UsageError(
            f"{names}: only declared, not at hand; a plan can be made of it, a run cannot. "
            "Give a path that exists, such as sources.NAME.path=FILE or base=FOLDER"
        )
    store = Store(runtime.store)
    todo = wanted(plan, store, targets)
    _check_extras(todo, plan)
    _check_servers(todo)
    _check_gpus(runtime)
    tracking.check(runtime.track)
    kernels.check(runtime)
    outcome = Outcome(cached=len(plan.stages) - len(todo))
    started = time.time()
    if todo:
        store.prepare()
        with store.lease(stage.id for stage in plan.stages):
            # Asked again under the lease: what somebody deleted just before is made again.
            todo = wanted(plan, store, targets)
            _claim(plan, store)
            scheduler = _Scheduler(plan, store, todo, decided(runtime, len(todo)), listen, costs or {}, outcome)
            # Whoever asks for some stages only, such as the checks themselves, judges what they say.
            scheduler.gated = targets is None or gated
            scheduler.work()
            shed_models(plan, store)
    elif store.folder.exists():
        shed_models(plan, store)
        if targets is None:
            _refuse(plan, store, listen, outcome)
    outcome.seconds = time.time() - started
    return outcome


def _refuse(plan: Plan, store: Store, listen: Listener, outcome: Outcome) -> None:
    """Say again of a finished recipe what its checks speak against: what was accepted once is not accepted for ever."""
    for stage in plan.preflights:
        if store.has(stage.kind, stage.id) and (refusal := gate.refusal(plan, store, stage)):
            outcome.failed[stage.short] = refusal
            listen("failed", stage, {"error": refusal})


def _check_servers(todo: Iterable[Stage]) -> None:
    """Refuse to start what would fail for want of a key: a judge may be asked only after hours of training."""
    for stage in todo:
        for role in ("model", "judge"):
            for asked in stage.inputs.get(role, ()) if stage.kind in ("generate", "judge") else ():
                if server := asked.locate.get("endpoint"):
                    endpoint.need(endpoint.Endpoint(**server))


def _check_extras(todo: Iterable[Stage], plan: Plan) -> None:
    """Refuse to start what would fail for want of a package."""
    real = any(run.base.component != "fake" for run in plan.runs)
    kinds = {(stage.kind, stage.component) for stage in todo}
    models = ("train", "mark", "fold", "merge", "fisher", "score", "embed", "generate", "choose")
    if not real or not any(kind in models for kind, _ in kinds):
        return
    absent = [name for name in ("torch", "transformers", "safetensors") if find_spec(name) is None]
    if absent:
        raise UsageError(f"{', '.join(absent)}: not installed, and training needs it; pip install 'cuvee[train]'")
    if any(kind == "harness" for kind, _ in kinds) and find_spec("lm_eval") is None:
        raise UsageError("lm_eval: not installed, and evaluation: lm_eval needs it; pip install 'cuvee[harness]'")
    if {("train", "lora"), ("mark", "lora"), ("fold", "lora")} & kinds and find_spec("peft") is None:
        raise UsageError("peft: not installed, and method: lora needs it; pip install 'cuvee[lora]'")


def shed_models(plan: Plan, store: Store) -> int:
    """Give up weights that `keep_models` does not ask for and nothing missing needs; returns the bytes freed.

    Weights that another recipe trained to keep, or that a run under way needs, stay (`Store.shed`).
    """
    kept = kept_models(plan) | {parent.id for stage in wanted(plan, store) for parent in stage.parents()}
    return sum(
        store.shed(stage.kind, stage.id, MODEL)
        for stage in plan.stages
        if isinstance(stage, Made) and stage.id not in kept and present(store, stage)
    )


def _claim(plan: Plan, store: Store) -> None:
    """Models that are here to be given up and that this recipe keeps are kept from now on."""
    kept = kept_models(plan)
    for stage in plan.stages:
        here = stage.id in kept and present(store, stage)
        if here and store.manifest(stage.kind, stage.id).get("disposable"):
            store.amend(stage.kind, stage.id, disposable=False)


@contextlib.contextmanager
def _on_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` when SIGTERM comes. Only a main thread can listen; in another, signals stay the caller's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@cache
def gpus() -> list[str]:
    """Return the GPUs this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA itself reads -1 as the end of the list.
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), map(str.strip, visible.split(","))))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def decided(runtime: Runtime, stages: int) -> Runtime:
    """Return the runtime with its zeros and autos decided for this machine and so many stages.

    Raises:
        UsageError: a GPU was asked for and there is none.
    """
    devices = gpus() if runtime.device in ("auto", "cuda") else []
    device = runtime.device if runtime.device == "auto" and devices else "cuda" if devices else "cpu"
    if runtime.device == "cuda" and not devices:
        raise UsageError("device cuda was asked for and there is no GPU; use --device cpu")
    slots = max(1, (len(devices) or min(cores(), 4)) // runtime.processes)
    workers = runtime.workers or max(1, min(slots, stages))
    return replace(runtime, device=device, workers=workers, threads=runtime.threads or max(1, cores() // workers))


def _check_gpus(runtime: Runtime) -> None:
    number = len(gpus()) if runtime.device != "cpu" else 0
    if 0 < number < runtime.processes:
        raise UsageError(
            f"--processes {runtime.processes} were asked for and there are {number} GPUs, one for each at most; use "
            f"--processes {number}, or --device cpu"
        )


class _Process:
    """One worker process and what it is doing."""

    def __init__(self, runtime: Runtime, number: int, slot: int) -> None:
        self.slot = slot
        self.log = Path(runtime.store) / "logs" / f"worker-{os.getpid()}-{number}.log"
        environment = {**os.environ, "OMP_NUM_THREADS": str(runtime.threads), "TOKENIZERS_PARALLELISM": "false"}
        if devices := gpus() if runtime.device != "cpu" else []:
            several = runtime.processes
            own = [devices[(slot * several + number) % len(devices)] for number in range(several)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cuvee.worker", json.dumps(runtime.as_dict())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                # Ctrl-C reaches the planner alone; it ends its workers in order.
                start_new_session=True,
            )
        self.stage: Stage | None = None
        self.asked_to_stop = False
        self.buffer = b""

    @property
    def out(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def give(self, stage: Stage, work: job.Job) -> None:
        """Hand a job over."""
        self.stage = stage
        assert self.process.stdin is not None
        # When it died meanwhile, the end of its output tells.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(work.as_dict()).encode() + b"\n")
            self.process.stdin.flush()

    def ask_to_stop(self) -> None:
        """Let the process save what it is doing and end."""
        if not self.asked_to_stop:
            self.asked_to_stop = True
            self.process.terminate()

    def events(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the events that have come, and whether the process has ended."""
        data = os.read(self.out.fileno(), 1 << 16)
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        return [json.loads(line) for line in lines], not data

    def stop(self) -> None:
        """End the process and wait for it; an empty log is removed."""
        self.process.kill()
        self.process.wait()
        self.out.close()
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        if self.log.exists() and self.log.stat().st_size == 0:
            self.log.unlink()

    def last_words(self) -> str:
        """Return the end of what the process wrote to its log."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").strip()[-600:]
        except OSError:
            return ""


class _Scheduler:
    """Gives ready stages to free workers until nothing is left that can be done."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        todo: list[Stage],
        runtime: Runtime,
        listen: Listener,
        costs: Mapping[str, float],
        outcome: Outcome,
    ) -> None:
        self.plan, self.store, self.runtime, self.listen, self.outcome = plan, store, runtime, listen, outcome
        self.gated = True
        self.waiting = {stage.id: stage for stage in todo}
        self.children: dict[str, list[str]] = {}
        for stage in todo:
            for parent in plan.before(stage):
                self.children.setdefault(parent.id, []).append(stage.id)
        self.kept = kept_models(plan)
        self.priority = _critical_path(todo, costs, plan.before)
        self.unfinished = set(self.waiting)
        self.not_before: dict[str, float] = {}
        self.workers: list[_Process] = []
        self.selector = selectors.DefaultSelector()
        self.count = 0

    def work(self) -> None:
        """Run until every wanted stage is finished, failed or skipped."""
        try:
            for stage in self.plan.preflights:
                if stage.id not in self.unfinished and present(self.store, stage):
                    self._pass(stage)
            with _on_sigterm(self._stop):
                self._go_on()
        finally:
            for worker in self.workers:
                worker.stop()
            self.selector.close()

    def _go_on(self) -> None:
        while self.unfinished and (self._busy() or not self.outcome.stopped):
            if not self.outcome.stopped:
                self._hand_out()
            for key, _ in self.selector.select(timeout=RETRY_SECONDS):
                self._listen_to(key.data)
            if self.outcome.stopped:
                for worker in self._busy():
                    worker.ask_to_stop()

    def _ready(self) -> list[Stage]:
        now = time.monotonic()
        found = [
            stage
            for stage in self.waiting.values()
            if self.not_before.get(stage.id, 0) <= now
            and not any(parent.id in self.unfinished for parent in self.plan.before(stage))
        ]
        # Where weights are given up, measuring goes before training: what is measured can go.
        thrifty = self.plan.located.recipe.keep_models != "all"
        return sorted(found, key=lambda s: (thrifty and s.kind == "train", -self.priority[s.id]))

    def _hand_out(self) -> None:
        for stage in self._ready():
            worker = self._free_worker()
            if worker is None:
                return
            del self.waiting[stage.id]
            passed = gate.passed(self.plan, self.store, stage)
            marks = [m.identity["params"]["fraction"] for m in self._unmade(stage)]
            keep = stage.id in self.kept
            work = job.make(stage, self.store, self.plan.sources, keep=keep, preflight=passed, marks=marks)
            worker.give(stage, work)
            self.listen("started", stage, {})

    def _unmade(self, training: Stage) -> list[Stage]:
        """Return the marks that a training passes and that are not there yet."""
        return [mark for mark in self.plan.marks.get(training.id, ()) if not self.store.has(mark.kind, mark.id)]

    def _free_worker(self) -> _Process | None:
        for worker in self.workers:
            if worker.stage is None:
                return worker
        if len(self.workers) < self.runtime.workers:
            taken = {worker.slot for worker in self.workers}
            slot = next(slot for slot in range(self.runtime.workers) if slot not in taken)
            worker = _Process(self.runtime, self.count, slot)
            self.count += 1
            self.workers.append(worker)
            self.selector.register(worker.out, selectors.EVENT_READ, worker)
            return worker
        return None

    def _listen_to(self, worker: _Process) -> None:
        events, ended = worker.events()
        for event in events:
            self._react(worker, event)
        if ended:
            stage = worker.stage
            self._replace(worker)
            if stage is not None:
                code = worker.process.returncode
                if worker.asked_to_stop:  # before it could listen
                    self._unfinished(stage)
                    return
                self._failed(stage, f"its worker process died (code {code}). {worker.last_words()}".strip())

    def _react(self, worker: _Process, event: dict[str, Any]) -> None:
        stage = worker.stage
        assert stage is not None
        kind = event.pop("event")
        if kind == "progress":
            self.listen("progress", stage, event)
            return
        worker.stage = None
        if kind == "busy":
            self.waiting[stage.id] = stage
            self.not_before[stage.id] = time.monotonic() + RETRY_SECONDS
            self.listen("waiting", stage, event)
        elif kind == "done":
            self.unfinished.discard(stage.id)
            (self.outcome.executed if event["how"] == "executed" else self.outcome.elsewhere).append(stage.short)
            self._give_up_parents(stage)
            self.listen("done", stage, event)
            if stage.kind == "preflight":
                self._pass(stage)
        elif kind == "stopped":
            self._replace(worker)
            self._stop()  # whoever stops one worker means the run
            self._unfinished(stage)
        else:
            self._replace(worker)
            self._failed(stage, event["error"], event.get("trace", ""))

    def _busy(self) -> list[_Process]:
        return [worker for worker in self.workers if worker.stage is not None]

    def _stop(self) -> None:
        self.outcome.stopped = True

    def _unfinished(self, stage: Stage) -> None:
        self.outcome.unfinished.append(stage.short)
        self.listen("stopped", stage, {})

    def _give_up_parents(self, stage: Stage) -> None:
        """Give up the weights that nothing needs any more, at once: `keep_models` bounds the disk during the run."""
        for parent in stage.parents():
            needed = any(child in self.unfinished for child in self.children.get(parent.id, ()))
            if isinstance(parent, Made) and parent.id not in self.kept and not needed:
                self.store.shed(parent.kind, parent.id, MODEL)

    def _replace(self, worker: _Process) -> None:
        """A worker that failed may hold broken state; the next stage gets a new one."""
        self.selector.unregister(worker.out)
        self.workers.remove(worker)
        worker.stop()

    def _failed(self, stage: Stage, error: str, trace: str = "") -> None:
        self.unfinished.discard(stage.id)
        self.outcome.failed[stage.short] = error
        self.listen("failed", stage, {"error": error, "trace": trace})
        self._skip_children(stage, stage)

    def _pass(self, stage: Stage) -> None:
        """Let no training start that a finished preflight speaks against."""
        if self.gated and (refusal := gate.refusal(self.plan, self.store, stage)):
            self._failed(stage, refusal)

    def _skip_children(self, stage: Stage, cause: Stage) -> None:
        for child_id in self.children.get(stage.id, []):
            child = self.waiting.pop(child_id, None)
            if child is not None:
                self.unfinished.discard(child_id)
                self.outcome.skipped[child.short] = cause.short
                self.listen("skipped", child, {"cause": cause.short})
                self._skip_children(child, cause)


def _critical_path(
    todo: Iterable[Stage], costs: Mapping[str, float], before: Callable[[Stage], Iterable[Stage]]
) -> dict[str, float]:
    """Return for each stage the seconds from its start to the end of its longest chain."""
    longest: dict[str, float] = {}
    below: dict[str, float] = {}
    for stage in reversed(list(todo)):
        longest[stage.id] = costs.get(stage.id, 0.01) + below.get(stage.id, 0.0)
        for parent in before(stage):
            below[parent.id] = max(below.get(parent.id, 0.0), longest[stage.id])
    return longest


def raise_if_failed(outcome: Outcome) -> None:
    """Raise what a run that failed in part, or was stopped, must say.

    Raises:
        WorkStopped: SIGTERM came.
        WorkFailed: names the failed stages.
    """
    if outcome.stopped:
        failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
        raise WorkStopped(
            f"stopped, resumes: {len(outcome.executed)} stage(s) done{failed}, {len(outcome.unfinished)} under way, "
            "checkpoints kept; the same command goes on"
        )
    if outcome.failed:
        unchecked = any(name.startswith("preflight-") for name in outcome.skipped)
        together = (
            ". No training starts before all sources are checked together: to go on without a source that cannot be "
            "read, leave it and its runs out of the recipe; equal trainings stay what they are"
        )
        raise WorkFailed(
            f"{len(outcome.failed)} stage(s) failed and {len(outcome.skipped)} were not tried; the rest is done and "
            f"kept. Mend the cause and run the same command again{together if unchecked else ''}"
        )
