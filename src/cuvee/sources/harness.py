"""The questions of a task of lm-evaluation-harness, so that sources can be compared with them; no paper.

Planned with an evaluation `lm_eval` and never named in a recipe. An example is one document of the task: its question,
and in `extra` the name that the item has in the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cuvee.protocols import Estimate
from cuvee.protocols import Params as Base
from cuvee.values import BadRow, Example, Message

VERSION = 2
ITEM = "item"
"""Key of `extra`: TASK/NUMBER/HASH, as in the results."""


class Params(Base):
    """What pins the questions, and where they come from.

    Args:
        task: name of a task, group or tag.
        harness: version of lm-evaluation-harness.
        limit: the first documents of each task.
        files: (name, hash) of each file in `folder`.
        folder: a folder with tasks besides the harness' own.
        network: whether data may be fetched.
    """

    task: str
    harness: str
    limit: int | None = None
    files: tuple[tuple[str, str], ...] | None = None
    folder: str | None = None
    network: bool = False


def pin(params: Params, folder: Path, cache: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (identity: task, version, limit and files; place: folder and network)."""
    identity: dict[str, Any] = {"task": params.task, "harness": params.harness, "limit": params.limit}
    if params.files is not None:
        identity["files"] = [list(one) for one in params.files]
    return identity, {"folder": params.folder, "network": params.network}


def examples(params: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Example | BadRow]:
    """Yield the documents, task by task; one without words is no row.

    Raises:
        UsageError: the harness is not installed, or there is no such task.
        StageFailed: the task's data cannot be had.
    """
    from cuvee.engine import harness

    folder = Path(where["folder"]) if where["folder"] else None
    for one in harness.documents(params["task"], folder, params["limit"], network=where["network"]):
        if one.text.strip():
            yield Example((Message("user", one.text),), path=one.task, line=one.number, extra={ITEM: one.item})
        else:
            yield BadRow(one.task, one.number, "the question is empty", one.item)


def estimate(params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
    """Return the limit; how many there are is unknown until the harness has read them."""
    return Estimate(params["limit"] or 0, False)
