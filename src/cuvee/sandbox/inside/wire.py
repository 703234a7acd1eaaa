"""How values cross between a program and its judge: as plain data, or as a number that stands for an object.

JSON: null, booleans, floats, strings and integers below 2**53 as they are; every other value a list that starts with
its type, such as ``["tuple", 1, 2]``, ``["dict", [key, value], ...]`` or ``["int", "0x..."]``. Objects of a subclass of
a plain type cross as that type, keys of a dict as a set, the plain types themselves by name. All else stays
where it is and crosses as ``["object", number, type]``. Cycles and shared parts do not survive.

Decoding runs no code of the sender: what arrives is of the types below, or a stand-in made by the receiver.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

LONGEST = 1 << 24
"""Bytes of one message."""
EXACT = 1 << 53

Keep = Callable[[Any], int]
Find = Callable[[int, str], Any]
Write = Callable[[Any, Keep], Any]
KEYS: Any = type({}.keys())
TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)}


class Unfit(Exception):
    """A value that cannot cross."""


def dumps(value: object) -> bytes:
    """Return a message as one line.

    Raises:
        Unfit: it is longer than `LONGEST`.
    """
    line = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
    if len(line) > LONGEST:
        raise Unfit(f"a value of {len(line):,} bytes, more than {LONGEST:,}")
    return line


def loads(line: bytes) -> Any:
    """Return what a line holds.

    Raises:
        Unfit: no line of JSON.
    """
    if not line.endswith(b"\n"):
        raise Unfit("a message that is too long or has no end")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"a message that is no JSON: {error}") from None


def encode(value: Any, keep: Keep) -> Any:
    """Return a value as JSON.

    Args:
        value: anything.
        keep: remembers an object that is no plain data and returns its number; may raise `Unfit`.
    """
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    for plain, write in _ENCODE:
        if isinstance(value, plain):
            return write(value, keep)
    named = _ENCODE_BY_NAME.get((kind.__module__, kind.__name__))
    if named is not None:
        return named(value, keep)
    if kind is type and value in TYPES.values():
        return ["type", value.__name__]
    return ["object", keep(value), kind.__name__]


def decode(value: Any, find: Find) -> Any:
    """Return what `encode` was given.

    Args:
        value: JSON.
        find: returns the object, or its stand-in, of a number and a type name.

    Raises:
        Unfit: not made by `encode`.
    """
    if not isinstance(value, list):
        if isinstance(value, dict):
            raise Unfit("a value that no program sends")
        return value
    try:
        return _DECODE[value[0]](value[1:], find)
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        raise Unfit(f"a value that cannot be read: {type(error).__name__}: {error}") from None


def _items(parts: list[Any], find: Find) -> list[Any]:
    return [decode(part, find) for part in parts]


def _pairs(parts: list[Any], find: Find) -> dict[Any, Any]:
    return {decode(key, find): decode(item, find) for key, item in parts}


def _fraction(parts: list[Any], find: Find) -> Any:
    from fractions import Fraction

    return Fraction(int(parts[0], 16), int(parts[1], 16))


def _decimal(parts: list[Any], find: Find) -> Any:
    from decimal import Decimal

    return Decimal(parts[0])


def _deque(parts: list[Any], find: Find) -> Any:
    from collections import deque

    return deque(_items(parts, find))


def _sequence(plain: Any) -> Write:
    return lambda value, keep: [plain.__name__, *[encode(item, keep) for item in plain.__iter__(value)]]


def _integer(value: int, keep: Keep) -> Any:
    number = int(value)
    return number if -EXACT < number < EXACT else ["int", hex(number)]


def _mapping(value: dict[Any, Any], keep: Keep) -> Any:
    return ["dict", *[[encode(key, keep), encode(item, keep)] for key, item in dict.items(value)]]


_ENCODE: tuple[tuple[Any, Write], ...] = (
    (int, _integer),
    (str, lambda value, keep: str.__str__(value)),
    (float, lambda value, keep: float(value)),
    *[(plain, _sequence(plain)) for plain in (list, tuple, set, frozenset)],
    (dict, _mapping),
    (KEYS, lambda value, keep: ["set", *[encode(item, keep) for item in value]]),
    (bytes, lambda value, keep: ["bytes", bytes(value).hex()]),
    (bytearray, lambda value, keep: ["bytearray", bytes(value).hex()]),
    (complex, lambda value, keep: ["complex", value.real, value.imag]),
    (range, lambda value, keep: ["range", hex(value.start), hex(value.stop), hex(value.step)]),
)
_ENCODE_BY_NAME: dict[tuple[str, str], Write] = {
    ("fractions", "Fraction"): lambda value, keep: ["Fraction", hex(value.numerator), hex(value.denominator)],
    ("decimal", "Decimal"): lambda value, keep: ["Decimal", str(value)],
    ("collections", "deque"): lambda value, keep: ["deque", *[encode(item, keep) for item in value]],
}
_DECODE: dict[str, Callable[[list[Any], Find], Any]] = {
    "list": _items,
    "tuple": lambda parts, find: tuple(_items(parts, find)),
    "set": lambda parts, find: set(_items(parts, find)),
    "frozenset": lambda parts, find: frozenset(_items(parts, find)),
    "dict": _pairs,
    "int": lambda parts, find: int(parts[0], 16),
    "bytes": lambda parts, find: bytes.fromhex(parts[0]),
    "bytearray": lambda parts, find: bytearray.fromhex(parts[0]),
    "complex": lambda parts, find: complex(*parts),
    "range": lambda parts, find: range(*[int(part, 16) for part in parts]),
    "Fraction": _fraction,
    "Decimal": _decimal,
    "deque": _deque,
    "type": lambda parts, find: TYPES[parts[0]],
    "object": lambda parts, find: find(int(parts[0]), str(parts[1])),
}
