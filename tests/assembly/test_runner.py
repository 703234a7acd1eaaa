"""A run does what is missing, once, goes on past failures, and can be stopped at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cuvee import api, collect_garbage, runner
from cuvee.errors import WorkFailed
from cuvee.recipe import load
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import Cuvee, journal

RUNTIME = {"workers": 2, "threads": 1}


def runtime(place: Path) -> Runtime:
    return Runtime(store=place / ".cuvee", **RUNTIME)  # type: ignore[arg-type]


def models(store: Path) -> dict[str, str]:
    """Return what every trained fake model knows, by stage folder."""
    return {path.parts[-3]: path.read_text(encoding="utf-8") for path in store.glob("train/*/model/fake.json")}


def test_a_recipe_is_run_once_and_the_second_run_executes_nothing(place: Path) -> None:
    first = api.run(place / "r.yaml", runtime(place))
    assert first.failed == {}
    assert len(first.executed) == len(api.plan(place / "r.yaml", runtime(place)).stages)
    second = api.run(place / "r.yaml", runtime(place))
    assert second.executed == []
    assert second.cached == len(first.executed)


def test_another_k_adds_only_its_own_stages(place: Path) -> None:
    api.run(place / "r.yaml", runtime(place))
    more = api.run(load(place / "r.yaml", ["runs.2.k=[1/4, 1/2, 1]"]), runtime(place))
    kinds = sorted(name.split("-")[0] for name in more.executed)
    assert kinds == sorted(["mix", "train", *["score", "generate", "grade", "grade"] * 3])


def test_k_zero_adds_nothing_to_mixed_sequential(place: Path) -> None:
    api.run(place / "r.yaml", runtime(place))
    more = api.run(load(place / "r.yaml", ["runs.2.k=[0, 1/4, 1]"]), runtime(place))
    assert more.executed == []


def test_a_failed_branch_does_not_stop_the_others(place: Path) -> None:
    recipe = load(place / "r.yaml", ["runs.1.training={max_length: 8}"])
    outcome = api.run(recipe, runtime(place))
    assert len(outcome.failed) == 3
    assert all("no row is left after rendering" in error for error in outcome.failed.values())
    assert outcome.skipped
    plan = api.plan(recipe, runtime(place))
    store = Store(place / ".cuvee")
    done = {run.info.name: store.has("train", run.models[-1].id) for run in plan.runs}
    assert done == {"multi_task": True, "mixed_sequential": False, "dmt k=1/4": True, "dmt k=1": True}
    assert list((place / ".cuvee" / "render").glob("*/rows.arrow"))
    assert journal(place / ".cuvee", "failed")


def test_a_source_that_cannot_be_read_says_why_other_trainings_wait_and_how_to_go_on_without_it() -> None:
    unread = runner.Outcome(failed={"load-1": "broken"}, skipped={"preflight-2": "load-1", "train-3": "load-1"})
    with pytest.raises(WorkFailed, match="leave it and its runs out of the recipe"):
        runner.raise_if_failed(unread)
    untrained = runner.Outcome(failed={"train-1": "broken"}, skipped={"score-2": "train-1"})
    with pytest.raises(WorkFailed, match=r"run the same command again$"):
        runner.raise_if_failed(untrained)


def test_stages_wait_for_their_inputs_and_the_longest_way_goes_first(place: Path) -> None:
    plan = api.plan(place / "r.yaml", runtime(place))
    order: list[str] = []
    runner.execute(plan, Runtime(place / ".cuvee", workers=1, threads=1), lambda e, s, f: order.append(s.id + e))
    for stage in plan.stages:
        for parent in stage.parents():
            assert order.index(parent.id + "done") < order.index(stage.id + "started")


def test_two_runs_at_once_do_each_stage_once(place: Path) -> None:
    command = [sys.executable, "-m", "cuvee", "run", "r.yaml", "--no-report", "--workers", "2", "--json"]
    pair = [subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [json.loads(process.communicate(timeout=300)[0]) for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    finished = journal(place / ".cuvee", "finished")
    stages = api.plan(place / "r.yaml", runtime(place)).stages
    assert sorted(finished) == sorted(stage.short for stage in stages)
    assert sorted(told[0]["executed"] + told[1]["executed"]) == sorted(finished)


def interrupt(place: Path, seconds: float, *arguments: str) -> int:
    """Start a run, kill it with SIGKILL after some seconds, and return its exit code (0 when it was faster)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cuvee", "run", "r.yaml", "--no-report", "--json", *arguments],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        return process.wait()


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.real)])
def test_killed_runs_lose_nothing_and_repeat_nothing(place: Path, tmp_path: Path, kills: int) -> None:
    arguments = ("--workers", "2", "--checkpoint-steps", "3", "--step-sleep", "0.02")
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "r.yaml").write_text((place / "r.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert interrupt(whole, 300, *arguments) == 0
    draw = random.Random(7)
    killed = sum(interrupt(place, draw.uniform(0.4, 3.5), *arguments) != 0 for _ in range(kills))
    assert killed >= min(kills, 2)
    assert interrupt(place, 300, *arguments) == 0
    finished = journal(place / ".cuvee", "finished")
    assert len(finished) == len(set(finished))
    assert models(place / ".cuvee") == models(whole / ".cuvee")
    assert list((place / ".cuvee" / "work").iterdir()) == []


def test_killing_the_planner_ends_its_workers(place: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cuvee", "run", "r.yaml", "--no-report", "--json", "--step-sleep", "5"],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    store = place / ".cuvee"
    deadline = time.monotonic() + 60
    while not list(store.glob("work/train-*/log.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = {json.loads(line)["pid"] for line in (store / "journal.jsonl").read_text().splitlines()}
    process.kill()
    process.wait()
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_worker_count_and_micro_batches_change_no_id_and_no_result(place: Path, tmp_path: Path) -> None:
    api.run(place / "r.yaml", Runtime(tmp_path / "one", workers=1, micro_tokens=64))
    api.run(place / "r.yaml", Runtime(tmp_path / "three", workers=3, micro_tokens=9999))
    assert models(tmp_path / "one") == models(tmp_path / "three")


@pytest.mark.parametrize(("keep", "left"), [("all", 3), ("leaves", 1), ("none", 0)])
def test_models_are_given_up_as_asked_and_their_results_stay(place: Path, keep: str, left: int) -> None:
    recipe = load(
        place / "r.yaml", [f"keep_models={keep}", "runs=[{strategy: sequential, order: [math, code, general]}]"]
    )
    outcome = api.run(recipe, runtime(place))
    assert outcome.failed == {}
    assert len(models(place / ".cuvee")) == left
    again = api.run(recipe, runtime(place))
    assert again.executed == []
    assert len(models(place / ".cuvee")) == left


def test_weights_that_another_recipe_keeps_are_not_given_up(place: Path) -> None:
    kept, thrifty = (
        load(place / "r.yaml"),
        load(place / "r.yaml", ["keep_models=none", "evaluation.0.heldout_loss.items=9"]),
    )
    api.run(kept, runtime(place))
    api.run(thrifty, runtime(place))
    assert len(models(place / ".cuvee")) == 5
    assert api.run(kept, runtime(place)).executed == []


def test_a_recipe_that_keeps_models_takes_over_those_to_be_given_up(place: Path) -> None:
    thrifty = load(place / "r.yaml", ["keep_models=leaves", "runs=[{strategy: mixed_sequential, general: general}]"])
    api.run(thrifty, runtime(place))
    assert len(models(place / ".cuvee")) == 1
    more = api.run(load(place / "r.yaml", ["runs=[{strategy: mixed_sequential, general: general}]"]), runtime(place))
    assert [name.split("-")[0] for name in more.executed] == ["train"]
    api.run(thrifty, runtime(place))
    assert len(models(place / ".cuvee")) == 2


def test_what_a_run_under_way_needs_is_neither_given_up_nor_deleted(place: Path) -> None:
    api.run(load(place / "r.yaml", ["keep_models=leaves"]), runtime(place))
    store = Store(place / ".cuvee")
    plan = api.plan(place / "r.yaml", runtime(place))
    ids = repr([stage.id for stage in plan.stages])
    code = (
        "import sys; from pathlib import Path; from cuvee.store import Store\n"
        f"with Store(Path({str(place / '.cuvee')!r})).lease({ids}):\n"
        "    print('held', flush=True); sys.stdin.readline()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    assert store.leased() == {stage.id for stage in plan.stages}
    (place / "o.yaml").write_text((place / "r.yaml").read_text().replace("batch_size: 4", "batch_size: 8"))
    other = api.plan(place / "o.yaml", runtime(place))
    assert collect_garbage.collect([other], store, delete=True)["stages"] == []
    holder.communicate("\n")
    assert store.leased() == set()
    assert collect_garbage.collect([other], store, delete=True)["stages"]


def test_weights_are_given_up_during_the_run_not_only_at_its_end(place: Path) -> None:
    most = 0

    def count(event: str, stage: object, facts: object) -> None:
        nonlocal most
        most = max(most, len(models(place / ".cuvee")))

    one = Runtime(place / ".cuvee", workers=1, threads=1)
    recipe = load(place / "r.yaml", ["keep_models=none", "runs=[{strategy: sequential, order: [math, code, general]}]"])
    outcome = runner.execute(api.plan(recipe, one), one, count)
    assert outcome.failed == {}
    assert most < 3


def test_a_given_up_model_is_trained_again_when_something_new_is_asked_of_it(place: Path) -> None:
    lines = ["keep_models=none", "runs=[{strategy: multi_task}]"]
    api.run(load(place / "r.yaml", lines), runtime(place))
    more = api.run(load(place / "r.yaml", [*lines, "evaluation.1.exact_answer.items=10"]), runtime(place))
    kinds = [name.split("-")[0] for name in more.executed]
    assert kinds.count("train") == 1
    assert kinds.count("generate") == 3
    assert models(place / ".cuvee") == {}


def test_declared_sources_can_be_planned_and_not_run(cuvee: Cuvee, place: Path) -> None:
    text = (place / "r.yaml").read_text(encoding="utf-8")
    text = text.replace('path: "builtin:math"', "path: no.jsonl, declared: {rows: 1000, tokens: 200k}")
    (place / "r.yaml").write_text(text, encoding="utf-8")
    assert cuvee("plan", "r.yaml").returncode == 0
    run = cuvee("run", "r.yaml")
    assert run.returncode == 2
    assert "only declared, not at hand" in run.stderr
