"""Judged evaluations end to end: two turns, verdicts, failures, faults of the server, a kill in the midst."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from cuvee import cost, execute, job, needs, planner, planview, sizes, terminal
from cuvee.errors import RecipeError, StageFailed
from cuvee.pins import Pins
from cuvee.plan import Plan
from cuvee.recipe import Located, Recipe, validate
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import Cuvee
from tests.engine.faulty_proxy import FaultyProxy
from tests.engine.test_endpoint import Server, completion, error, server

assert server  # a fixture

pytest.importorskip("openai")

FILES = Path(__file__).parents[2] / "examples" / "judged"
QUESTIONS, TURNS = 8, 16


@pytest.fixture(autouse=True)
def _files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FILES, place / "judged")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def answering(verdict: Callable[[str], Any]) -> Callable[[Server, dict[str, Any]], Any]:
    """Answer a judge's request with what `verdict` says of its text, any other with how long the talk is."""

    def reply(_: Server, body: Mapping[str, Any]) -> Any:
        messages = body["messages"]
        if messages[0]["role"] != "system":
            return plain(f"Reply to turn {len(messages) // 2 + 1}.", body)
        found = verdict(messages[-1]["content"])
        return plain(found, body) if isinstance(found, str) else found

    return reply


def plain(text: str, body: Mapping[str, Any], finish: str = "stop") -> Any:
    status, headers, data = completion(text, finish)
    data["choices"][0]["message"]["content"] = text
    return status, headers, data


def judge_of(url: str, **more: Any) -> str:
    return json.dumps({"endpoint": {"url": url, "model": "judge", "timeout": 2, **more.pop("server", {})}, **more})


def planned(place: Path, url: str, evaluator: str, settings: Mapping[str, Any], **more: Any) -> Plan:
    """Return the plan of judging the model behind `url` by a judge there."""
    data = {
        "base": {"endpoint": {"url": url, "model": "talker"}},
        "runs": [{"strategy": "untrained"}],
        "evaluation": [{evaluator: {"path": "judged", "judge": json.loads(judge_of(url, **more)), **settings}}],
    }
    located = Located(validate(Recipe, data), place)
    return planner.make(located, Pins(place / "pins.json", place / "recipe.lock"))


def evaluate(
    place: Path, url: str, settings: Mapping[str, Any] | None = None, evaluator: str = "mt_bench", **more: Any
) -> dict[str, Any]:
    """Do what is missing in this process, and return the score's summary."""
    return execute_missing(planned(place, url, evaluator, settings or {}, **more), place)


def execute_missing(plan: Plan, place: Path) -> dict[str, Any]:
    store, runtime = Store(place / ".cuvee"), Runtime(store=place / ".cuvee", device="cpu")
    store.prepare()
    for stage in needs.wanted(plan, store):
        work = store.work(stage.short)
        work.mkdir(parents=True, exist_ok=True)
        summary = execute.run(job.make(stage, store, plan.sources), work, store, runtime, lambda facts: None)
        facts = {"id": stage.id, "kind": stage.kind, "identity": stage.identity, "summary": summary}
        store.commit(stage.kind, stage.id, work, facts)
    (item,) = plan.evaluated
    found: dict[str, Any] = store.manifest("grade", item.grade.id)["summary"]
    return found


def score_of(found: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert found.returncode == 0, found.stderr + found.stdout
    (score,) = json.loads(found.stdout)["scores"]
    return dict(score)


def asked_of_judge(server: Server) -> list[dict[str, Any]]:
    return [body for body in server.asked if body["messages"][0]["role"] == "system"]


def table(place: Path, kind: str, name: str) -> list[dict[str, Any]]:
    (path,) = (place / ".cuvee" / kind).glob(f"*/{name}")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


# ------------------------------------------------------------------------------------------------- ratings


def test_two_turns_are_asked_with_the_first_reply_between_them_and_both_are_rated(place: Path, server: Server) -> None:
    server.reply = answering(lambda text: "Rating: [[4]]" if "First question" in text else "Rating: [[8]]")
    score = evaluate(place, server.url)
    assert (score["n"], score["full"], score["mean"], score["unjudged"]) == (TURNS, 160, 6.0, 0)
    assert score["by"]["turn"] == {"1": {"mean": 8.0, "n": 8}, "2": {"mean": 4.0, "n": 8}}
    assert set(score["by"]["category"]) >= {"math", "writing"}
    second = [body for body in server.asked if len(body["messages"]) == 3]
    assert len(second) == QUESTIONS
    assert {body["messages"][1]["content"] for body in second} == {"Reply to turn 1."}
    rows = table(place, "generate", "responses.parquet")
    assert [row["turn"] for row in rows] == [1, 2] * QUESTIONS
    assert {row["text"] for row in rows if row["turn"] == 2} == {"Reply to turn 2."}


def test_replies_have_the_temperature_of_their_category_and_references_only_where_published(
    place: Path, server: Server
) -> None:
    server.reply = answering(lambda text: "[[5]]")
    evaluate(place, server.url)
    of = {body["messages"][0]["content"]: body["temperature"] for body in server.asked if len(body["messages"]) == 1}
    assert sorted(of.values()) == [0.0] * 4 + [0.1] * 2 + [0.7] * 2
    assert of["Why does ice float on water?"] == 0.1
    texts = [body["messages"][-1]["content"] for body in asked_of_judge(server)]
    assert sum("Reference reply" in text for text in texts) == 3 * 2
    assert {body["temperature"] for body in asked_of_judge(server)} == {0.0}


def odd_verdicts(text: str) -> Any:
    """One reply gets no rating, one is refused, one gets a rating by the fallback only."""
    if "First question" in text:
        return "[[9]]"
    if "harbour" in text:
        return "A fine reply."
    if "ticket" in text:
        return error(400, "this content is not allowed")
    return "As source [3] says, well done." if "ice float" in text else "[[7]]"


def test_what_a_judge_does_not_say_is_counted_by_its_reason_and_never_a_low_score(place: Path, server: Server) -> None:
    server.reply = answering(odd_verdicts)
    score = evaluate(place, server.url)
    assert (score["n"], score["unjudged"]) == (TURNS - 2, 2)
    assert score["verdicts"]["failed"] == {"unreadable": 1, "refused": 1}
    assert score["verdicts"]["fallback"] == 1
    assert score["mean"] == pytest.approx((8 * 9 + 5 * 7 + 3) / 14)
    verdicts = table(place, "grade", "verdicts.parquet")
    assert len(verdicts) == TURNS
    assert sorted(row["failure"] for row in verdicts if row["value"] is None) == ["refused", "unreadable"]
    shown = list(terminal._caveats(score))
    assert "2 of 16 replies have no score, since the judge gave no verdict: 1 refused, 1 unreadable" in shown
    assert any(line.startswith("1 of 16 verdicts were read from single brackets") for line in shown)
    asked = len(server.asked)
    strict = evaluate(place, server.url, {"fallback": False})
    assert (strict["n"], strict["verdicts"]["failed"]["unreadable"]) == (TURNS - 3, 2)
    assert len(server.asked) == asked


def test_repeats_are_verdicts_of_their_own_and_those_already_had_are_not_asked_again(
    place: Path, server: Server
) -> None:
    seen: dict[str, int] = {}

    def verdict(text: str) -> str:
        seen[text] = seen.get(text, 0) + 1
        return f"[[{2 * seen[text]}]]"

    server.reply = answering(verdict)
    assert evaluate(place, server.url)["mean"] == 2.0
    third = evaluate(place, server.url, repeats=3)
    assert set(seen.values()) == {3}
    assert third["verdicts"]["repeat_means"] == [2.0, 4.0, 6.0]
    assert (third["mean"], third["verdicts"]["repeat_sd"], third["verdicts"]["mean_spread"]) == (4.0, 2.0, 2.0)


def test_a_judge_that_never_keeps_to_the_form_is_an_error_that_shows_what_it_says(place: Path, server: Server) -> None:
    server.reply = answering(lambda text: "I would give it eight out of ten.")
    with pytest.raises(StageFailed, match=r"gave no verdict on any of 16 replies \(16 unreadable\).*eight out of ten"):
        evaluate(place, server.url)


def test_a_judge_that_does_not_answer_stops_the_stage_keeps_the_rest_and_may_be_borne_on_request(
    place: Path, server: Server
) -> None:
    server.reply = answering(lambda text: error(503, "busy") if "harbour" in text and "First" not in text else "[[6]]")
    hasty: dict[str, Any] = {"server": {"retries": 0}}
    with pytest.raises(StageFailed, match=r"1 of 16 requests to the judge .*HTTP 503.*judge.max_failed: 0.06"):
        evaluate(place, server.url, **hasty)
    borne = evaluate(place, server.url, max_failed=0.1, **hasty)
    assert (borne["n"], borne["unjudged"], borne["mean"]) == (15, 1, 6.0)
    assert borne["verdicts"]["failed"] == {"no answer": 1}
    assert len(asked_of_judge(server)) == 16 + 1
    server.reply = answering(lambda text: "[[6]]")
    whole = evaluate(place, server.url, **hasty)
    assert (whole["n"], whole["unjudged"]) == (16, 0)
    assert len(asked_of_judge(server)) == 16 + 1 + 1


def test_a_partial_result_is_not_taken_where_fewer_failures_are_allowed(place: Path, server: Server) -> None:
    server.reply = answering(lambda text: error(503, "busy") if "harbour" in text and "First" not in text else "[[6]]")
    hasty: dict[str, Any] = {"server": {"retries": 0}}
    assert evaluate(place, server.url, max_failed=0.9, **hasty)["unjudged"] == 1
    with pytest.raises(StageFailed, match=r"1 of 16 requests to the judge"):
        evaluate(place, server.url, max_failed=0.01, **hasty)
    assert len(asked_of_judge(server)) == 16 + 1
    assert evaluate(place, server.url, max_failed=0.8, **hasty)["unjudged"] == 1


def test_a_judge_that_refuses_every_request_is_an_error(place: Path, server: Server) -> None:
    server.reply = answering(lambda text: error(400, "max_tokens is too large"))
    with pytest.raises(StageFailed, match=r"16 requests failed for good.*HTTP 400: .*max_tokens is too large"):
        evaluate(place, server.url)


def test_a_missing_key_is_told_before_anything_is_asked(cuvee: Cuvee, server: Server) -> None:
    judge = judge_of(server.url, server={"key_env": "JUDGE_KEY"})
    found = cuvee("evaluate", "talker", "--endpoint", server.url, "mt_bench", "path=judged", f"judge={judge}")
    assert found.returncode == 2
    assert "environment variable JUDGE_KEY, which is not set" in found.stderr
    assert server.asked == []


@pytest.mark.parametrize("judge", ["gpt-4", {"openai": "gpt-4"}])
def test_a_name_alone_is_a_model_of_openai_with_its_key_from_the_environment(place: Path, judge: Any) -> None:
    plan = planned(place, "http://127.0.0.1:9/v1", "mt_bench", {"judge": judge})
    asked = plan.evaluated[0].grade.one("answers").one("judge").locate["endpoint"]
    assert (asked["url"], asked["model"], asked["key_env"]) == ("https://api.openai.com/v1", "gpt-4", "OPENAI_API_KEY")


# -------------------------------------------------------------------------------------------- local judges


def test_a_model_on_this_machine_answers_two_turns_and_judges_and_all_it_said_is_kept(place: Path) -> None:
    pytest.importorskip("torch")
    data = {
        "base": "builtin:micro",
        "runs": [{"strategy": "untrained"}],
        "training": {"template": "plain"},
        "evaluation": [
            {
                "mt_bench": {
                    "path": "judged",
                    "items": 4,
                    "max_new_tokens": 6,
                    "judge": {"model": "builtin:micro", "max_tokens": 6, "temperature": 1.0, "repeats": 2},
                }
            }
        ],
    }
    words = [json.loads(line) for line in (FILES / "judge_prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    short = [{**one, "system_prompt": "Rate.", "prompt_template": "{answer}{answer_2}"} for one in words]
    text = "".join(json.dumps(one) + "\n" for one in short)
    (place / "judged" / "judge_prompts.jsonl").write_text(text, encoding="utf-8")
    plan = planner.make(Located(validate(Recipe, data), place), Pins(place / "pins.json", place / "recipe.lock"))
    with pytest.raises(StageFailed, match="gave no verdict on any of 16 replies"):
        execute_missing(plan, place)
    rows = table(place, "generate", "responses.parquet")
    assert [row["turn"] for row in rows] == [1, 2] * 4
    first, second = (json.loads(row["prompt"]) for row in rows[:2])
    assert second[:-1] == [*first, {"role": "assistant", "content": rows[0]["text"]}]
    judged = table(place, "judge", "judgements.parquet")
    assert len(judged) == 4 * 2 * 2
    assert None not in {row["text"] for row in judged}
    by_repeat = [[row["text"] for row in judged if row["repeat"] == repeat] for repeat in (0, 1)]
    assert by_repeat[0] != by_repeat[1]


def test_what_is_too_long_for_a_judge_on_this_machine_is_counted_and_the_rest_is_judged(place: Path) -> None:
    pytest.importorskip("torch")
    words = [json.loads(line) for line in (FILES / "judge_prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    long = {one["name"]: "word " * 3000 * ("multi-turn" in one["name"]) for one in words}
    short = [{**one, "system_prompt": "Rate.", "prompt_template": long[one["name"]] + "{answer}"} for one in words]
    text = "".join(json.dumps(one) + "\n" for one in short)
    (place / "judged" / "judge_prompts.jsonl").write_text(text, encoding="utf-8")
    judge = {"model": "builtin:micro", "max_tokens": 2}
    data = {
        "base": "builtin:micro",
        "runs": [{"strategy": "untrained"}],
        "training": {"template": "plain"},
        "evaluation": [{"mt_bench": {"path": "judged", "items": 4, "max_new_tokens": 2, "judge": judge}}],
    }
    plan = planner.make(Located(validate(Recipe, data), place), Pins(place / "pins.json", place / "recipe.lock"))
    with pytest.raises(StageFailed, match=r"gave no verdict on any of 8 replies \(.*4 too long"):
        execute_missing(plan, place)
    rows = table(place, "judge", "judgements.parquet")
    assert {row["turn"]: (row["failure"], row["text"] is None) for row in rows} == {
        1: ("", False),
        2: ("too long", True),
    }
    assert "tokens, of a context of" in next(row["finish"] for row in rows if row["turn"] == 2)


# --------------------------------------------------------------------------------------------- comparisons


def test_replies_are_compared_with_a_file_of_answers_in_both_orders(place: Path, server: Server) -> None:
    rows = [{"question_id": n, "choices": [{"turns": ["Theirs.", "Theirs again."]}]} for n in range(1, QUESTIONS)]
    (place / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def verdict(text: str) -> str:
        if "First question" in text:
            return "[[A]]"  # whatever stands first
        return "[[A]]" if text.index("Reply to turn 1.") < text.index("Theirs.") else "[[B]]"

    server.reply = answering(verdict)
    score = evaluate(place, server.url, {"against": "theirs.jsonl"}, "mt_bench_pairs")
    assert (score["n"], score["mean"], score["unjudged"]) == (14, 0.75, 2)
    told = score["verdicts"]
    assert (told["win"], told["inconsistent"], told["loss"], told["first_preferred"]) == (7, 7, 0, 21)
    assert told["failed"] == {"no other reply": 4}


def test_comparisons_on_questions_of_one_turn_are_counted_by_question(place: Path, server: Server) -> None:
    rows = [{"question_id": n, "category": "writing", "turns": [f"Say {n}."]} for n in range(80)]
    (place / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    theirs = [{"question_id": n, "choices": [{"turns": ["Theirs."]}]} for n in range(80)]
    (place / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in theirs), encoding="utf-8")
    server.reply = answering(lambda text: "[[C]]")
    files = {"path": "one.jsonl", "against": "theirs.jsonl", "prompts": "judged/judge_prompts.jsonl"}
    score = evaluate(place, server.url, {**files, "with_reference": []}, "mt_bench_pairs")
    assert (score["n"], score["full"], score["mean"]) == (80, 80, 0.5)


def test_alpaca_eval_compares_with_the_files_answers_once_in_an_order_of_chance(place: Path, server: Server) -> None:
    rows = [{"instruction": f"Say {n}.", "output": "Theirs.", "dataset": "own"} for n in range(20)]
    (place / "alpaca_eval.json").write_text(json.dumps(rows), encoding="utf-8")
    server.reply = answering(lambda text: "[[A]]" if text.index("Reply to") < text.index("Theirs.") else "[[B]]")
    files = {"path": "alpaca_eval.json", "prompts": "judged/judge_prompts.jsonl"}
    score = evaluate(place, server.url, files, "alpaca_eval")
    assert (score["n"], score["mean"], score["verdicts"]["win"]) == (20, 1.0, 20)
    assert len(asked_of_judge(server)) == 20
    assert 0 < score["verdicts"]["first_preferred"] < 20


def test_runs_are_compared_with_the_base_or_with_each_other_and_never_with_themselves(place: Path) -> None:
    recipe = yaml.safe_load((place / "r.yaml").read_text(encoding="utf-8"))
    recipe["evaluation"] = [
        {"mt_bench_pairs": {"path": "judged", "judge": "gpt-4"}},
        {"mt_bench_pairs": {"path": "judged", "judge": "gpt-4", "against": "mixed_sequential"}},
    ]
    recipe["runs"] = recipe["runs"][:2]
    plan = planner.make(Located(validate(Recipe, recipe), place), Pins(place / "pins.json", place / "recipe.lock"))
    judged = {(item.run.name, item.evaluator): item.grade.one("answers") for item in plan.evaluated}
    assert list(judged) == [
        ("multi_task", "mt_bench_pairs"),
        ("multi_task", "mt_bench_pairs against mixed_sequential"),
        ("mixed_sequential", "mt_bench_pairs"),
    ]
    others = {name: stage.one("others").one("model") for name, stage in judged.items()}
    finals = {run.info.name: run.final.id for run in plan.runs}
    assert others["multi_task", "mt_bench_pairs"].kind == "base"
    assert others["multi_task", "mt_bench_pairs against mixed_sequential"].id == finals["mixed_sequential"]
    assert {stage.one("judge").label for stage in judged.values()} == {"fake:judge"}
    recipe["evaluation"][1]["mt_bench_pairs"]["against"] = "mixed_sequentail"
    with pytest.raises(RecipeError, match=r"there is no run and no file 'mixed_sequentail'\. Did you mean 'mixed_seq"):
        planner.make(Located(validate(Recipe, recipe), place), Pins(place / "pins.json", place / "recipe.lock"))


def test_a_temperature_below_nothing_is_refused(place: Path) -> None:
    with pytest.raises(RecipeError, match="greater than or equal to 0"):
        planned(place, "http://127.0.0.1:9/v1", "alpaca_eval", {"path": "a.json", "temperature": -1})


def test_a_comparison_of_a_model_with_itself_alone_is_refused(place: Path) -> None:
    with pytest.raises(RecipeError, match="compares with 'base', and there is nothing else to compare"):
        planned(place, "http://127.0.0.1:9/v1", "mt_bench_pairs", {})


def test_a_plan_tells_what_judges_will_be_asked_before_they_are(place: Path) -> None:
    url = "http://127.0.0.1:9/v1"
    shutil.copy(FILES / "reference_answers.jsonl", place / "theirs.jsonl")
    asked = {
        "rated": planned(place, url, "mt_bench", {}, repeats=3),
        "compared": planned(place, url, "mt_bench_pairs", {"against": "theirs.jsonl", "items": 5}),
    }
    store = Store(place / ".cuvee")
    costs = {name: cost.estimate(plan, store, Runtime(store=place / ".cuvee")) for name, plan in asked.items()}
    (rated,) = costs["rated"].judging.values()
    assert (rated.requests, rated.exact) == (QUESTIONS * 2 * 3, True)
    assert rated.new_tokens == rated.requests * sizes.VERDICT
    (compared,) = costs["compared"].judging.values()
    assert compared.requests == 5 * 2 * 2
    assert compared.prompt_tokens > rated.prompt_tokens * compared.requests / rated.requests
    view = planview.describe(asked["rated"], costs["rated"], store)
    assert [(one["judge"], one["requests"]) for one in view["judges"]] == [(f"judge at {url}", 48)]


# --------------------------------------------------------------------------------------------- wrong files


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"path": "empty"}, "the folder holds no questions: looked for mt_bench_questions.jsonl"),
        ({"path": "none"}, "there is no such file of questions"),
        ({"path": "bare"}, "no judge_prompts.jsonl in"),
        ({"path": "noref"}, "there is no file of them"),
        ({"prompts": "wrong.jsonl"}, "the prompt 'single-v1' names answr"),
        ({"prompts": "form.jsonl"}, "has output_format '[[x]]'; possible: [[rating]]"),
        ({"prompts": "gone.jsonl"}, "there is no such file"),
        ({"judge": {"model": "fake:j", "repeats": 2}}, "without a temperature are all the same"),
        ({"judge": {"model": "fake:j", "endpoint": {"url": "http://h/v1", "model": "m"}}}, "both are given"),
        ({"judge": {}}, "none is given"),
        ({"references": "wrong.jsonl"}, "no answers as"),
        ({"judge": {"model": "no-such-folder"}}, "there is no folder"),
        ({"judge": {"model": "fake:j"}}, "fake:j makes verdicts up, and the replies are real"),
        ({"prompts": "open.jsonl"}, "the prompt 'single-v1' cannot be filled: expected '}'"),
        ({"prompts": "none.jsonl"}, "the prompt 'single-v1' has something other than text"),
        ({"references": "letters.jsonl"}, "no answers as"),
        ({"references": "nothing.jsonl"}, "no answers as"),
        ({"references": "two.jsonl"}, "question 3 has two answers; give a file with those of one model"),
        ({"with_reference": ["maths"]}, "no question has the category 'maths'. Did you mean 'math'?"),
    ],
)
def test_what_is_missing_is_named_with_the_remedy_when_the_recipe_is_planned(
    place: Path, settings: dict[str, Any], told: str
) -> None:
    (place / "empty").mkdir()
    for name in ("bare", "noref"):
        (place / name / "data").mkdir(parents=True)
        shutil.copy(FILES / "question.jsonl", place / name / "data")
    shutil.copy(FILES / "judge_prompts.jsonl", place / "noref")
    prompt = {"name": "single-v1", "system_prompt": "", "prompt_template": "{answer}", "output_format": "[[rating]]"}
    (place / "wrong.jsonl").write_text(json.dumps({**prompt, "prompt_template": "{answr}"}), encoding="utf-8")
    (place / "form.jsonl").write_text(json.dumps({**prompt, "output_format": "[[x]]"}), encoding="utf-8")
    (place / "open.jsonl").write_text(json.dumps({**prompt, "prompt_template": "{answer"}), encoding="utf-8")
    (place / "none.jsonl").write_text(json.dumps({**prompt, "prompt_template": None}), encoding="utf-8")
    turns = {"letters": ["one", "two"], "nothing": [[None, None], ["a", "b"]], "two": [["a", "b"], ["c", "d"]]}
    for name, each in turns.items():
        rows = [{"question_id": 3, "choices": [{"turns": one}]} for one in each]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if settings.get("path") in ("bare", "noref"):
        settings = {"path": f"{settings['path']}/data"}
    with pytest.raises(RecipeError, match=re.escape(told)):
        planned(place, "http://127.0.0.1:9/v1", "mt_bench", settings)


def test_an_item_without_its_reference_is_counted_and_not_asked_about(place: Path, server: Server) -> None:
    references = (FILES / "reference_answers.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "judged" / "reference_answers.jsonl").write_text("".join(references[1:]), encoding="utf-8")
    server.reply = answering(lambda text: "[[5]]")
    score = evaluate(place, server.url)
    assert (score["n"], score["verdicts"]["failed"]) == (14, {"no reference": 2})
    assert len(asked_of_judge(server)) == 14


def test_other_words_for_the_judge_are_another_judging_and_a_packed_file_is_not(place: Path, server: Server) -> None:
    server.reply = answering(lambda text: "[[5]]")
    evaluate(place, server.url)
    asked = len(server.asked)
    prompts = place / "judged" / "judge_prompts.jsonl"
    text = prompts.read_text(encoding="utf-8")
    (place / "judged" / "judge_prompts.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    prompts.unlink()
    evaluate(place, server.url)
    assert len(server.asked) == asked
    prompts.write_text(text.replace("Say briefly why", "Say at length why", 1), encoding="utf-8")
    evaluate(place, server.url)
    assert len(server.asked) == asked + 5  # the first turns that are judged without a reference


# -------------------------------------------------------------------------------------------------- faults


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.url.removesuffix("/v1"), share=0.2, hang=3.0, seed=5) as found:
        yield found


def test_through_faults_of_every_fifth_request_and_a_kill_nothing_is_lost_and_nothing_scores_low(
    place: Path, server: Server, proxy: FaultyProxy
) -> None:
    def slow(text: str) -> str:
        time.sleep(0.1)
        return "[[7]]"

    server.reply = answering(slow)
    command = [sys.executable, "-m", "cuvee", "evaluate", "talker", "--endpoint", proxy.url, "mt_bench", "path=judged"]
    given = judge_of(proxy.url, repeats=3, server={"concurrency": 4, "retries": 8})
    start = [*command, f"judge={given}", "--json"]
    first = subprocess.Popen(start, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(asked_of_judge(server)) < 15 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert 15 <= len(asked_of_judge(server)) < 3 * TURNS
    again = subprocess.run(start, cwd=place, capture_output=True, text=True, timeout=300, check=False)
    score = score_of(again)
    assert (score["n"], score["mean"], score["unjudged"]) == (TURNS, 7.0, 0)
    assert (score["verdicts"]["asked"], score["verdicts"]["failed"]) == (3 * TURNS, {})
    assert len(table(place, "judge", "judgements.parquet")) == 3 * TURNS
    assert sum(proxy.faults.values()) >= 5
    # What was answered well is asked again only where the kill came before it was kept, or a waiting client had left.
    assert sum(proxy.passed.values()) <= 2 * QUESTIONS + 3 * TURNS + 4
