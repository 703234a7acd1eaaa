"""One of the processes that train a model together; `launch` starts them and hears how it goes.

It reads the training from its standard input and tells on its standard output, one JSON line each:

    {"event": "progress", ...}              of the first process alone
    {"event": "done", "summary": {...}}
    {"event": "failed", "error": "...", "user": true, "trace": "", "at": 1700000000.0, "follows": false}
    {"event": "stopped"}                    SIGTERM came to some process; a checkpoint is written
    {"event": "restart"}                    memory ran out where the others wait for this one
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from cuvee import execute, preemption
from cuvee.errors import CuveeError, WorkStopped
from cuvee.job import Job
from cuvee.runtime import Runtime
from cuvee.store import Store
from cuvee.worker import watch_parent


def work_off(task: dict[str, Any], runtime: Runtime, out: TextIO) -> int:
    """Do this process's part of a training, tell how it went, and return the exit code."""

    def tell(event: str, **facts: Any) -> None:
        with preemption.patient():  # a line cut short could not be read
            out.write(json.dumps({"event": event, **facts}, default=str) + "\n")
            out.flush()

    from cuvee.engine import devices

    try:
        summary = execute.train_here(
            Job.from_dict(task["job"]),
            Path(task["work"]),
            Store(runtime.store),
            runtime,
            lambda facts: tell("progress", **facts),
            world=devices.join(runtime),
        )
    except devices.Restart:
        tell("restart")
        return 1
    except Exception as error:
        user = isinstance(error, CuveeError)
        text = str(error) if user else f"{type(error).__name__}: {error}"
        trace = "" if user else traceback.format_exc()
        tell("failed", error=text, user=user, trace=trace, at=time.time(), follows=follows(error))
        return 1
    tell("done", summary=summary)
    return 0


def follows(error: Exception) -> bool:
    """Return whether an error says that another process is gone or silent, which is no cause of its own."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in names or (isinstance(error, RuntimeError) and re.search(_GONE, str(error)) is not None)


_GONE = r"(?i)\bgloo\b|\bnccl\b|connection (closed|reset|refused)"


def main() -> None:
    """Do one training's part and end."""
    runtime = Runtime.from_dict(json.loads(sys.argv[1]))
    # Libraries print to standard output as they like; only events may go to the parent.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=watch_parent, args=(lines,), daemon=True).start()
    try:
        preemption.listen()
        code = work_off(json.loads(lines.get()), runtime, out)
    except preemption.Stopped:
        out.write(json.dumps({"event": "stopped"}) + "\n")
        out.flush()
        code = WorkStopped.exit_code
    # The groups of processes are not taken down one by one: a process that waits for another would hang.
    os._exit(code)


if __name__ == "__main__":
    main()
