"""Marks, regularisers and replay in a plan: stages of their own, judged where all models are, given up like models."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from cuvee import api, cost, exposure, planview
from cuvee.analyses import alignment_tax
from cuvee.errors import RecipeError
from cuvee.plan import Plan
from cuvee.protocols import Result
from cuvee.recipe import load
from cuvee.report.results import read_results
from cuvee.runtime import Runtime
from cuvee.stage import walk
from cuvee.store import Store

MARKS = "training.marks=[1/2, 1/4]"
SEQUENTIAL = "runs=[{strategy: sequential, order: [math, code, general]}]"
LORA = "training.method=lora"


def runtime(place: Path) -> Runtime:
    return Runtime(store=place / ".cuvee", workers=2, threads=1)


def plan(place: Path, *more: str) -> Plan:
    return api.plan(load(place / "r.yaml", list(more)), runtime(place))


def run(place: Path, *more: str) -> list[str]:
    outcome = api.run(load(place / "r.yaml", list(more)), runtime(place))
    assert outcome.failed == {}
    return sorted(name.split("-")[0] for name in outcome.executed)


def results(place: Path, *more: str) -> list[Result]:
    return list(read_results(plan(place, *more), Store(place / ".cuvee")))


# ------------------------------------------------------------------------------------------------------- marks


@pytest.mark.parametrize("method", ["full", "lora"])
def test_marks_leave_all_other_stages_as_they_are(method: str, place: Path) -> None:
    asked = (SEQUENTIAL, f"training.method={method}")
    plain, marked = plan(place, *asked), plan(place, *asked, MARKS)
    before, after = ({stage.id for stage in one.stages} for one in (plain, marked))
    assert before < after
    new = [stage for stage in marked.stages if stage.id not in before]
    folds = ["fold"] * 6 if method == "lora" else []
    assert sorted(stage.kind for stage in new if stage.kind not in ("score", "grade")) == [*folds, *["mark"] * 6]


def done_after(shares: list[Fraction]) -> list[tuple[int, Fraction]]:
    """The base, then the shares of three trainings of equal steps."""
    return [(0, Fraction(0)), *((stage, share) for stage in range(3) for share in shares)]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_marks_are_judged_where_all_models_are_and_results_tell_the_share(method: str, place: Path) -> None:
    asked = (SEQUENTIAL, MARKS, f"training.method={method}")
    kinds = run(place, *asked)
    assert kinds.count("mark") == 6
    assert run(place, *asked) == []
    found = [r for r in results(place, *asked) if r.ability == "math"]
    curve = [(r.stage, r.fraction) for r in found if r.evaluator == "heldout_loss"]
    shares = [Fraction(1, 4), Fraction(1, 2), Fraction(1)]
    assert curve == [(0, 1), *((stage, share) for stage in (1, 2, 3) for share in shares)]
    assert [r.final for r in found if r.evaluator == "heldout_loss"] == [False] * 9 + [True]
    assert [r.stage_label for r in found][1:4] == ["math 1/4", "math 1/2", "math"]
    assert [r.fraction for r in found if r.evaluator == "exact_answer"] == [1], "final means the end"
    means = [sum(r.scores) / len(r.scores) for r in found[1:4]]
    assert means == sorted(means, reverse=True), "the loss falls along the training"
    _, points = alignment_tax.table(found, alignment_tax.Params(resamples=2000))
    done = [float(row["done"]) for row in points.rows if row["evaluator"] == "heldout_loss"]
    assert done == pytest.approx([(stage + float(share)) / 3 for stage, share in done_after(shares)], abs=2e-3)


def test_marks_asked_for_later_are_made_without_the_training(place: Path) -> None:
    run(place, SEQUENTIAL)
    kinds = run(place, SEQUENTIAL, MARKS)
    assert kinds.count("mark") == 6
    assert "train" not in kinds
    store = Store(place / ".cuvee")
    made = [m["summary"]["made"] for m in store.stages() if m["kind"] == "mark"]
    assert made == ["replayed"] * 6


def test_marks_of_a_training_still_to_run_are_taken_from_it(place: Path) -> None:
    run(place, SEQUENTIAL, MARKS)
    store = Store(place / ".cuvee")
    assert [m["summary"]["made"] for m in store.stages() if m["kind"] == "mark"] == ["taken"] * 6
    assert not [path for path in store.folder.glob("train/*/marks/*")], "they are in the marks now"


@pytest.mark.parametrize(("keep", "models"), [("all", 3 + 6), ("leaves", 1), ("none", 0)])
def test_marks_are_kept_and_given_up_as_models_are(keep: str, models: int, place: Path) -> None:
    run(place, SEQUENTIAL, MARKS, f"keep_models={keep}")
    store = place / ".cuvee"
    assert len([*store.glob("train/*/model"), *store.glob("mark/*/model")]) == models
    assert run(place, SEQUENTIAL, MARKS, f"keep_models={keep}") == []


def test_a_mark_needs_the_log_of_its_training_and_not_its_weights(place: Path) -> None:
    """A single training that was given up is not trained again to its end for the sake of a mark."""
    one = "runs=[{strategy: multi_task}]"
    run(place, one, "keep_models=none")
    kinds = run(place, one, "keep_models=none", MARKS)
    assert kinds.count("mark") == 2
    assert "train" not in kinds


def test_gc_keeps_the_marks_that_a_recipe_names(place: Path) -> None:
    from cuvee import collect_garbage

    run(place, SEQUENTIAL, MARKS)
    store = Store(place / ".cuvee")
    assert collect_garbage.collect([plan(place, SEQUENTIAL, MARKS)], store, delete=True)["stages"] == []
    gone = collect_garbage.collect([plan(place, SEQUENTIAL)], store, delete=True)["stages"]
    assert sum(name.startswith("mark-") for name in gone) == 6
    assert not any(name.startswith("train-") for name in gone)


def test_gc_takes_weights_that_trainings_left_for_marks_nobody_makes_any_more(place: Path) -> None:
    from cuvee import collect_garbage

    run(place, SEQUENTIAL)
    store = Store(place / ".cuvee")
    (training, *_) = [store.path("train", one["id"]) for one in store.stages() if one["kind"] == "train"]
    (training / "marks").mkdir()
    for name in ("1-4", "2-3"):
        (training / "marks" / name).write_bytes(b"x" * 10)
    told = collect_garbage.collect([plan(place, SEQUENTIAL, MARKS)], store, delete=False)
    assert told["stages"] == [f"{training.name}/marks/2-3"]
    assert told["bytes"] == 10
    collect_garbage.collect([plan(place, SEQUENTIAL, MARKS)], store, delete=True)
    assert [path.name for path in (training / "marks").iterdir()] == ["1-4"]


def test_marks_count_in_the_disk_estimate_and_the_plan_names_them(place: Path) -> None:
    more = ["base={path: seven, declared: {parameters: 7B}}", "training.template=plain", SEQUENTIAL]
    store = Store(place / ".cuvee")
    plans = [plan(place, *more), plan(place, *more, MARKS)]
    plain, marked = (cost.estimate(found, store, runtime(place), 1e12) for found in plans)
    assert marked.disk_bytes - plain.disk_bytes == 6 * 7e9 * 4
    assert marked.disk_peak_bytes > plain.disk_peak_bytes + 6 * 7e9 * 4
    (shown,) = planview.describe(plans[1], marked, store)["runs"]
    assert [(mark["training"], mark["fraction"]) for mark in shown["marks"]][:3] == [(1, "1/4"), (1, "1/2"), (2, "1/4")]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_mark_has_seen_the_rows_of_its_steps_alone(method: str, place: Path) -> None:
    asked = (SEQUENTIAL, MARKS, f"training.method={method}")
    run(place, *asked)
    store, (found,) = Store(place / ".cuvee"), plan(place, *asked).runs
    _, at, half = found.marks[3]  # of the second training
    assert at == Fraction(1, 2)
    seen = exposure.table(store, half.short).to_pylist()
    before, after = (exposure.table(store, model.short).to_pylist() for model in found.models[:2])
    step = store.manifest(half.mark.kind, half.mark.id)["summary"]["step"]
    assert {row["source"] for row in seen} == {"math", "code"}
    assert len(seen) == len(before) + sum(row["source"] == "code" and row["steps"][0] <= step for row in after)
    assert len(before) < len(seen) < len(after)


def test_impossible_marks_are_refused(place: Path) -> None:
    for wrong in ("[1]", "[0]", "[1/2, 0.5]"):
        with pytest.raises(RecipeError, match="marks"):
            plan(place, f"training.marks={wrong}")


REAL = """\
base: builtin:tiny
sources:
  math: {path: "builtin:math", ability: math, amount: {count: 24}}
  code: {path: "builtin:code", ability: code, amount: {count: 24}}
  general: {path: "builtin:general", ability: general, amount: {count: 24}, replay: true}
training:
  epochs: 1
  learning_rate: 3e-3
  batch_size: 8
  max_length: 256
  marks: [1/2]
  replay: {source: general, share: 1/2}
  regulariser: {l2_sp: {weight: 0.1}, ewc: {weight: 0.1, source: general, samples: 4}, kl: {weight: 0.1}}
runs: [{strategy: multi_task}]
evaluation: [{heldout_loss: {items: 8}}]
"""


def test_a_held_and_marked_training_runs_for_real(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "r.yaml").write_text(REAL, encoding="utf-8")
    run(tmp_path)
    store = Store(tmp_path / ".cuvee")
    (folder,) = store.folder.glob("mark/*/model")
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert "after step" in (folder / "README.md").read_text(encoding="utf-8")
    (log,) = store.folder.glob("train/*/log.jsonl")
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert sorted(records[-1]["penalties"]) == ["ewc", "kl", "l2_sp"]
    assert all(value > 0 for value in records[-1]["penalties"].values())
    assert {"0", "1", "2"} == set().union(*(record["parts"] for record in records)), "general is replayed"
    (fisher,) = store.folder.glob("fisher/*/fisher.safetensors")
    assert fisher.stat().st_size > 1000


# ------------------------------------------------------------------------------------- regularisers and replay

APART = "sources.general.replay=true"
TWO = "runs=[{strategy: multi_task}]"


def test_a_regulariser_changes_the_trainings_alone(place: Path) -> None:
    before = {stage.id: stage for stage in plan(place).stages}
    for text in ("{l2_sp: {weight: 0.1}}", "{kl: {weight: 0.1}}", "{ewc: {weight: 1, source: math}}"):
        found = plan(place, f"training.regulariser={text}")
        kinds = {stage.kind for stage in found.stages if stage.id not in before}
        expected = {"train", "score", "generate", "grade"} | ({"fisher"} if "ewc" in text else set())
        assert kinds <= expected | {"mix"}
        assert expected <= kinds


def test_runs_differ_in_their_regularisers_and_share_the_rest(place: Path) -> None:
    runs = "runs=[{strategy: multi_task}, {strategy: multi_task, training: {regulariser: {kl: {weight: 0.1}}}}]"
    first, second = plan(place, runs).runs
    assert first.final.id != second.final.id
    assert first.final.one("data").id == second.final.one("data").id
    assert "regulariser" not in first.final.params


def test_each_training_is_held_by_the_fisher_of_the_model_it_starts_from(place: Path) -> None:
    ewc = "training.regulariser={ewc: {weight: 2, source: general, samples: 10}}"
    (found,) = plan(place, SEQUENTIAL, ewc).runs
    starts = [model.one("fisher").one("model").id for model in found.models]
    assert starts == [found.base.id, found.models[0].id, found.models[1].id]
    assert len({model.one("fisher").one("data").id for model in found.models}) == 1
    assert found.models[0].params["regulariser"] == {"ewc": {"weight": 2.0}}
    assert run(place, SEQUENTIAL, ewc).count("fisher") == 3


def test_the_reference_of_a_selection_is_trained_without_what_holds_the_run(place: Path) -> None:
    ewc = "training.regulariser={ewc: {weight: 2, source: math, samples: 10}}"
    (found,) = plan(place, ewc, "runs=[{strategy: multi_task, select: {by: lobass, share: 1/2}}]").runs
    trainings = [stage for stage in walk([found.final]) if stage.kind == "train"]
    assert ["fisher" in stage.inputs for stage in trainings] == [False, True]
    assert ["regulariser" in stage.params for stage in trainings] == [False, True]


def test_a_weight_alone_makes_no_new_fisher(place: Path) -> None:
    ids = [plan(place, TWO, f"training.regulariser={{ewc: {{weight: {w}, source: math}}}}") for w in (1, 2)]
    first, second = (found.runs[0].final.one("fisher").id for found in ids)
    assert first == second


def test_a_source_for_replay_is_trained_on_only_as_replay(place: Path) -> None:
    (plain,) = plan(place, APART, TWO).runs
    (held,) = plan(place, APART, TWO, "training.replay={source: general, share: 1/4}").runs
    assert plain.final.label == "math + code"
    assert held.final.label == "math + code, replay of general"
    assert len(plain.final.one("data").inputs["parts"]) == 2
    assert len(held.final.one("data").inputs["parts"]) == 3
    assert {"amounts": [{"count": 60}, {"share": Fraction(1, 4)}]} in held.final.one("data").params["parts"]
    measured = {item.ability for item in plan(place, APART, TWO).evaluated}
    assert "general" in measured, "it is measured all the same"


def test_replay_of_what_a_training_has_anyway_adds_nothing(place: Path) -> None:
    replay = "training.replay={source: general, share: 1/4}"
    with_it, without = plan(place, SEQUENTIAL, replay).runs[0].models, plan(place, SEQUENTIAL).runs[0].models
    assert [len(model.one("data").inputs["parts"]) for model in with_it] == [2, 2, 1]
    assert with_it[-1].one("data").id == without[-1].one("data").id


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training.regulariser={}", "names none"),
        ("training.regulariser={l2sp: {weight: 1}}", "Did you mean 'l2_sp'"),
        ("training.regulariser={l2_sp: {weight: 0}}", "greater than 0"),
        (
            "training.regulariser={ewc: {weight: 1, source: maths}}",
            "training.regulariser.ewc.source: .*Did you mean 'math'",
        ),
        ("training.replay={source: maths, share: 1}", "training.replay.source: .*Did you mean 'math'"),
        ("training={method: lora, regulariser: {ewc: {weight: 1, source: math}}}", "an adapter is new"),
    ],
)
def test_impossible_settings_are_refused(text: str, says: str, place: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        plan(place, text)


def test_regularisers_cost_memory_and_time(place: Path) -> None:
    more = ["base={path: seven, declared: {parameters: 7B}}", "training.template=plain", TWO]
    store = Store(place / ".cuvee")

    def costs(*extra: str) -> cost.Costs:
        return cost.estimate(plan(place, *more, *extra), store, runtime(place), 1e12)

    plain, l2_sp, kl, ewc = (
        costs(*extra)
        for extra in (
            (),
            ("training.regulariser={l2_sp: {weight: 1}}",),
            ("training.regulariser={kl: {weight: 1}}",),
            ("training.regulariser={ewc: {weight: 1, source: math}}",),
        )
    )
    assert l2_sp.memory_bytes == kl.memory_bytes == plain.memory_bytes + 7e9 * 4
    assert ewc.memory_bytes == plain.memory_bytes + 7e9 * 8
    assert kl.seconds_shared == pytest.approx(plain.seconds_shared * 4 / 3, rel=0.01)
    assert l2_sp.seconds_shared == plain.seconds_shared
    assert ewc.disk_bytes == plain.disk_bytes + 7e9 * 4
