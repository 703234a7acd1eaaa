"""The process that decides: it starts the program's process, runs the tests itself and alone says how it went.

The tests are run here, on real values. What comes from the program is plain data or a stand-in (`Remote`), which has
no truth, order or arithmetic of its own making. The tests, and the descriptor on which the verdict goes out, are
opened and read only after the program's process was split off and do not exist there.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Iterator
from typing import Any

from . import candidate, wire

LONGEST_ERROR = 500
MARGIN = 256 << 20
"""Bytes of memory that the judge may use beyond the program's limit."""


class Ended(BaseException):
    """The program's process is gone, or talks nonsense; no test can catch it as an `Exception`."""


class Raised(Exception):
    """The program raised something that is no built-in exception."""


class Link:
    """The judge's side of the conversation with the program's process."""

    def __init__(self, requests: int, replies: int) -> None:
        self.requests = os.fdopen(requests, "wb", buffering=0)
        self.replies = os.fdopen(replies, "rb")
        self.ended = False

    def ask(self, request: list[Any]) -> list[Any]:
        """Return what follows ``returned`` in the reply.

        Raises:
            Ended: there is no reply.
            Exception: what the program raised.
        """
        try:
            self.requests.write(wire.dumps(request))
            line = self.replies.readline(wire.LONGEST + 1)
        except OSError:
            line = b""
        if not line:
            self.ended = True
            raise Ended
        match wire.loads(line):
            case ["returned", *values]:
                return list(values)
            case ["raised", [*kinds], str(text)]:
                raise _exception([str(kind) for kind in kinds], text)
        raise wire.Unfit("a reply of no known form")

    def value(self, request: list[Any], arguments: tuple[Any, ...] = ()) -> Any:
        """Return a reply's value, and bring arguments that the program changed up to date."""
        match self.ask(request):
            case [raw, [*changed]]:
                for position, after in changed:
                    _update(arguments[position], self.decode(after))
                return self.decode(raw)
        raise wire.Unfit("a reply of no known form")

    def operate(self, name: str, *arguments: Any) -> Any:
        """Return the result of one of the program's own operations."""
        return self.value(["operate", name, *[self.encode(part) for part in arguments]])

    def encode(self, value: Any) -> Any:
        """Return a value of the tests as JSON."""
        return wire.encode(value, _number)

    def decode(self, raw: Any) -> Any:
        """Return a value of the program."""
        return wire.decode(raw, lambda number, kind: Remote(self, number, kind))


class Remote:
    """A stand-in for an object that stayed with the program.

    It can be called, asked for attributes and items, iterated and printed. Against plain data it is never equal, and
    it has no order, no arithmetic: an object made to equal everything gains nothing. Two stand-ins compare as the
    program's own objects do.
    """

    __slots__ = ("_kind", "_link", "_remote")

    def __init__(self, link: Link, number: int, kind: str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_remote", number)
        object.__setattr__(self, "_kind", kind)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        link: Link = self._link
        named = {name: link.encode(part) for name, part in keywords.items()}
        return link.value(["call", self._remote, [link.encode(part) for part in arguments], named], arguments)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.operate("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._link.operate("set", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        steps = self._link.operate("iterate", self)
        while True:
            try:
                yield self._link.operate("next", steps)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._link.operate("next", self)

    def __len__(self) -> int:
        return int(self._link.operate("length", self))

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self._link.operate("item", self, key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._link.operate("equal", self, other) is True

    def __hash__(self) -> int:
        return hash(self._remote)

    def __str__(self) -> str:
        return str(self._link.operate("text", self))

    def __repr__(self) -> str:
        return str(self._link.operate("shown", self))


def main() -> None:
    """Judge one program; the settings are the first argument, JSON."""
    settings = json.loads(sys.argv[1])
    if settings["user"] is not None:
        _become(settings["user"])
    process, link = _start(settings)
    _limit(settings["limits"])
    with os.fdopen(settings["verdict"], "w") as out, os.fdopen(settings["job"], "rb") as file:
        out.write("started\n")
        out.flush()
        job = json.load(file)
        _quiet()
        outcome, detail = _judge(job, link)
        final, cpu_seconds = _finish(process)
        if outcome == "ended":
            outcome, detail = _ended(final, cpu_seconds, settings["limits"])
        json.dump({"outcome": outcome, "detail": detail, "cpu_seconds": cpu_seconds}, out)


def _become(user: int) -> None:
    """Leave the user that the sandbox was made with: processes of the system's root have no limit on their number."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _start(settings: dict[str, Any]) -> tuple[int, Link]:
    """Split off the program's process. It keeps its ends of two pipes, its standard streams, and nothing else."""
    ours, theirs = os.pipe(), os.pipe()  # (their requests, our requests), (our replies, their replies)
    process = os.fork()
    if process:
        os.close(ours[0])
        os.close(theirs[1])
        return process, Link(ours[1], theirs[0])
    try:
        os.dup2(settings["stdin"], 0)
        _close_all_but(ours[0], theirs[1])
        sys.argv[1:], sys.path[-1:] = [], []
        candidate.limit(settings["limits"])
        candidate.serve(ours[0], theirs[1])
    finally:
        os._exit(0)


def _close_all_but(*kept: int) -> None:
    start = 3
    for descriptor in (*sorted(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        os.closerange(start, descriptor)
        start = descriptor + 1


def _limit(limits: dict[str, int]) -> None:
    """Bound the judge too: the program decides how large its answers are."""
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"] + 1, limits["cpu_seconds"] + 2))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory"] + MARGIN, limits["memory"] + MARGIN))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _quiet() -> None:
    """Keep the tests' own printing, and their reading, apart from the program's."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _judge(job: dict[str, Any], link: Link) -> tuple[str, str]:
    """Return (outcome, detail) of running the tests."""
    try:
        tests = compile(job["tests"], "<tests>", "exec", dont_inherit=True)
        world: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
        exec(compile(job["given"], "<given>", "exec", dont_inherit=True), world)  # noqa: S102  (trusted, and inside the sandbox)
    except BaseException as error:
        return "broken", _shown(error)
    try:
        (offered,) = link.ask(["load", job["code"]])
        _borrow(world, tests, offered, job["names"], link)
        exec(tests, world)  # noqa: S102  (trusted, and inside the sandbox)
    except Ended:
        return "ended", ""
    except MemoryError as error:
        return "memory", _shown(error)
    except BaseException as error:
        return ("ended", "") if link.ended else ("failed", _shown(error))
    return ("ended", "") if link.ended else ("passed", "")


def _borrow(world: dict[str, Any], tests: types.CodeType, offered: Any, names: list[str], link: Link) -> None:
    """Bind what the tests take from the program; a module of the program becomes the judge's own of that name."""
    given = set(world)
    for name in names:
        world.pop(name, None)
    for name in sorted(_names(tests) & set(offered)):
        if offered[name]:
            if name not in given and name in sys.stdlib_module_names:
                world[name] = importlib.import_module(name)
        elif name in names or not (names or name in given or hasattr(builtins, name)):
            world[name] = link.value(["global", name])


def _names(code: types.CodeType) -> set[str]:
    """Return the global names that code uses, its functions included."""
    inner = [_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*inner)


def _exception(kinds: list[str], text: str) -> Exception:
    """Return the nearest built-in exception to what the program raised."""
    for kind in kinds:
        found = getattr(builtins, kind, None)
        if isinstance(found, type) and issubclass(found, Exception) and found is not Exception:
            try:
                return found(text)
            except TypeError:
                break
    return Raised(f"{kinds[0] if kinds else 'unknown'}: {text}")


def _shown(error: BaseException) -> str:
    text = str(error) if isinstance(error, Raised) else f"{type(error).__name__}: {error}"
    return text.removesuffix(": ")[:LONGEST_ERROR]


def _number(value: object) -> int:
    """Return the program's number of a stand-in; nothing else of the tests can be handed over."""
    if isinstance(value, Remote):
        return int(value._remote)
    raise wire.Unfit(f"the tests hand over a {type(value).__name__}, which is no plain data")


def _update(target: Any, after: Any) -> None:
    """Give an argument the contents that the program left in it."""
    if isinstance(target, list) and isinstance(after, list):
        target[:] = after
    elif isinstance(target, dict | set) and type(target) is type(after):
        target.clear()
        target.update(after)


def _finish(process: int) -> tuple[int, float]:
    """End the program's process and return (its wait status, its CPU seconds)."""
    os.kill(process, signal.SIGKILL)  # changes nothing where it has ended already
    _, status, usage = os.wait4(process, 0)
    return status, usage.ru_utime + usage.ru_stime


def _ended(status: int, cpu_seconds: float, limits: dict[str, int]) -> tuple[str, str]:
    """Return (outcome, detail) of a program whose process was gone before the tests were done."""
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        return "failed", f"the program ended itself with exit code {code} before the tests were done"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU or cpu_seconds >= limits["cpu_seconds"]:
        return "timeout", f"{limits['cpu_seconds']} s of CPU time"
    return "crashed", f"killed by signal {number} ({signal.Signals(number).name})"
