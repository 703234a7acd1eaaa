"""Imports point down: the test names the line that points up or sideways."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "cuvee"

FLOORS = {
    0: {"errors", "values", "canonical", "seeds", "preemption"},
    1: {"stage", "protocols", "recipe", "runtime"},
    2: {"store", "data", "engine", "merging", "sandbox"},
    3: {"sources", "trackers", "taggers", "selectors", "strategies", "mergers", "evaluators", "analyses"},
    4: {"components", "bases", "pins", "planner", "cost", "explain", "job", "execute", "worker", "runner"}
    | {"collect_garbage", "gate", "lookups", "modelcard", "needs", "screening", "tagging", "judging", "answering"}
    | {"advice", "launch", "memory", "rank", "tracking"}
    | {"choosing", "model_judge", "selecting", "evidence", "mergings"}
    | {"sizes", "timing", "footprint"}
    | {"plan", "sourcing", "expansion", "measuring", "harnessed", "representing", "ensembles"},
    5: {"cli", "api", "evaluation", "exposure", "inspection", "planview", "terminal", "terminal_inspect", "report"}
    | {"selections", "task_vectors", "terminal_select", "studies", "power", "joined", "plan_schema"}
    | {"__init__", "__main__"},
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
HEAVY = {"torch", "transformers"}


def files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) of every import, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "cuvee":
                yield from ((node.lineno, f"cuvee.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


def faults(path: Path) -> Iterator[str]:
    room = room_of(path)
    for line, name in imports(path):
        place = f"{path.relative_to(SOURCE)}:{line}"
        top, *rest = name.split(".")
        if top in HEAVY and room not in ("engine", "merging", "mergers"):
            yield f"{place} imports {name}; torch lives in engine/, merging/ and mergers/"
        if top != "cuvee" or not rest or rest[0] == room:
            continue
        target = rest[0]
        if target not in FLOOR:
            continue
        if FLOOR[target] > FLOOR[room]:
            yield f"{place} imports {name}: up from floor {FLOOR[room]} to {FLOOR[target]}"
        elif FLOOR[target] == FLOOR[room] and FLOOR[room] in (2, 3):
            yield f"{place} imports {name}: sideways on floor {FLOOR[room]}"
        elif room == "strategies" and FLOOR[target] > 1:
            yield f"{place} imports {name}: strategies see floors 0 and 1 only"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    assert room_of(path) in FLOOR, f"{path} stands on no floor"
    assert list(faults(path)) == []


def test_the_rule_sees_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "strategies" / "bad.py"
    bad.parent.mkdir()
    bad.write_text(
        "import torch\nfrom cuvee.engine import loop\nfrom cuvee import mergers, analyses\n", encoding="utf-8"
    )
    monkeypatch.setattr("tests.test_floors.SOURCE", tmp_path)
    assert [fault.partition(" imports ")[0] for fault in faults(bad)] == [
        "strategies/bad.py:1",
        "strategies/bad.py:2",
        "strategies/bad.py:3",
        "strategies/bad.py:3",
    ]
