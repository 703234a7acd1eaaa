"""Work in several processes, results in the order of the tasks; for what Python itself takes long to do.

A child holds one end of a pipe and nothing else of its parent, so that it ends when the parent is gone, however that
ended. It is started anew and not forked: its parent may have threads.

    with Pool(2, _squaring, 10) as pool:          # _squaring(10) is made once in each child
        list(pool.map(range(5)))
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from cuvee.errors import CuveeError, WorkFailed

Pipe = Any  # multiprocessing's class for it differs between systems
AHEAD = 4
"""Results a child may be ahead of the next one that is wanted."""


class Pool:
    """Some processes that do one kind of task.

    Args:
        processes: how many.
        make: a function of a module; called in each child, it returns what does a task. It, its arguments, tasks and
            results go through pickle.
        arguments: what `make` is called with.
    """

    def __init__(self, processes: int, make: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._children: dict[Pipe, Any] = {}
        for _ in range(processes):
            ours, theirs = context.Pipe()
            child = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
            child.start()
            theirs.close()
            self._children[ours] = child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, child in self._children.items():
            pipe.close()
            if error is not None:
                child.terminate()
            child.join()

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield each task's result, in order; at most `AHEAD` times as many as there are children are under way.

        Raises:
            WorkFailed: a child died, or failed with what is no CuveeError; those are raised as they are.
        """
        numbered = enumerate(tasks)
        done: dict[int, Any] = {}
        busy: dict[Pipe, int] = {}
        wanted = 0
        while True:
            while wanted in done:
                yield done.pop(wanted)
                wanted += 1
            for pipe in self._children:
                if pipe not in busy and len(done) + len(busy) < AHEAD * len(self._children):
                    self._give(pipe, numbered, busy)
            if not busy:
                return
            for ready in wait(list(busy)):
                done[busy.pop(ready)] = self._result(ready)

    def _give(self, pipe: Pipe, numbered: Iterator[tuple[int, Any]], busy: dict[Pipe, int]) -> None:
        for number, task in numbered:
            with contextlib.suppress(BrokenPipeError):  # what it died of is seen when its answer is read
                pipe.send(task)
            busy[pipe] = number
            return

    def _result(self, pipe: Pipe) -> Any:
        try:
            good, found = pipe.recv()
        except (EOFError, OSError):
            child = self._children[pipe]
            child.join()
            raise WorkFailed(
                f"a helper process died (code {child.exitcode}); when memory is short, run with fewer threads"
            ) from None
        if good:
            return found
        raise found


def _serve(pipe: Pipe, make: Callable[..., Callable[[Any], Any]], arguments: Sequence[Any]) -> None:
    # The pipe's other end is gone when the parent is.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        work: Callable[[Any], Any] | None = None
        while True:
            task = pipe.recv()
            try:
                work = work or make(*arguments)
                answer = (True, work(task))
            except Exception as error:
                answer = (False, _portable(error))
            pipe.send(answer)


def _portable(error: Exception) -> Exception:
    """Return the error, or what says the same and goes through pickle."""
    if isinstance(error, CuveeError):
        with contextlib.suppress(Exception):
            again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own error
            if str(again) == str(error):
                return error
        return WorkFailed(str(error))
    return WorkFailed("".join(traceback.format_exception(error)))
