"""A worker process: reads jobs from its standard input, one JSON line each, and tells how they go.

It holds the stage's lock while it works, and ends at once when its parent is gone, so that a killed `cuvee run`
leaves no work behind that nobody watches.

    {"event": "busy"}                        another process holds the lock
    {"event": "progress", "step": 3, ...}
    {"event": "done", "how": "executed" | "elsewhere", "summary": {...}}
    {"event": "failed", "error": "...", "trace": "..."}
    {"event": "stopped"}                     SIGTERM came; a training has written a checkpoint; exit code 143
"""

from __future__ import annotations

import errno
import json
import os
import queue
import re
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from filelock import Timeout

from cuvee import execute, preemption
from cuvee.errors import CuveeError, WorkStopped
from cuvee.job import Job
from cuvee.protocols import Progress
from cuvee.runtime import Runtime
from cuvee.store import Store
from cuvee.store.store import write_whole

ATTEMPTS = "attempts.json"

RESUMABLE = ("train", "mark", "fisher", "tag", "score", "embed", "generate", "choose", "judge")
"""Kinds whose unfinished work is taken up again; others start afresh."""


class Worker:
    """Executes jobs one after another.

    Args:
        runtime: how to run.
        out: where events are written, one JSON line each.
    """

    def __init__(self, runtime: Runtime, out: TextIO) -> None:
        self.runtime, self.out = runtime, out
        self.store = Store(runtime.store)

    def tell(self, event: str, **facts: Any) -> None:
        """Write one event."""
        with preemption.patient():  # a line cut short could not be read
            self.out.write(json.dumps({"event": event, **facts}, default=str) + "\n")
            self.out.flush()

    def handle(self, job: Job) -> None:
        """Execute one job under its lock and tell the outcome."""
        try:
            with self.store.lock(job.short).acquire(blocking=False):
                if self.store.has(job.kind, job.id) and not self.store.manifest(job.kind, job.id).get("shed"):
                    self.tell("done", how="elsewhere")
                    return
                self._execute(job)
        except Timeout:
            self.tell("busy")
        except preemption.Stopped:
            self.tell("stopped")
            raise
        except Exception as error:
            if _is_full_disk(error):
                self.tell("failed", error=_disk_message(self.store), trace="")
            elif isinstance(error, CuveeError):
                self.tell("failed", error=str(error).removeprefix(f"{job.short}: "), trace="")  # who hears knows which
            else:
                self.tell("failed", error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())

    def _execute(self, job: Job) -> None:
        work = self.store.work(job.short)
        resumed = work.exists() and job.kind in RESUMABLE
        if work.exists() and not resumed:
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        self.store.journal("resumed" if resumed else "started", job.short)
        attempts = self._attempts(work)
        started, cpu = time.time(), time.process_time()
        try:
            summary = self.run(job, work, lambda facts: self.tell("progress", **facts))
        except preemption.Stopped:
            self.store.journal("stopped", job.short)
            raise
        except BaseException as error:
            self.store.journal("failed", job.short, error=str(error)[:500])
            raise
        seconds = {"seconds": round(time.time() - started, 3), "cpu_seconds": round(time.process_time() - cpu, 3)}
        self.store.commit(
            job.kind, job.id, work, {**self._manifest(job, summary, started, seconds), "attempts": attempts}
        )
        self.store.journal("finished", job.short, **seconds)
        self.tell("done", how="executed", summary=summary)

    def run(self, job: Job, work: Path, progress: Progress) -> dict[str, Any]:
        """Do the work of a stage."""
        return execute.run(job, work, self.store, self.runtime, progress)

    def _attempts(self, work: Path) -> list[dict[str, Any]]:
        """Note this attempt in the work folder and return all: a resume under another Runtime is in the lineage."""
        path = work / ATTEMPTS
        earlier = []
        try:
            earlier = [dict(one) for one in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
        except (ValueError, TypeError):
            self.tell("progress", note=f"{ATTEMPTS} is damaged: the lineage lacks the earlier attempts")
        attempts = [*earlier, {"started": round(time.time(), 3), "runtime": self.runtime.as_dict()}]
        write_whole(path, json.dumps(attempts))
        return attempts

    def _manifest(
        self, job: Job, summary: Mapping[str, Any], started: float, seconds: Mapping[str, float]
    ) -> dict[str, Any]:
        return {
            "id": job.id,
            "kind": job.kind,
            "component": job.component,
            "label": job.label,
            "identity": job.identity,
            "inputs": {role: [f"{i.kind}-{i.id}" for i in items] for role, items in job.inputs.items()},
            "located": dict(job.locate),
            "summary": dict(summary),
            "started": round(started, 3),
            "finished": round(time.time(), 3),
            **seconds,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "runtime": self.runtime.as_dict(),
            "versions": versions(),
            "python": sys.version.split()[0],
            "disposable": not job.keep,
            **({"preflight": dict(job.preflight)} if job.preflight else {}),
        }


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, without importing them."""
    found = {}
    for name in ("cuvee", "torch", "transformers", "tokenizers", "safetensors", "pyarrow", "numpy", "peft", "vllm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _is_full_disk(error: BaseException | None) -> bool:
    """Look through an error and what it came from: libraries wrap, and fail again while closing their files."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if isinstance(error, OSError | RuntimeError) and re.search(r"No space left|File too large", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _disk_message(store: Store) -> str:
    free = shutil.disk_usage(store.folder).free
    return (
        f"the disk is full ({free / 1e6:.0f} MB free under {store.folder}); free space or run `cuvee gc`, then "
        "run the same command again: finished stages and checkpoints are kept"
    )


def watch_parent(lines: queue.Queue[str]) -> None:
    """Put the parent's lines in a queue; the end of the pipe means that the parent is gone."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(3)


def main() -> None:
    """Serve jobs until the parent closes the pipe."""
    runtime = Runtime.from_dict(json.loads(sys.argv[1]))
    # Libraries print to standard output as they like; only events may go to the parent.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, runtime.threads)))
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=watch_parent, args=(lines,), daemon=True).start()
    worker = Worker(runtime, out)
    try:
        preemption.listen()
        while True:
            worker.handle(Job.from_dict(json.loads(lines.get())))
    except preemption.Stopped:
        os._exit(WorkStopped.exit_code)


if __name__ == "__main__":
    main()
