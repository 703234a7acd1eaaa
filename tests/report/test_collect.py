"""What a report gathers from a plan and its store: names, costs, and what went wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee import api
from cuvee.analyses import forgetting
from cuvee.errors import UsageError
from cuvee.report import collect, naming, page, stamp
from cuvee.report.results import read_results
from cuvee.report.sections import sections
from cuvee.runtime import Runtime
from cuvee.store import Store

RECIPE = """\
bases: ["fake:one", "fake:two"]
sources:
  FIRST:  {path: rows.jsonl, ability: math}
  SECOND: {path: rows.jsonl, ability: reasoning}
  few:    {path: rows.jsonl, ability: math, amount: {count: 10}}
heldout: 1/4
training: {epochs: 1, batch_size: 8, max_length: 256}
runs:
  - {strategy: multi_task}
  - {strategy: dmt, general: few, k: 1/2}
evaluation: [{heldout_loss: {stages: final, ability: math}}, {heldout_loss: {name: other, ability: reasoning}}]
analyses: [{scores: {resamples: 2000}}, {forgetting: {resamples: 2000}}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, its data and everything done."""
    place = tmp_path_factory.mktemp("collect")
    rows = [{"question": f"How much is {i} + 1?", "answer": f"It is {i + 1}."} for i in range(40)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (place / "r.yaml").write_text(RECIPE, encoding="utf-8")
    outcome = api.run(place / "r.yaml", Runtime(place / ".cuvee", workers=1, threads=1))
    assert outcome.failed == {}
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def gathered(place: Path):
    plan = api.plan(place / "r.yaml", Runtime(place / ".cuvee"))
    return plan, collect.collect(plan, Store(place / ".cuvee"))


def table(data, name, title):
    return next(each for each in data.tables[name] if each.title.startswith(title))


def test_sources_with_the_same_rows_show_all_their_names(made):
    _, data = gathered(made)
    (row,) = table(data, "data", "Sources").rows
    assert (row["source"], row["ability"]) == ("FIRST / SECOND / few", "math / reasoning")
    assert row["rendered for"].endswith("fake:one / fake:two")
    assert {s["label"] for s in data.stages if s["kind"] in ("load", "render")} == {"FIRST / SECOND / few"}


def test_parts_of_a_mixture_are_told_apart_by_how_much_of_the_source_they_take(made):
    _, data = gathered(made)
    named = {}
    for row in table(data, "data", "Mixtures").rows:
        named.setdefault(row["training"], []).append((row["source"], *row["asked"]))
    whole = [("FIRST / SECOND",), ("FIRST / SECOND",)]
    assert sorted(named["multi_task · fake:one"]) == [*whole, ("few", '{"count":10}')]
    assert sorted(named["dmt · fake:two, stage 1"]) == whole
    assert sorted(source for source, *_ in named["dmt · fake:two, stage 2"]) == ["FIRST / SECOND"] * 2 + ["few"]
    assert set(data.source_curves["multi_task · fake:one"]) == {"FIRST / SECOND", "few"}


def test_after_a_rename_the_stored_trainings_show_the_new_names(place):
    text = (place / "r.yaml").read_text(encoding="utf-8")
    (place / "r.yaml").write_text(text.replace("FIRST", "sums").replace("few", "little"), encoding="utf-8")
    plan, data = gathered(place)
    store = Store(place / ".cuvee")
    assert all(store.has(stage.kind, stage.id) for stage in plan.stages)
    names = {name for by in data.source_curves.values() for name in by}
    names |= {row["source"] for row in table(data, "data", "Mixtures").rows}
    assert names == {"sums / SECOND", "little"}


def test_every_base_model_has_rows_and_sentences_of_its_own(made):
    _, data = gathered(made)
    verdicts = [t.title for t in data.tables["scores"] if t.title.startswith("Verdict")]
    assert verdicts == ["Verdict, base model fake:one", "Verdict, base model fake:two"]
    rows = table(data, "scores", "All scores").rows
    keys = [(row["base"], row["run"], row["evaluator"], row["ability"]) for row in rows]
    assert len(set(keys)) == len(keys)
    bases = [row["base"] for row in rows if row["run"] == "base (untrained)"]
    assert bases == [] or set(bases) == {"fake:one", "fake:two"}
    lead = sections(data)[0].lead
    assert [sentence.split(": ")[0] for sentence in lead] == ["Base model fake:one", "Base model fake:two"]
    assert len(set(data.curves)) == 6
    assert set(data.curves) <= set(data.curve_seeds)
    assert set(data.curve_seeds.values()) == {0}
    assert len(data.notes) == len(set(data.notes))


def test_folders_of_this_machine_are_not_told_and_no_name_comes_twice():
    bases = [SimpleNamespace(path=path) for path in ("/home/me/x/model", "/home/me/y/model", "/data/z", "fake:one")]
    plan = SimpleNamespace(located=SimpleNamespace(recipe=SimpleNamespace(all_bases=bases)))
    assert list(naming.base_names(plan).values()) == ["model (1)", "model (2)", "z", "fake:one"]


def test_an_interrupted_training_costs_all_its_attempts(place):
    plan, before = gathered(place)
    model = plan.runs[0].models[0]
    path = Store(place / ".cuvee").path("train", model.id) / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    shown = {"seconds": manifest["summary"]["seconds"], "cpu_seconds": manifest["summary"]["cpu_seconds"]}
    manifest["summary"].update({"seconds": 5000.0, "cpu_seconds": 9000.0, "resumed_from": [3]})
    path.write_text(json.dumps(manifest), encoding="utf-8")
    _, after = gathered(place)
    for name, all_attempts in (("seconds", 5000.0), ("cpu_seconds", 9000.0)):
        assert after.costs[name] - before.costs[name] == pytest.approx(all_attempts - shown[name])
        assert next(s[name] for s in after.stages if s["id"] == model.id) == all_attempts


def test_the_table_of_stages_says_what_is_finished(place):
    plan, _ = gathered(place)
    store = Store(place / ".cuvee")
    lost = plan.evaluated[-1].grade
    shutil.rmtree(store.path("grade", lost.id))
    _, data = gathered(place)
    (cost,) = [s for s in sections(data) if s.id == "cost"]
    stages = next(block for block in cost.blocks if block.title == "Time by stage").table
    assert "cached" not in stages.columns
    assert {row["stage"]: row["finished"] for row in stages.rows} == {s.short: s.id != lost.id for s in plan.stages}
    end = next(item for item in plan.evaluated if item.final)
    shutil.rmtree(store.path("grade", end.grade.id), ignore_errors=True)
    _, data = gathered(place)
    (note,) = [note for note in data.notes if note.startswith("Not measured to the end: ")]
    assert end.run.name in note


@pytest.mark.parametrize("error", [UsageError("no such thing"), ValueError("bad"), ZeroDivisionError("by 0")])
def test_an_analysis_that_fails_leaves_the_others_and_is_told(made, monkeypatch, error, tmp_path):
    def fail(results, params):
        raise error

    monkeypatch.setattr(forgetting, "table", fail)
    _, data = gathered(made)
    assert data.notes[0] == f"analysis forgetting failed: {error}"
    assert "forgetting" not in data.tables
    assert data.tables["scores"]
    section = next(each for each in sections(data) if each.id == "forgetting")
    assert (section.blocks, section.text) == ([], [f"Nothing here: analysis forgetting failed: {error}"])
    page.write(data, tmp_path / "out")


def test_a_fault_of_the_program_is_called_one_and_leaves_the_others(made, monkeypatch):
    def fail(results, params):
        raise AttributeError("a bug")

    monkeypatch.setattr(forgetting, "table", fail)
    _, data = gathered(made)
    assert data.notes[0] == "analysis forgetting failed: a fault of cuvee, to be reported (AttributeError: a bug)"
    assert data.tables["scores"]


def test_what_is_trained_and_not_yet_measured_has_a_report(place):
    """Losses, costs and lineage are there after a kill; every analysis says what it lacks."""
    plan, _ = gathered(place)
    store = Store(place / ".cuvee")
    for item in plan.evaluated:
        shutil.rmtree(store.path("grade", item.grade.id), ignore_errors=True)
    assert stamp.worthwhile(plan, store)
    _, data = gathered(place)
    assert data.curves
    assert data.lineage[0].children
    assert data.failures == {}
    first = plan.evaluated[0].grade
    assert any(f"such as grade {first.label} ({first.short}): this report is partial" in note for note in data.notes)
    (verdict, *_) = sections(data)
    assert "No verdict: no final model has been evaluated." in verdict.lead


def test_nothing_trained_and_nothing_measured_is_no_report(place):
    plan, _ = gathered(place)
    store = Store(place / ".cuvee")
    for stage in plan.stages:
        if stage.kind in ("grade", "train"):
            shutil.rmtree(store.path(stage.kind, stage.id), ignore_errors=True)
    assert not stamp.worthwhile(plan, store)
    with pytest.raises(UsageError, match="nothing of this recipe is trained or measured yet"):
        gathered(place)


def test_rows_that_could_not_be_read_are_told_on_top(place):
    plan, data = gathered(place)
    assert not any("quarantined" in note for note in data.notes)
    store = Store(place / ".cuvee")
    load = next(stage for stage in plan.stages if stage.kind == "load")
    path = store.path("load", load.id) / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["summary"] |= {"bad": 2, "reasons": {"broken JSON": 1, "no answer": 2}}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    _, data = gathered(place)
    (note,) = [note for note in data.notes if "quarantined" in note]
    assert note.endswith(": 2 of 42 rows are quarantined (no answer).")


def test_an_analysis_named_twice_is_shown_twice(place):
    text = (place / "r.yaml").read_text(encoding="utf-8")
    (place / "r.yaml").write_text(text.replace("analyses: [", "analyses: [{scores: {seed: 1}}, "), encoding="utf-8")
    _, data = gathered(place)
    assert list(data.tables) == ["scores", "scores 2", "forgetting", "data"]


def test_scores_that_are_no_numbers_name_run_and_stage_and_leave_the_rest(place):
    plan, _ = gathered(place)
    store = Store(place / ".cuvee")
    item = next(e for e in plan.evaluated if e.run.name == "dmt" and e.final and e.evaluator == "heldout_loss")
    path = store.path("grade", item.grade.id) / "results.parquet"
    columns = pq.read_table(path).to_pydict()
    columns["score"][2] = float("nan")
    pq.write_table(pa.table(columns), path)
    _, data = gathered(place)
    (note,) = [note for note in data.notes if "are no numbers" in note]
    assert note.startswith("dmt · fake:one, stage 2 (")
    assert f"1 of {len(columns['item'])} scores of heldout_loss on math are no numbers" in note
    assert f"item {columns['item'][2]}: nan" in note
    verdict = table(data, "scores", "Verdict, base model fake:one")
    assert "dmt is not in the verdict: it has no heldout_loss on math." in verdict.notes
    assert [row["run"] for row in table(data, "scores", "Verdict, base model fake:two").rows]


def test_without_the_extra_it_says_what_to_install(made, monkeypatch):
    monkeypatch.setattr(collect, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"scipy and matplotlib, not installed here; pip install 'cuvee\[report\]'"):
        gathered(made)


def test_results_say_what_each_training_saw(place):
    plan = api.plan(place / "r.yaml", Runtime(place / ".cuvee"))
    results = [r for r in read_results(plan, Store(place / ".cuvee")) if r.final]
    by_run = {result.run.name: result.run for result in results}
    (multi,) = by_run["multi_task"].trainings
    assert {(p.source, p.ability) for p in multi.portions} == {
        ("FIRST", "math"),
        ("SECOND", "reasoning"),
        ("few", "math"),
    }
    assert {p.source: p.rows for p in multi.portions}["few"] == 10
    first, second = by_run["dmt k=1/2"].trainings if "dmt k=1/2" in by_run else by_run["dmt"].trainings
    assert {p.source for p in first.portions} == {"FIRST", "SECOND"}
    rows = {p.source: p.rows for p in first.portions}
    assert {p.source: p.rows for p in second.portions}["FIRST"] == rows["FIRST"] // 2
    assert multi.supervised_tokens == sum(p.supervised_tokens for p in multi.portions)


def test_a_run_with_an_unfinished_training_says_nothing_of_what_it_saw(place):
    plan = api.plan(place / "r.yaml", Runtime(place / ".cuvee"))
    store = Store(place / ".cuvee")
    shutil.rmtree(store.path("mix", plan.runs[0].models[0].training.one("data").id))
    result = next(r for r in read_results(plan, store) if r.final and r.run.name == "multi_task")
    assert result.run.trainings == ()


def test_the_findings_of_a_report_are_told_in_the_terminal(tmp_path):
    from cuvee.protocols import Table
    from cuvee.report import findings

    row = {"finding": "It rises.", "on": "math", "verdict": "supported", "95 % interval": "+1.0..+3.0"}
    table = Table(
        "Findings of the papers on these runs",
        [*row, "effect (+ is better)"],
        [
            {**row, "effect (+ is better)": "+2.0 points"},
            {**row, "verdict": "not tested", "effect (+ is better)": None},
        ],
    )
    (tmp_path / "tables").mkdir()
    page.write_parquet(table, tmp_path / "tables" / "findings-of-the-papers-on-these-runs.parquet")
    assert list(findings.lines(tmp_path)) == [
        "supported     It rises. [math: +2.0 points (+1.0..+3.0)]",
        "not tested    1 finding whose runs the recipe does not have; the report says which to add",
    ]


def test_findings_of_several_base_models_stand_below_their_names(tmp_path):
    from cuvee.protocols import Table
    from cuvee.report import findings

    row = {"finding": "It rises.", "on": "math", "verdict": "supported", "95 % interval": "+1.0..+3.0"}
    rows = [{**row, "effect (+ is better)": "+2.0 points"}]
    (tmp_path / "tables").mkdir()
    for base in ("builtin:micro", "builtin:tiny"):
        table = Table(f"Findings of the papers on these runs, base model {base}", list(rows[0]), rows)
        page.write_parquet(
            table, tmp_path / "tables" / f"findings-of-the-papers-{base.removeprefix('builtin:')}.parquet"
        )
    line = "supported     It rises. [math: +2.0 points (+1.0..+3.0)]"
    assert list(findings.lines(tmp_path)) == ["base model builtin:micro", line, "base model builtin:tiny", line]


def test_a_report_is_written_anew_when_more_than_grades_is_there(place: Path, tmp_path: Path) -> None:
    plan, store = api.plan(place / "r.yaml", Runtime(place / ".cuvee")), Store(place / ".cuvee")
    (tmp_path / "report.html").touch()
    checks = plan.preflights[0]
    kept = shutil.move(store.path("preflight", checks.id), tmp_path / "kept")
    stamp.write(plan, store, tmp_path)
    assert stamp.is_current(plan, store, tmp_path)
    shutil.move(kept, store.path("preflight", checks.id))
    assert not stamp.is_current(plan, store, tmp_path)


def test_judged_questions_that_a_source_holds_are_marked_in_each_turn(tmp_path: Path) -> None:
    judged = Path(__file__).parents[2] / "examples" / "judged"
    shutil.copytree(judged, tmp_path / "judged")
    (file,) = (tmp_path / "judged").glob("*question*.jsonl")
    first = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    rows = [{"question": f"How much is {i} + 1?", "answer": f"It is {i + 1}."} for i in range(40)]
    rows.append({"question": " ".join(first["turns"]), "answer": "Gladly."})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = """\
base: fake:one
sources: {sums: {path: rows.jsonl, ability: math}}
heldout: 0
preflight: {max_overlap: 1}
training: {epochs: 1, batch_size: 8, max_length: 256}
runs: [{strategy: multi_task}]
evaluation: [{mt_bench: {path: judged, judge: {model: "fake:judge"}, stages: final}}]
analyses: [leakage]
"""
    (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
    assert api.run(tmp_path / "r.yaml", Runtime(tmp_path / ".cuvee", workers=1, threads=1)).failed == {}
    _, data = gathered(tmp_path)
    (row,) = table(data, "leakage", "Leakage: items that").rows
    assert row["items held by the sources"] == "2/16"


def test_an_analysis_without_a_table_says_so(made: Path) -> None:
    _, data = gathered(made)
    data.tables["leakage"] = []
    section = next(each for each in sections(data) if each.id == "analysis-leakage")
    assert section.text == ["Nothing here: nothing that analysis leakage looks at was measured."]
