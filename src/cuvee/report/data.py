"""What a report is made of: plain values, gathered by whoever ran the recipe.

ReportData(title="three strategies", recipe_text=..., created="2026-09-01 12:00", tables={"scores": [...]})
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from cuvee.protocols import Table

ANNOUNCED = re.compile(r"(^|(?<=[.!?]) )[^.!?]*:$")
"""A last sentence that leads over to what follows it."""

Curve = Sequence[tuple[int, float]]
"""Points ``(optimiser step, loss in nats per supervised token)`` in order of steps."""


@dataclass(frozen=True)
class Node:
    """A model of the lineage tree: what it is, the runs whose final model it is (may be empty), what comes from it."""

    text: str
    ends: str = ""
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows. No clock and no store is asked: equal data give equal pages.

    Args:
        title: of the page.
        recipe_text: the recipe as it was run.
        created: when, as text; passed in.
        tables: by analysis, in the order to show them. ``scores``, ``forgetting`` and ``k_sweep`` have their
            own places, tables under ``data`` go to the data accounting, others follow in order.
        stages: one mapping a stage: ``short, kind, label, runs`` (names of the runs it belongs to),
            ``finished`` (is in the store), ``seconds, cpu_seconds, rows, supervised_tokens, total_tokens, steps,
            id``. What a kind does not have is absent or None.
        costs: ``trainings`` done, ``trainings_if_alone`` (had every run worked alone) and the same pair for
            ``seconds``, ``cpu_seconds``, ``supervised_tokens``, ``total_tokens``; absent where unknown. Other
            keys are shown as they are.
        curves: training loss by name of a training.
        source_curves: training loss of each source, by name of a training and source.
        lineage: the models of the runs as trees, each base a root.
        curve_seeds: the seed of each training, by its name.
        failures: why an analysis has no tables, by its name.
        notes: what the reader must know about this very report: failed stages, caveats.
        versions: software by name.
    """

    title: str
    recipe_text: str
    created: str
    tables: Mapping[str, Sequence[Table]] = field(default_factory=dict)
    stages: Sequence[Mapping[str, Any]] = ()
    costs: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    source_curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    lineage: Sequence[Node] = ()
    curve_seeds: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """What the recipe's author says of it: the comment it opens with, without commands and what announces them."""
        said = ""
        for line in takewhile(lambda line: line.startswith("#"), self.recipe_text.splitlines()):
            command = line.startswith(("#  ", "#!"))
            said = ANNOUNCED.sub("", said) if command else f"{said} {line[1:].strip()}".strip()
        return said
