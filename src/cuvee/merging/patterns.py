"""Parameters that differ by tensor: name patterns to other values.

    tensors: {"*.mlp.*": {t: 0.3}, "*.layers.{0-11}.*": {weights: [1, 0]}}

A pattern is a glob over the tensor's name; ``{0-11}`` stands for a number in that range. A later pattern goes before an
earlier one, key by key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cuvee.errors import UsageError, did_you_mean

_PARTS = re.compile(r"\*|\?|\{(\d+)-(\d+)\}")


def resolve(params: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return each tensor's parameters.

    Args:
        params: the merger's parameters; `params.tensors` maps patterns to differences.
        names: of the tensors.

    Raises:
        UsageError: a pattern that fits no tensor, or a value that the merger does not take.
    """
    names = list(names)
    rules = [(_compiled(pattern), changes) for pattern, changes in params.tensors.items()]
    for (rule, _), pattern in zip(rules, params.tensors, strict=True):
        if not any(rule(name) for name in names):
            raise UsageError(f"tensors: '{pattern}' fits no tensor, such as {', '.join(names[:3])}")
    made: dict[tuple[int, ...], Any] = {}
    found = {}
    for name in names:
        hits = tuple(number for number, (rule, _) in enumerate(rules) if rule(name))
        if hits not in made:
            made[hits] = changed(params, [rules[number][1] for number in hits])
        found[name] = made[hits]
    return found


def changed(params: Any, changes: Iterable[Mapping[str, Any]]) -> Any:
    values = {**dict(params), "tensors": {}}
    for change in changes:
        for name, value in change.items():
            if name not in params.BY_TENSOR:
                raise UsageError(f"tensors: '{name}' cannot differ by tensor.{did_you_mean(name, params.BY_TENSOR)}")
            values[name] = value
    try:
        return type(params)(**values)
    except ValueError as error:
        first = str(error).splitlines()[2].strip() if len(str(error).splitlines()) > 2 else str(error)
        raise UsageError(f"tensors: {first}") from None


def _compiled(pattern: str) -> Any:
    """Return what says whether a name fits a pattern."""
    text, ranges, at = "", [], 0
    for part in _PARTS.finditer(pattern):
        text += re.escape(pattern[at : part.start()])
        if part[1]:
            ranges.append((int(part[1]), int(part[2])))
            text += r"(\d+)"
        else:
            text += ".*" if part[0] == "*" else "."
        at = part.end()
    whole = re.compile(text + re.escape(pattern[at:]))

    def fits(name: str) -> bool:
        found = whole.fullmatch(name)
        numbers = map(int, found.groups()) if found else ()
        return found is not None and all(low <= n <= high for n, (low, high) in zip(numbers, ranges, strict=True))

    return fits
