"""What several tests use: a small recipe on the fake engine, and the command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = """\
base: fake:test
sources:
  math:    {path: "builtin:math",    ability: math,    amount: {count: 60}}
  code:    {path: "builtin:code",    ability: code,    amount: {count: 60}}
  general: {path: "builtin:general", ability: general, amount: {count: 60}}
training: {epochs: 1, batch_size: 4, max_length: 256}
runs:
  - {strategy: multi_task}
  - {strategy: mixed_sequential, general: general}
  - {strategy: dmt, general: general, k: [1/4, 1]}
evaluation:
  - {heldout_loss: {items: 20}}
  - {exact_answer: {items: 20}}
"""

Cuvee = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUVEE_STORE", "CUVEE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the small recipe as r.yaml."""
    (tmp_path / "r.yaml").write_text(SMALL, encoding="utf-8")
    return tmp_path


@pytest.fixture
def cuvee(place: Path) -> Cuvee:
    """Run the command line in `place`."""

    def call(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cuvee", *arguments],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
            check=False,
        )

    return call


def journal(store: Path, event: str) -> list[str]:
    """Return the stages of which the journal tells an event, in order."""
    lines = (store / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [fact["stage"] for fact in map(json.loads, lines) if fact["event"] == event]
