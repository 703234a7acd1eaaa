"""The command line: exit codes, messages without traceback, JSON that follows its schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import Cuvee

COMMANDS = ("init", "plan", "run", "status", "why", "list", "show", "report", "gc")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cuvee: Cuvee, command: str) -> None:
    found = cuvee(command, "--help")
    assert found.returncode == 0
    assert f"cuvee {command} " in found.stdout or f"cuvee {command}\n" in found.stdout


def edit(place: Path, old: str, new: str) -> None:
    path = place / "r.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("epochs: 1", "epoch: 1", "r.yaml:6: training.epoch: unknown key 'epoch'. Did you mean 'epochs'?"),
        ("epochs: 1", "epochs: many", "r.yaml:6: training.epochs: input should be a valid integer"),
        ("multi_task", "multi_tsk", "there is no 'multi_tsk' in strategies. Did you mean 'multi_task'?"),
        ("general: general, k", "generl: general, k", "r.yaml:10: runs.2.generl: unknown key 'generl'. Did you mean"),
        ("mixed_sequential, general: general", "mixed_sequential, general: chat", "there is no source 'chat'"),
        ('"builtin:math"', "missing.jsonl", "missing.jsonl"),
        ('"builtin:math"', '"builtin:maths"', "math"),
        ("fake:test", "./no-such-model", "base: base './no-such-model': there is no folder"),
        ("fake:test", "builtin:tny", "there is no built-in model 'tny'. Did you mean 'tiny'?"),
        ("fake:test", "builtin:smollm2", "`make smollm2` fetches and converts it once"),
        ("heldout_loss: {items: 20}", "heldout_los: {items: 20}", "Did you mean 'heldout_loss'?"),
        ("items: 20}}\n  - {exact", "itms: 20}}\n  - {exact", "unknown key 'itms'. Did you mean 'items'?"),
        ("k: [1/4, 1]", "k: [1/4, x]", "must be a share such as 1/4 or 0.25, got 'x'"),
        ("training:", "heldout: 0\ntraining:", "but heldout is 0"),
        ("training:", "heldout: 1/100000\ntraining:", "holds out none to measure; say heldout: "),
        ("k: [1/4, 1]", "k: []", "r.yaml:10: runs.2.k: the list is empty"),
        (
            "evaluation:",
            "evaluation:\n  - heldout_loss",
            "'heldout_loss' measures 'math' already; give this one a name",
        ),
        ("evaluation:", "analyses: [scorse]\nevaluation:", "Did you mean 'scores'?"),
        ("amount: {count: 60}}\n  code", "amount: {count: 6001}}\n  code", "count: 6,001 asked, 6,000 rows are there"),
        ("amount: {count: 60}}\n  code", "drop: {tags: x}}\n  code", "name a column with tags: COLUMN"),
        ("amount: {count: 60}}\n  code", "tags: t, drop: {tags: '['}}\n  code", "'[' is no regular expression"),
        ("amount: {count: 60}}\n  code", "columns: {a: b}}\n  code", "this source is no file"),
        ("amount: {count: 60}}\n  code", "rows: []}\n  code", "sources.math: needs exactly one of path and rows"),
    ],
)
def test_wrong_use_ends_with_two_names_the_key_and_shows_no_traceback(
    cuvee: Cuvee, place: Path, old: str, new: str, told: str
) -> None:
    edit(place, old, new)
    found = cuvee("plan", "r.yaml", env={"CUVEE_HOME": str(place)})
    assert found.returncode == 2
    assert told in found.stderr
    assert "Traceback" not in found.stderr
    assert cuvee("run", "r.yaml", env={"CUVEE_HOME": str(place)}).returncode == 2
    assert not (place / ".cuvee" / "store.json").exists()


def test_an_unknown_command_and_option_suggest_the_near_one(cuvee: Cuvee) -> None:
    command, option = cuvee("pln", "r.yaml"), cuvee("plan", "r.yaml", "--jsn")
    assert (command.returncode, option.returncode) == (2, 2)
    assert "Did you mean 'plan'?" in command.stderr
    assert "--json" in option.stderr


ROW = '{"messages": [{"role": "user", "content": "%d"}, {"role": "assistant", "content": "a"}]}\n'


def rows(count: int) -> str:
    return "".join(ROW % number for number in range(count))


def run_with(cuvee: Cuvee, place: Path, text: str) -> tuple[int, str]:
    (place / "m.jsonl").write_text(text, encoding="utf-8")
    edit(place, 'path: "builtin:math",    ability: math,    amount: {count: 60}', "path: m.jsonl, ability: math")
    found = cuvee("run", "r.yaml", "heldout=0.2")
    assert "Traceback" not in found.stderr
    return found.returncode, found.stderr


def test_a_few_bad_rows_are_quarantined_and_counted(cuvee: Cuvee, place: Path) -> None:
    code, told = run_with(cuvee, place, rows(200) + "{broken\n")
    assert (code, told.count("failed")) == (0, 0)
    page = (place / "reports" / "r" / "report.md").read_text(encoding="utf-8")
    assert "broken JSON" in page


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (rows(30) + "{broken\n", "m.jsonl:31: broken JSON"),
        (rows(30) + '{"messages": [{"role": "user", "content": "hi"}]}\n', "m.jsonl:31: "),
    ],
)
def test_too_many_bad_rows_fail_with_file_and_line(cuvee: Cuvee, place: Path, text: str, told: str) -> None:
    code, error = run_with(cuvee, place, text)
    assert code == 1
    assert told in error
    assert "max_bad" in error
    assert len(list((place / ".cuvee").glob("load/*"))) == 2


def test_an_empty_source_is_wrong_use(cuvee: Cuvee, place: Path) -> None:
    code, error = run_with(cuvee, place, "")
    assert code == 2
    assert "m.jsonl" in error
    assert "sources.math" in error


def test_an_amount_that_yields_no_row_is_refused_before_anything_is_done(cuvee: Cuvee, place: Path) -> None:
    found = cuvee("run", "r.yaml", "runs.2.k=[1/256]")
    assert found.returncode == 2
    assert "rows is no row; the smallest share that keeps one is 1/60, or say count: 1" in found.stderr
    assert "dmt k=1/256" in found.stderr
    assert not (place / ".cuvee" / "store.json").exists()
    cuvee("run", "r.yaml", "--no-report")
    assert cuvee("plan", "r.yaml", "runs.2.k=[1/256]").returncode == 2


def test_a_store_of_a_newer_version_is_left_alone(cuvee: Cuvee, place: Path) -> None:
    (place / ".cuvee").mkdir()
    (place / ".cuvee" / "store.json").write_text('{"version": 99}', encoding="utf-8")
    found = cuvee("run", "r.yaml")
    assert found.returncode == 2
    assert "was written by a newer cuvee" in found.stderr
    assert sorted(p.name for p in (place / ".cuvee").iterdir()) == ["store.json"]


def test_a_folder_that_is_no_store_is_left_alone(cuvee: Cuvee, place: Path) -> None:
    found = cuvee("run", "r.yaml", "--store", ".")
    assert found.returncode == 2
    assert "not a store" in found.stderr


def test_plan_json_follows_its_schema_and_knows_what_is_cached(cuvee: Cuvee) -> None:
    schema = json.loads(cuvee("plan", "r.yaml", "--schema").stdout)
    before = json.loads(cuvee("plan", "r.yaml", "--json").stdout)
    assert cuvee("run", "r.yaml", "--no-report").returncode == 0
    after = json.loads(cuvee("plan", "r.yaml", "--json").stdout)
    for view in (before, after):
        jsonschema.validate(view, schema)
    assert before["totals"]["cached"] == 0
    assert after["totals"]["cached"] == after["totals"]["stages"]
    assert all(stage["tokens_exact"] for stage in after["stages"])
    assert (after["totals"]["trainings_alone"], after["totals"]["trainings"]) == (7, 5)


def test_plan_executes_nothing(cuvee: Cuvee, place: Path) -> None:
    assert cuvee("plan", "r.yaml").returncode == 0
    assert not (place / ".cuvee" / "store.json").exists()


def test_estimates_before_a_run_are_near_the_exact_numbers_after_it(cuvee: Cuvee) -> None:
    before = {s["id"]: s for s in json.loads(cuvee("plan", "r.yaml", "--json").stdout)["stages"]}
    cuvee("run", "r.yaml", "--no-report")
    after = json.loads(cuvee("plan", "r.yaml", "--json").stdout)["stages"]
    for stage in after:
        if stage["kind"] == "train":
            assert before[stage["id"]]["rows"] == stage["rows"]
            assert before[stage["id"]]["total_tokens"] == pytest.approx(stage["total_tokens"], rel=0.15)


def test_the_reason_to_run_names_the_nearest_stage_and_the_first_difference(cuvee: Cuvee) -> None:
    cuvee("run", "r.yaml", "--no-report")
    plan = json.loads(cuvee("plan", "r.yaml", "training.learning_rate=1e-4", "--json").stdout)
    reasons = [s["why"] for s in plan["stages"] if s["kind"] == "train" and not s["why"].startswith("after")]
    assert reasons
    assert all("params.learning_rate 2e-05 → 0.0001" in reason for reason in reasons)


def test_status_why_list_and_show_tell_what_is_there(cuvee: Cuvee) -> None:
    assert "missing" in cuvee("status", "r.yaml").stdout
    cuvee("run", "r.yaml", "--no-report")
    assert json.loads(cuvee("status", "r.yaml", "--json").stdout)["counts"].keys() == {"done"}
    rows = json.loads(cuvee("list", "--json").stdout)["rows"]
    trained = [row["short"] for row in rows if row["kind"] == "train"]
    assert len(trained) == 5
    shown = json.loads(cuvee("show", trained[0][:14], "--json").stdout)
    assert shown["summary"]["steps"] > 0
    assert Path(shown["folder"]).is_dir()
    reasons = cuvee("why", *trained[:2]).stdout
    assert reasons.startswith(f"{trained[0]} (")
    assert "  data: mix-" in reasons
    assert "in the store" in cuvee("why", "r.yaml", "train").stdout
    assert "multi_task" in cuvee("list", "components").stdout


def test_gc_keeps_what_a_listed_recipe_needs(cuvee: Cuvee, place: Path) -> None:
    (place / "s.yaml").write_text((place / "r.yaml").read_text().replace("batch_size: 4", "batch_size: 8"))
    cuvee("run", "r.yaml", "--no-report")
    cuvee("run", "s.yaml", "--no-report")
    both = json.loads(cuvee("gc", "r.yaml", "s.yaml", "--yes", "--json").stdout)
    assert both["stages"] == []
    dry = json.loads(cuvee("gc", "r.yaml", "--json").stdout)
    assert dry["stages"]
    deleted = json.loads(cuvee("gc", "r.yaml", "--yes", "--json").stdout)
    assert deleted["stages"] == dry["stages"]
    assert json.loads(cuvee("run", "r.yaml", "--no-report", "--json").stdout)["executed"] == []
    assert json.loads(cuvee("plan", "s.yaml", "--json").stdout)["totals"]["trainings_to_do"] == 5


def test_gc_takes_overrides_after_their_recipe(cuvee: Cuvee) -> None:
    cuvee("run", "r.yaml", "training.batch_size=8", "--no-report")
    assert json.loads(cuvee("gc", "r.yaml", "--json").stdout)["stages"]
    assert json.loads(cuvee("gc", "r.yaml", "training.batch_size=8", "--json").stdout)["stages"] == []
    assert cuvee("gc", "training.batch_size=8").returncode == 2


def test_an_impossible_report_folder_is_refused_before_the_work(cuvee: Cuvee, place: Path) -> None:
    (place / "taken").mkdir()
    (place / "taken" / "thesis.txt").write_text("mine", encoding="utf-8")
    found = cuvee("run", "r.yaml", "--report", "taken")
    assert found.returncode == 2
    assert "thesis.txt" in found.stderr
    assert not (place / ".cuvee" / "store.json").exists()


def test_a_stricter_max_bad_is_told_for_a_source_that_is_stored(cuvee: Cuvee, place: Path) -> None:
    code, _ = run_with(cuvee, place, rows(200) + "{broken\n")
    assert code == 0
    found = cuvee("plan", "r.yaml", "heldout=0.2", "sources.math.max_bad=0")
    assert found.returncode == 2
    assert "1 of 201 rows cannot be used, more than max_bad = 0.00% allows" in found.stderr


def test_an_override_that_is_no_yaml_is_wrong_use(cuvee: Cuvee) -> None:
    found = cuvee("plan", "r.yaml", "training.epochs=[")
    assert (found.returncode, "Traceback" in found.stderr) == (2, False)


def test_the_report_is_written_once_and_again_when_something_is_new(cuvee: Cuvee, place: Path) -> None:
    cuvee("run", "r.yaml")
    page = place / "reports" / "r" / "report.html"
    first = page.stat().st_mtime_ns
    cuvee("run", "r.yaml")
    assert page.stat().st_mtime_ns == first
    cuvee("run", "r.yaml", "runs.2.k=[1/4, 1/2, 1]")
    assert page.stat().st_mtime_ns > first
    assert "fake engine" in page.read_text(encoding="utf-8")


def test_init_writes_a_recipe_that_plans(cuvee: Cuvee, place: Path) -> None:
    assert cuvee("init", "new.yaml").returncode == 0
    assert cuvee("plan", "new.yaml").returncode == 0
    assert cuvee("init", "new.yaml").returncode == 2


def test_a_full_disk_fails_clearly_and_leaves_nothing_half_written(cuvee: Cuvee, place: Path) -> None:
    # A limit on the size of a file stands in for a full disk: the same kind of error, without root.
    limited = ["bash", "-c", 'ulimit -f 40; exec "$@"', "--"]
    found = subprocess.run(
        [*limited, sys.executable, "-m", "cuvee", "run", "r.yaml", "--no-report"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert "the disk is full" in found.stderr
    assert "Traceback" not in found.stderr
    assert not list((place / ".cuvee").glob("load/*"))
    assert cuvee("run", "r.yaml", "--no-report").returncode == 0


def test_rows_lost_at_rendering_are_said_aloud(cuvee: Cuvee, place: Path) -> None:
    mixed = "".join(
        json.dumps({"question": f"q {i}", "answer": "word " * 400 if i % 2 else "a"}) + "\n" for i in range(80)
    )
    code, told = run_with(cuvee, place, mixed)
    assert (code, "--accept lengths/math" in told) == (1, True)  # half of a source is too much to lose unasked
    found = cuvee("run", "r.yaml", "heldout=0.2", "--accept", "lengths/math")
    assert found.returncode == 0
    assert "chosen rows were lost at rendering" in found.stdout
    assert "raise training.max_length" in found.stdout
    planned = json.loads(cuvee("plan", "r.yaml", "heldout=0.2", "--store", "other", "--json").stdout)
    assert not any(stage["rows_exact"] for stage in planned["stages"] if stage["kind"] == "train")


def test_the_place_of_a_fault_on_the_command_line_is_the_command_line(cuvee: Cuvee) -> None:
    assert "command line: trainng: unknown key" in cuvee("plan", "r.yaml", "trainng.epochs=1").stderr
    assert "command line: training.epoch: unknown key" in cuvee("plan", "r.yaml", "training.epoch=1").stderr


SELECTS = """\
base: fake:test
sources:
  math: {path: "builtin:math", ability: math}
training: {epochs: 1, batch_size: 16, max_length: 256}
runs:
  - {strategy: multi_task, select: {by: lobass, count: 50, pool: {count: 200}}}
evaluation: [heldout_loss]
"""


def test_select_trains_references_and_no_run_and_inspect_trains_nothing(cuvee: Cuvee, place: Path) -> None:
    (place / "s.yaml").write_text(SELECTS, encoding="utf-8")
    before = cuvee("inspect", "s.yaml")
    assert before.returncode == 0
    assert "math by lobass 50: not chosen yet" in before.stdout
    assert not (place / ".cuvee" / "train").exists()
    done = cuvee("select", "s.yaml", "--rows", "1", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "50 of 200 rows kept" in done.stdout
    assert "first not kept" in done.stdout
    assert len(list((place / ".cuvee" / "train").iterdir())) == 1
    assert len(list((place / "out").iterdir())) == 2
    shown = json.loads(cuvee("select", "s.yaml", "--json").stdout)
    assert shown["schema"] == "cuvee.select/1"
    assert shown["selections"][0]["kept"] == 50
    assert "train math, for selecting" in cuvee("plan", "s.yaml").stdout
    after = cuvee("inspect", "s.yaml", "--rows", "1", "--html", "page.html").stdout
    assert "(below the border, loss_base" in after
    assert "below the border, loss_base" in (place / "page.html").read_text(encoding="utf-8")


def test_select_without_a_selection_says_how_to_write_one(cuvee: Cuvee) -> None:
    found = cuvee("select", "r.yaml")
    assert found.returncode == 2
    assert "the recipe selects nothing; say what to keep" in found.stderr
