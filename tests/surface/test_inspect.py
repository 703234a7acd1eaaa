"""`cuvee inspect` and `cuvee preflight` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Cuvee, journal


def test_inspect_trains_nothing_and_shows_every_source_and_mixture(cuvee: Cuvee, place: Path) -> None:
    found = cuvee("inspect", "r.yaml", "--rows", "1", "--html", "page.html")
    assert (found.returncode, "Traceback" in found.stderr) == (0, False)
    assert all(f"{name}  ({name})" in found.stdout for name in ("math", "code", "general"))
    assert "mixture of multi_task" in found.stdout
    assert found.stdout.count("⟦") == found.stdout.count("⟧") > 2
    assert (place / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not any(stage.startswith("train") for stage in journal(place / ".cuvee", "done"))


def test_inspect_as_json_and_of_one_source(cuvee: Cuvee) -> None:
    found = cuvee("inspect", "r.yaml", "--source", "math", "--rows", "2", "--json")
    data = json.loads(found.stdout)
    assert data["schema"] == "cuvee.inspect/1"
    assert [(one["name"], len(one["examples"])) for one in data["sources"]] == [("math", 2)]


def test_a_source_that_is_not_there_is_wrong_use(cuvee: Cuvee) -> None:
    found = cuvee("inspect", "r.yaml", "--source", "maths")
    assert found.returncode == 2
    assert "Did you mean 'math'" in found.stderr


ONE = """\
base: fake:test
sources: {math: {ability: math, rows: ROWS}}
heldout: 0
training: {max_length: 280, template: vicuna_v1.1}
runs: [{strategy: multi_task}]
evaluation: []
"""


def recipe(place: Path, rows: list[dict[str, str]]) -> None:
    (place / "r.yaml").write_text(ONE.replace("ROWS", json.dumps(rows)), encoding="utf-8")


def test_output_that_cannot_show_every_letter_shows_escapes(cuvee: Cuvee, place: Path) -> None:
    recipe(place, [{"question": "caf\u00e9 \u4e2d?", "answer": "yes \u2603"}])
    found = cuvee("inspect", "r.yaml", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (found.returncode, "Traceback" in found.stderr) == (0, False)
    assert r"\u4e2d" in found.stdout
    assert r"[[ yes \u2603<" in found.stdout
    assert "###" in found.stdout


def test_preflight_ends_with_one_until_what_fails_is_accepted(cuvee: Cuvee, place: Path) -> None:
    short, long = {"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d " * 300}
    recipe(place, [short, long])
    found = cuvee("preflight", "r.yaml", "--json")
    data = json.loads(found.stdout)
    assert data["schema"] == "cuvee.preflight/1"
    assert [one["name"] for one in data["findings"] if one["level"] == "fail"] == ["lengths/math"]
    assert found.returncode == 1
    told = cuvee("preflight", "r.yaml")
    assert (told.returncode, "Traceback" in told.stderr) == (1, False)
    assert "--accept lengths/math" in told.stdout
    assert cuvee("preflight", "r.yaml", "--accept", "lengths/math").returncode == 0
