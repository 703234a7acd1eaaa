"""The trainings of a recipe by processes that somebody else has started, on one machine or several: torchrun, Slurm.

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \\
        -m cuvee.joined recipe.yaml --store /shared/.cuvee --device cuda

Every process makes the same plan. The first one does what the trainings need and no other process may help with (data,
checks, folds) and puts each trained model into the store, which all see, by a shared file system. What is left, such as
the evaluation, is done by `cuvee run` afterwards, which finds the trainings there. A training that was ended is taken
up from its last checkpoint, by the same number of processes or another one.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cuvee import execute, gate, job, planner, preemption, runner
from cuvee.errors import CuveeError, StageFailed, WorkStopped
from cuvee.job import Job
from cuvee.pins import Pins
from cuvee.plan import Plan
from cuvee.protocols import Progress
from cuvee.recipe import load
from cuvee.runtime import KERNELS, SHARDS, Runtime
from cuvee.stage import Stage
from cuvee.store import Store
from cuvee.worker import Worker


def train(plan: Plan, runtime: Runtime, world: Any) -> None:
    """Do the trainings that the store lacks; each process of `world` calls this.

    Raises:
        CuveeError: a training or what it needs failed.
        Stopped: SIGTERM came to some process; a checkpoint is written.
    """
    from cuvee.engine import devices

    store, wait = Store(runtime.store), devices.patience(world)
    for stage in [stage for stage in plan.stages if stage.kind == "train"]:
        # One process says what is to do: another may see a file later.
        if world.first(float(store.has(stage.kind, stage.id))):
            continue
        if world.is_writer:
            _prepare(plan, replace(runtime, processes=1), stage)
        wait()
        marks = [one for one in plan.marks.get(stage.id, ()) if not store.has(one.kind, one.id)]
        work = job.make(
            stage,
            store,
            plan.sources,
            preflight=gate.passed(plan, store, stage),
            marks=[one.identity["params"]["fraction"] for one in marks],
        )
        _together(work, runtime, store, world)
        wait()


def _prepare(plan: Plan, runtime: Runtime, stage: Stage) -> None:
    """Do what a training needs, and hear what the checks say of it."""
    before = list(plan.before(stage))
    outcome = runner.execute(plan, runtime, targets=before)
    if outcome.stopped:
        raise preemption.Stopped
    if outcome.failed:
        raise StageFailed("\n".join(f"{name}: {error}" for name, error in outcome.failed.items()))
    for check in plan.gates.get(stage.id, ()):
        if refusal := gate.refusal(plan, Store(runtime.store), check):
            raise StageFailed(refusal, stage=stage.short)


def _together(work: Job, runtime: Runtime, store: Store, world: Any) -> None:
    """Do one training; the writer holds its lock and puts it into the store."""
    if not world.is_writer:
        execute.train_here(work, store.work(work.short), store, runtime, lambda facts: None, world=world)
        return
    worker = _Writer(runtime, world)
    worker.handle(work)
    if worker.error:
        raise StageFailed(worker.error, stage=work.short)


class _Writer(Worker):
    """A worker whose trainings are shared with the other processes, and which tells people."""

    def __init__(self, runtime: Runtime, world: Any) -> None:
        super().__init__(runtime, io.StringIO())
        self.world, self.error, self._said = world, "", -1

    def run(self, job: Job, work: Path, progress: Progress) -> dict[str, Any]:
        """Do the writer's part."""
        return execute.train(job, work, self.store, self.runtime, progress, world=self.world)

    def tell(self, event: str, **facts: Any) -> None:
        """Say what is worth knowing, a line a tenth of a training."""
        if event in ("failed", "busy"):
            self.error = str(facts.get("error", "another process holds the lock of this training"))
        elif "note" in facts:
            print(facts["note"], flush=True)
        elif event == "progress" and (tenth := 10 * facts["step"] // facts["steps"]) != self._said:
            self._said = tenth
            print(f"step {facts['step']} of {facts['steps']}, loss {facts.get('loss', float('nan')):.4f}", flush=True)


@click.command()
@click.argument("recipe", type=click.Path(exists=True, path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--store", type=click.Path(path_type=Path), default=Path(".cuvee"), show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads a process.")
@click.option("--micro-tokens", type=click.IntRange(8), default=4096, show_default=True)
@click.option("--checkpoint-seconds", type=float, default=600.0, show_default=True)
@click.option("--checkpoint-steps", type=click.IntRange(0), default=0)
@click.option("--checkpoint-activations", is_flag=True)
@click.option("--shard", type=click.Choice(SHARDS), default="fsdp", show_default=True)
@click.option("--kernels", type=click.Choice(KERNELS), default="stock", show_default=True)
def main(recipe: Path, overrides: tuple[str, ...], **how: Any) -> None:
    """Train what a recipe lacks, together with the other processes that torchrun has started."""
    from cuvee.engine import devices

    code = 0
    try:
        preemption.listen()
        runtime = Runtime(workers=1, processes=int(os.environ["WORLD_SIZE"]), **how)
        located = load(recipe, list(overrides))
        plan = planner.make(located, Pins(Store(runtime.store).pins, located.folder / "recipe.lock"))
        train(plan, runtime, devices.join(runtime))
    except devices.Restart:
        code = 1  # torchrun --max-restarts starts all again
    except CuveeError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except preemption.Stopped:
        code = WorkStopped.exit_code
    except KeyError as error:
        if error.args != ("WORLD_SIZE",):
            raise
        click.echo("error: started by itself; start it by torchrun, or use `cuvee run --processes N`", err=True)
        code = 2
    sys.stdout.flush()
    # A process that waits for another in a group's end would hang.
    os._exit(code)


if __name__ == "__main__":
    main()
