"""The process that holds the untrusted code: it loads it and answers the judge's requests one by one.

Nothing here is trusted. The code shares this process and may change all of it; what it gains is that its answers come
from itself, which they do anyway.
"""

from __future__ import annotations

import operator
import os
import resource
import sys
import types
from collections.abc import Callable
from typing import Any

from . import wire

NAME = "program"
OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "iterate": iter,
    "next": next,
    "length": len,
    "item": operator.getitem,
    "equal": operator.eq,
    "text": str,
    "shown": repr,
}
LONGEST_TEXT = 2_000


def limit(limits: dict[str, int]) -> None:
    """Set this process's limits, which its children inherit.

    Args:
        limits: the numbers of `cuvee.sandbox.Limits`.
    """
    cpu = limits["cpu_seconds"]
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, limits["memory"], limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["disk"], limits["disk"]),
        (resource.RLIMIT_NOFILE, limits["open_files"], limits["open_files"]),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_SIGPENDING, 256, 256),
    ):
        resource.setrlimit(kind, (soft, hard))
    if limits["tasks"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["tasks"], limits["tasks"]))


class Objects:
    """Objects that the judge knows by number."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._objects: list[Any] = []

    def keep(self, value: object) -> int:
        """Return the number of an object, the same one each time."""
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return number

    def find(self, number: int, kind: str) -> Any:
        """Return the object of a number."""
        return self._objects[number]


def serve(requests: int, replies: int) -> None:
    """Answer requests until there are no more.

    Args:
        requests: descriptor to read from.
        replies: descriptor to write to.
    """
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module
    objects = Objects()
    with os.fdopen(requests, "rb") as incoming, os.fdopen(replies, "wb", buffering=0) as outgoing:
        for line in incoming:
            answer = _answer(line, module, objects)
            _flush()
            outgoing.write(answer)


def _answer(line: bytes, module: types.ModuleType, objects: Objects) -> bytes:
    try:
        return wire.dumps(["returned", *_work(wire.loads(line), module, objects)])
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return wire.dumps(["raised", kinds, _message(error)])


def _work(request: list[Any], module: types.ModuleType, objects: Objects) -> list[Any]:
    match request:
        case ["load", source]:
            exec(compile(source, f"<{NAME}>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102  (what the sandbox is for)
            return [{name: isinstance(value, types.ModuleType) for name, value in list(vars(module).items())}]
        case ["global", name]:
            return [wire.encode(vars(module)[name], objects.keep), []]
        case ["operate", name, *raw]:
            return _call(OPERATIONS[name], raw, {}, objects)
        case ["call", number, raw, raw_keywords]:
            return _call(objects.find(number, ""), raw, raw_keywords, objects)
    raise wire.Unfit("no such request")


def _call(function: Callable[..., Any], raw: list[Any], raw_keywords: dict[str, Any], objects: Objects) -> list[Any]:
    """Return [the result, the arguments that the call changed in place as [position, value]]."""
    arguments = [wire.decode(part, objects.find) for part in raw]
    keywords = {name: wire.decode(part, objects.find) for name, part in raw_keywords.items()}
    result = wire.encode(function(*arguments, **keywords), objects.keep)
    changed = []
    for position, (value, before) in enumerate(zip(arguments, raw, strict=True)):
        if type(value) in (list, dict, set):
            after = wire.encode(value, objects.keep)
            if after != before:
                changed.append([position, after])
    return [result, changed]


def _message(error: BaseException) -> str:
    try:
        return str(error)[:LONGEST_TEXT]
    except BaseException:
        return ""


def _flush() -> None:
    """Hand on what was printed now: the judge ends this process without warning."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: S112  (the program may have put anything there)
            continue
