"""Recipes from YAML, overrides, and errors that name key and line."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cuvee.errors import RecipeError, UsageError, did_you_mean
from cuvee.recipe.whole import Recipe

Lines = Mapping[tuple[str | int, ...], int]
"""Line of each key's path in the recipe file."""

COMMAND_LINE = -1
"""In place of a line: the key was set on the command line."""

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def _where(file: str, line: int) -> str:
    if line == COMMAND_LINE:
        return "command line"
    return f"{file}:{line}" if file and line else file


def _line(lines: Lines, path: tuple[str | int, ...]) -> int:
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return 0


def _known_at(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """Return the field names that were possible at `path`, for the near-name suggestion."""
    current: Any = model
    for step in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            found = current.model_fields.get(str(step))
            current = _inner(found.annotation) if found else None
        else:
            # A mapping's or a tuple's value type comes last, an ellipsis aside.
            values = [a for a in getattr(current, "__args__", ()) if a is not Ellipsis]
            current = _inner(values[-1]) if values else None
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _inner(annotation: Any) -> Any:
    """Return the type inside Optional."""
    values = [a for a in getattr(annotation, "__args__", ()) if a is not type(None)]
    optional = type(None) in getattr(annotation, "__args__", ())
    return values[0] if optional and values else annotation


def _readable(error: Mapping[str, Any], model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return f"unknown key '{path[-1]}'.{did_you_mean(str(path[-1]), _known_at(model, path[:-1]))}"
    if kind == "missing":
        return "is required and missing"
    text = str(error["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return text
    shown = repr(given)
    return f"{text[0].lower()}{text[1:]}, got {shown if len(shown) < 60 else shown[:57] + '...'}"


def _location(error: Mapping[str, Any], data: Any) -> tuple[str | int, ...]:
    """Keep the steps of a pydantic location that exist in the data: unions add steps of their own."""
    path: list[str | int] = []
    here = data
    steps = list(error["loc"])
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if isinstance(here, Mapping) and (step in here or (last and error["type"] == "missing")):
            path.append(step)
            here = here.get(step)
        elif isinstance(here, list | tuple) and isinstance(step, int) and step < len(here):
            path.append(step)
            here = here[step]
    return tuple(path)


def validate(
    model: type[AnyModel], data: Any, *, key: tuple[str | int, ...] = (), lines: Lines | None = None, file: str = ""
) -> AnyModel:
    """Return `data` as `model`.

    Args:
        key: path of `data` inside the recipe, for messages.
        lines: lines of the recipe's keys.
        file: the recipe's file, for messages.

    Raises:
        RecipeError: one line a fault: place, key, what is wrong, what is possible.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _recipe_error(error, model, data, key, lines or {}, file) from None


def _recipe_error(
    error: ValidationError,
    model: type[BaseModel],
    data: Any,
    key: tuple[str | int, ...],
    lines: Lines,
    file: str,
) -> RecipeError:
    faults: list[RecipeError] = []
    for item in error.errors(include_url=False):
        path = _location(item, data)
        message = _readable(item, model, path or key or ("recipe",))
        line = _line(lines, (*key, *path))
        where = _where(file, line)
        fault = RecipeError(message, key=".".join(str(step) for step in (*key, *path)), where=where)
        if str(fault) not in [str(other) for other in faults]:
            faults.append(fault)
    return faults[0] if len(faults) == 1 else RecipeError("\n".join(str(fault) for fault in faults))


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 2e-5 is a number, `on` and `no` are words, a key given twice is an error."""


# YAML 1.1 reads on, off, yes and no as booleans; 1.2 does not.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _construct(loader: _Loader, node: yaml.Node, path: tuple[str | int, ...], lines: dict[Any, int], file: str) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if key in result:
                raise RecipeError(
                    "the key is given twice", key=".".join(map(str, (*path, key))), where=f"{file}:{line}"
                )
            lines[(*path, key)] = line
            result[key] = _construct(loader, value_node, (*path, key), lines, file)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), lines, file) for index, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def parse(text: str, file: str = "") -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """Return a recipe's plain data and the line of every key.

    Raises:
        RecipeError: text that is not YAML, or not a mapping.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[tuple[str | int, ...], int] = {}
        data = _construct(loader, node, (), lines, file) if node else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise RecipeError(f"not valid YAML: {getattr(error, 'problem', error)}", where=where) from None
    if not isinstance(data, dict):
        raise RecipeError("a recipe is a mapping with base, sources and runs; `cuvee init` writes one", where=file)
    return data, lines


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `data` with ``a.b.c=value`` assignments applied; values are YAML.

    Raises:
        UsageError: an assignment without ``=`` or through something that is no mapping or list.
    """
    result: dict[str, Any] = copy.deepcopy(data)
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise UsageError(f"'{assignment}' is no override; write key=value, such as training.epochs=1")
        *parents, last = path.strip().split(".")
        here: Any = result
        for step in parents:
            here = _step_into(here, step, assignment)
        if isinstance(here, list):
            here[_index(here, last, assignment)] = parse_value(value)
        elif isinstance(here, dict):
            here[last] = parse_value(value)
        else:
            raise UsageError(f"'{assignment}': {'.'.join(parents)} holds no keys")
    return result


def _index(items: list[Any], step: str, assignment: str) -> int:
    if not step.isdigit() or int(step) >= len(items):
        raise UsageError(f"'{assignment}': '{step}' must be a position from 0 to {len(items) - 1}")
    return int(step)


def _step_into(here: Any, step: str, assignment: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, step, assignment)]
    if isinstance(here, dict):
        if here.get(step) is None:
            here[step] = {}
        return here[step]
    raise UsageError(f"'{assignment}': cannot go into '{step}', its parent holds a plain value")


def _without_given(lines: Lines, assignments: Iterable[str]) -> dict[tuple[str | int, ...], int]:
    """Return the lines of the keys, with `COMMAND_LINE` for those that the command line set or added."""
    found = dict(lines)
    for assignment in assignments:
        steps = assignment.partition("=")[0].strip().split(".")
        path: tuple[str | int, ...] = tuple(int(step) if step.isdigit() else step for step in steps)
        for end in range(1, len(path) + 1):
            if path[:end] not in found or end == len(path):
                found[path[:end]] = COMMAND_LINE
        found = {key: line for key, line in found.items() if len(key) <= len(path) or key[: len(path)] != path}
    return found


def _from_here(assignment: str) -> str:
    """A file named on the command line is meant from the working folder, not from the recipe's."""
    key, equals, value = assignment.partition("=")
    if key.rpartition(".")[2] in ("path", "base") and value and ":" not in value and Path(value).exists():
        return f"{key}{equals}{Path(value).resolve()}"
    return assignment


def parse_value(text: str) -> Any:
    """Return an override's value as YAML reads it."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  the loader is a SafeLoader
    except yaml.YAMLError as error:
        raise UsageError(f"'{text}' is no YAML value: {getattr(error, 'problem', error)}") from None


class Located:
    """A recipe with where it came from: folder for relative paths, file and lines for messages.

    Args:
        recipe: the validated recipe.
        folder: relative paths are meant from here.
        file: the recipe's file, empty for recipes made in Python.
        lines: lines of the keys.
        text: the recipe as it was run (overrides applied), YAML.
    """

    def __init__(self, recipe: Recipe, folder: Path, file: str = "", lines: Lines | None = None, text: str = ""):
        self.recipe, self.folder, self.file, self.lines = recipe, folder, file, lines or {}
        self.text = text or yaml.safe_dump(_plain(recipe.model_dump(exclude_unset=True)), sort_keys=False)

    @property
    def name(self) -> str:
        """The recipe's short name, from its file."""
        return Path(self.file).stem if self.file else "recipe"

    def error(self, message: str, *key: str | int) -> RecipeError:
        """Return an error at a key of this recipe."""
        line = _line(self.lines, key)
        where = _where(self.file, line)
        return RecipeError(message, key=".".join(str(step) for step in key), where=where)

    def check(self, model: type[AnyModel], data: Any, *key: str | int) -> AnyModel:
        """Return `data`, found at `key` of this recipe, as `model`."""
        return validate(model, data, key=key, lines=self.lines, file=self.file)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"{value.numerator}/{value.denominator}" if isinstance(value, Fraction) else value


def _opening(text: str) -> str:
    """Return the comment that a recipe opens with: what it asks stays true of it with other values."""
    return "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))


def load(path: Path, overrides: Iterable[str] = ()) -> Located:
    """Return the recipe of a YAML file with overrides applied.

    Raises:
        RecipeError, UsageError: see the module.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        # Stems, since all recipes share the ending and would look alike by it.
        others = {p.stem: p.name for p in path.parent.glob("*.y*ml")} if path.parent.is_dir() else {}
        match = difflib.get_close_matches(path.stem, others, n=1)
        near = f" Did you mean '{others[match[0]]}'?" if match else ""
        raise UsageError(f"{path}: there is no such recipe.{near} `cuvee init {path}` writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a recipe: {error}") from None
    data, lines = parse(text, str(path))
    assignments = [_from_here(assignment) for assignment in overrides]
    if assignments:
        data = override(data, assignments)
        lines = _without_given(lines, assignments)
        text = _opening(text) + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    recipe = validate(Recipe, data, lines=lines, file=str(path))
    return Located(recipe, path.parent.resolve(), str(path), lines, text)
