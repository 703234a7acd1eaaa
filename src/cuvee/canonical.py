"""A value to canonical text, and the text to an id.

Only values with one stable form pass: None, bool, int, finite float, str, Fraction, and lists, tuples
and string-keyed mappings of these. Everything else is refused, so that nothing enters an id by accident.
An int and a float are different values (1 is not 1.0), which the recipe's types settle before hashing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

ID_LENGTH = 16
"""Hex digits of a short id, as in folder names: 64 bits."""


def plain(value: Any, where: str = "value") -> Any:
    """Return `value` as plain JSON data.

    Raises:
        TypeError: for anything without one stable form; the message names the place and the remedy.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}, which has no stable form; use None for 'absent'")
        return 0.0 if value == 0 else value
    if kind is dict or isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; keys must be strings")
        return {key: plain(value[key], f"{where}.{key}") for key in sorted(value)}
    if kind is list or kind is tuple:
        return [plain(item, where) for item in value]
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    raise TypeError(
        f"{where} is a {kind.__name__}, which has no stable form; "
        "pass numbers, strings, fractions, lists or string-keyed mappings"
    )


def text(value: Any) -> str:
    """Return the canonical text of `value`: sorted keys, no spaces, shortest float digits."""
    return _encode(plain(value))


def pretty(value: Any) -> str:
    """Return the canonical text with one item a line, for people and for comparing two ids."""
    return json.dumps(plain(value), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 of the canonical text: 64 hex digits."""
    return digest_plain(plain(value))


def digest_plain(data: Any) -> str:
    """Return the digest of data that `plain` has returned; saves going through it again."""
    return hashlib.sha256(_encode(data).encode("utf-8", "surrogatepass")).hexdigest()


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
