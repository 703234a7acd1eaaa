"""SIGTERM saves what is under way, exits with a code of its own, and the same command goes on to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cuvee import api, planview
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import journal

COMMAND = [sys.executable, "-m", "cuvee", "run", "r.yaml", "--no-report", "--json", "--workers", "1", "--threads", "1"]
REAL = """\
base: builtin:tiny
sources: {math: {path: "builtin:math", ability: math, amount: {count: 240}}}
training: {epochs: 1, learning_rate: 3e-3, batch_size: 4, max_length: 256}
runs: [{strategy: multi_task}]
evaluation: []
"""


def start(place: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *more], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(place: Path, least: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        logs = list((place / ".cuvee").glob("work/train-*/log.jsonl"))
        if logs and logs[0].read_bytes().count(b"\n") >= least:
            return
        time.sleep(0.02)
    raise AssertionError("no training began")


def stop(place: Path, least: int, whom: str, *more: str) -> tuple[int, dict[str, Any], str]:
    """Start a run, ask it or its worker to stop at some step; return exit code, summary and what it said."""
    process = start(place, *more)
    wait_for_steps(place, least)
    worker = json.loads((place / ".cuvee" / "journal.jsonl").read_text().splitlines()[-1])["pid"]
    os.kill(process.pid if whom == "run" else worker, signal.SIGTERM)
    out, said = process.communicate(timeout=200)
    return process.returncode, json.loads(out), said


@pytest.mark.parametrize("whom", ["run", "worker"])
def test_a_stopped_run_says_that_it_resumes_and_does(place: Path, whom: str) -> None:
    code, summary, said = stop(place, 3, whom, "--step-sleep", "0.05", "--checkpoint-seconds", "9999")
    assert code == 143
    assert "stopped, resumes" in said
    assert summary["stopped"] is True
    assert summary["failed"] == {}
    (short,) = summary["unfinished"]
    runtime = Runtime(place / ".cuvee")
    view = planview.status(api.plan(place / "r.yaml", runtime), Store(place / ".cuvee"))
    assert [stage["short"] for stage in view["stages"] if stage["state"] == "stopped"] == [short]
    assert api.run(place / "r.yaml", Runtime(place / ".cuvee", workers=1)).failed == {}
    manifest = Store(place / ".cuvee").manifest("train", next(iter(_id(place, short))))
    assert manifest["summary"]["resumed_from"][0] >= 3
    assert journal(place / ".cuvee", "stopped") == [short]


def _id(place: Path, short: str) -> list[str]:
    return [m["id"] for m in Store(place / ".cuvee").stages() if short.endswith(m["id"][:16])]


def test_a_stopped_training_of_a_real_model_ends_with_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    places = [tmp_path / "whole", tmp_path / "stopped"]
    for place in places:
        place.mkdir()
        (place / "r.yaml").write_text(REAL, encoding="utf-8")
    whole = start(places[0])
    whole.communicate(timeout=300)
    assert whole.returncode == 0
    codes = [stop(places[1], steps, whom)[0] for steps, whom in ((5, "run"), (20, "worker"))]
    assert codes == [143, 143]
    last = start(places[1])
    last.communicate(timeout=300)
    assert last.returncode == 0
    (manifest,) = (m for m in Store(places[1] / ".cuvee").stages() if m["kind"] == "train")
    assert len(manifest["summary"]["resumed_from"]) == 2
    files = [next((place / ".cuvee").glob("train/*/model/model.safetensors")) for place in places]
    assert files[0].read_bytes() == files[1].read_bytes()
