"""`math-verify` in a process of its own: an expression like 9^9^9 in a reply must not stop a grading, nor fill memory.

The reader is started once and asked reply by reply. What takes more than `CPU_SECONDS` of it, or more memory than
`MEMORY`, is a reply that could not be read, and is counted as such; the reader is then started again.

    read("so x is \\\\boxed{3/4}", 0.75)   # Reading(found=True, right=True, late=False)
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import select
import subprocess
import sys
from typing import NamedTuple

from cuvee.errors import UsageError

CPU_SECONDS = 5
LONGEST_WAIT = 60.0
"""Seconds from start to end, for a machine that is busy with other things."""

MEMORY = 4 << 30
"""Bytes of address space; imports need most of one."""

READ = 20_000
"""Characters at the end of a reply that are read: the answer is the last one there."""


class Reading(NamedTuple):
    """What was read: whether there is an answer, whether it is right, whether reading was given up."""

    found: bool
    right: bool
    late: bool = False


_reader: subprocess.Popen[bytes] | None = None


def read(text: str, gold: float) -> Reading:
    """Return what `math-verify` says of the last answer in a reply.

    Raises:
        UsageError: the package is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UsageError("reading: flexible needs math-verify; pip install 'cuvee[math]'")
    reader = _started()
    assert reader.stdin is not None
    assert reader.stdout is not None
    exact = str(int(gold)) if gold == int(gold) else repr(gold)
    line = b""
    try:
        reader.stdin.write(json.dumps([text[-READ:], exact]).encode() + b"\n")
        reader.stdin.flush()
        if select.select([reader.stdout], [], [], LONGEST_WAIT)[0]:
            line = reader.stdout.readline()
    except BrokenPipeError:
        pass
    if not line:
        stop()
        return Reading(False, False, late=True)
    return Reading(*json.loads(line))


def _started() -> subprocess.Popen[bytes]:
    global _reader
    if _reader is None or _reader.poll() is not None:
        _reader = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        atexit.register(stop)
    return _reader


def stop() -> None:
    """End the reader, if there is one."""
    global _reader
    if _reader is not None:
        _reader.kill()
        _reader.wait()
        for stream in (_reader.stdin, _reader.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
    _reader = None
    atexit.unregister(stop)


def _main() -> None:
    """Answer line by line; a reply that takes too long is answered by the end of this process or by `late`."""
    import logging
    import resource
    import signal

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, late)
    for line in sys.stdin:
        text, exact = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            answers = parse(text, parsing_timeout=None)
            right = bool(answers) and bool(verify(parse(exact, parsing_timeout=None), answers, timeout_seconds=None))
            found = [bool(answers), right, False]
        except (TimeoutError, MemoryError, RecursionError):
            found = [False, False, True]
        except Exception:  # what a parser makes of an odd text is no answer
            found = [False, False, False]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
