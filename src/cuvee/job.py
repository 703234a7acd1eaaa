"""A stage as it travels to a worker process: plain data with the folders of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuvee.stage import Stage
from cuvee.store import Store


@dataclass(frozen=True)
class Input:
    """A finished stage that a job reads."""

    kind: str
    id: str
    label: str
    folder: Path
    locate: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One stage to be executed.

    Args:
        identity: what the id hashes, plain data.
        inputs: finished stages by role.
        locate: where outside data lies.
        names: source name and ability by load stage id, for logs and model cards.
        keep: whether a model's weights are to stay when nothing needs them any more.
        preflight: the checks that a training passed, and the findings that were accepted; for its lineage.
        marks: fractions of a training at which it is to leave its weights.
    """

    id: str
    short: str
    kind: str
    component: str
    label: str
    params: Mapping[str, Any]
    identity: Mapping[str, Any]
    inputs: Mapping[str, tuple[Input, ...]]
    locate: Mapping[str, Any]
    names: Mapping[str, tuple[str, str]]
    keep: bool = True
    preflight: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()

    def one(self, role: str) -> Input:
        """Return the only input of `role`."""
        (found,) = self.inputs[role]
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a worker's pipe."""
        inputs = {
            role: [{**vars(item), "folder": str(item.folder), "locate": dict(item.locate)} for item in items]
            for role, items in self.inputs.items()
        }
        return {**vars(self), "inputs": inputs}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Job:
        """Inverse of `as_dict`."""
        inputs = {
            role: tuple(Input(**{**item, "folder": Path(item["folder"])}) for item in items)
            for role, items in data["inputs"].items()
        }
        names = {key: (name, ability) for key, (name, ability) in data["names"].items()}
        return Job(**{**data, "inputs": inputs, "names": names})


def make(
    stage: Stage,
    store: Store,
    names: Mapping[str, tuple[str, str]],
    *,
    keep: bool = True,
    preflight: Mapping[str, Any] | None = None,
    marks: Iterable[str] = (),
) -> Job:
    """Return the job of a stage whose inputs are finished."""
    return Job(
        id=stage.id,
        short=stage.short,
        kind=stage.kind,
        component=stage.component,
        label=stage.label,
        params=stage.identity["params"],
        identity=stage.identity,
        inputs={
            role: tuple(Input(s.kind, s.id, s.label, store.path(s.kind, s.id), dict(s.locate)) for s in stages)
            for role, stages in stage.inputs.items()
        },
        locate=dict(stage.locate),
        names=dict(names),
        keep=keep,
        preflight=preflight or {},
        marks=tuple(marks),
    )
