"""A training's log as curves for the trackers that the user asked for (``--track``).

    loss, loss/SOURCE              nats a supervised token of the step, and of each source's part of it
    learning_rate, gradient_norm
    tokens_per_second, epoch

The log stays the truth: a tracker that fails is told of once and left, and training goes on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cuvee import components
from cuvee.errors import UsageError
from cuvee.protocols import Progress, Tracker

Track = Callable[[Mapping[str, Any]], None]
"""Takes the log's records one after another."""


def check(names: Sequence[str]) -> None:
    """Refuse a tracker that there is not, or whose package is not installed.

    Raises:
        UsageError: with the remedy.
    """
    for name in names:
        try:
            module = components.find("trackers", name)
        except KeyError as error:
            raise UsageError(f"--track: {error.args[0]}") from None
        if find_spec(module.PACKAGE) is None:
            raise UsageError(f"--track {name} needs the package {module.PACKAGE}; pip install 'cuvee[{module.EXTRA}]'")


@contextmanager
def follow(
    names: Sequence[str], folder: Path, title: str, sources: Sequence[str], progress: Progress
) -> Iterator[Track]:
    """Yield what takes the records of one training's log.

    Args:
        names: the trackers.
        folder: of all tracked trainings; each tracker has a folder of its own there, each training one in it.
        title: the training's name.
        sources: names of the parts that records number.
        progress: told {"note"} when a tracker fails.
    """
    place = re.sub(r"[^\w.+=-]+", "_", title).strip("_")
    open_: dict[str, Tracker] = {}

    def attempt(name: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # whatever a foreign library may raise
            open_.pop(name, None)
            progress({"note": f"--track {name}: {type(error).__name__}: {error}; the training goes on without it"})

    for name in names:
        module = components.find("trackers", name)
        if (found := attempt(name, partial(module.start, folder / name / place, title))) is not None:
            open_[name] = found

    def track(record: Mapping[str, Any]) -> None:
        values = scalars(record, sources)
        for name, tracker in list(open_.items()):
            attempt(name, partial(tracker.write, record["step"], time.time(), values))

    try:
        yield track
    finally:
        for name, tracker in list(open_.items()):
            attempt(name, tracker.close)


def scalars(record: Mapping[str, Any], sources: Sequence[str]) -> dict[str, float]:
    """Return what is drawn of one record of the log."""
    found = {"loss": record["loss"], "epoch": record["epoch"]}
    for name, key in (("learning_rate", "lr"), ("gradient_norm", "grad_norm")):
        if key in record:
            found[name] = record[key]
    if record.get("seconds"):
        found["tokens_per_second"] = record["total_tokens"] / record["seconds"]
    parts: dict[str, list[float]] = {}
    for number, sums in record["parts"].items():  # a source may come in several parts
        own = parts.setdefault(sources[int(number)], [0.0, 0.0])
        own[0] += sums["nll"]
        own[1] += sums["tokens"]
    return {**found, **{f"loss/{name}": nll / tokens for name, (nll, tokens) in sorted(parts.items()) if tokens}}
