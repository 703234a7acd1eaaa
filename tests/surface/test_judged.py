"""Judged evaluations end to end: two turns, verdicts, failures, faults of the server, a kill in the midst."""

from __future__ import annotations

import json
import os
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

from tests.conftest import Cuvee, journal
from tests.engine.faulty_proxy import FaultyProxy
from tests.engine.test_endpoint import Server, completion, error, server

assert server  # a fixture

pytest.importorskip("openai")

FILES = Path(__file__).parents[2] / "examples" / "judged"
QUESTIONS, TURNS = 8, 16
HERE = {"NO_PROXY": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _files(place: Path) -> None:
    shutil.copytree(FILES, place / "judged")


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


def evaluate(
    cuvee: Cuvee,
    url: str,
    *settings: str,
    evaluator: str = "mt_bench",
    env: Mapping[str, str] | None = None,
    **more: Any,
) -> subprocess.CompletedProcess[str]:
    given = ["path=judged", f"judge={judge_of(url, **more)}", *settings]
    return cuvee("evaluate", "talker", "--endpoint", url, evaluator, *given, "--json", env={**HERE, **(env or {})})


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


def test_two_turns_are_asked_with_the_first_reply_between_them_and_both_are_rated(
    cuvee: Cuvee, place: Path, server: Server
) -> None:
    server.reply = answering(lambda text: "Rating: [[4]]" if "First question" in text else "Rating: [[8]]")
    score = score_of(evaluate(cuvee, server.url))
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
    cuvee: Cuvee, server: Server
) -> None:
    server.reply = answering(lambda text: "[[5]]")
    score_of(evaluate(cuvee, server.url))
    of = {body["messages"][0]["content"]: body["temperature"] for body in server.asked if len(body["messages"]) == 1}
    assert sorted(of.values()) == [0.0] * 4 + [0.1] * 2 + [0.7] * 2
    assert of["Why does ice float on water?"] == 0.1
    texts = [body["messages"][-1]["content"] for body in asked_of_judge(server)]
    assert sum("Reference reply" in text for text in texts) == 3 * 2
    assert {body["temperature"] for body in asked_of_judge(server)} == {0.0}


def test_what_a_judge_does_not_say_is_counted_by_its_reason_and_never_a_low_score(
    cuvee: Cuvee, place: Path, server: Server
) -> None:
    def verdict(text: str) -> Any:
        if "First question" in text:
            return "[[9]]"
        if "harbour" in text:
            return "A fine reply."
        if "ticket" in text:
            return error(400, "this content is not allowed")
        if "ice float" in text:
            return "As source [3] says, well done."
        return "[[7]]"

    server.reply = answering(verdict)
    score = score_of(evaluate(cuvee, server.url))
    assert (score["n"], score["unjudged"]) == (TURNS - 2, 2)
    assert score["verdicts"]["failed"] == {"unreadable": 1, "refused": 1}
    assert score["verdicts"]["fallback"] == 1
    assert score["mean"] == pytest.approx((8 * 9 + 5 * 7 + 3) / 14)
    verdicts = table(place, "grade", "verdicts.parquet")
    assert len(verdicts) == TURNS
    assert sorted(row["failure"] for row in verdicts if row["value"] is None) == ["refused", "unreadable"]
    shown = cuvee("evaluate", "talker", "--endpoint", server.url, "mt_bench", "path=judged",
                  f"judge={judge_of(server.url)}", env=HERE)  # fmt: skip
    assert "2 of 16 replies have no score, since the judge gave no verdict: 1 refused, 1 unreadable" in shown.stdout
    assert "1 of 16 verdicts were read from single brackets" in shown.stdout
    asked = len(server.asked)
    strict = score_of(evaluate(cuvee, server.url, "fallback=false"))
    assert (strict["n"], strict["verdicts"]["failed"]["unreadable"]) == (TURNS - 3, 2)
    assert len(server.asked) == asked


def test_repeats_are_verdicts_of_their_own_and_those_already_had_are_not_asked_again(
    cuvee: Cuvee, server: Server
) -> None:
    seen: dict[str, int] = {}

    def verdict(text: str) -> str:
        seen[text] = seen.get(text, 0) + 1
        return f"[[{2 * seen[text]}]]"

    server.reply = answering(verdict)
    first = score_of(evaluate(cuvee, server.url))
    assert first["mean"] == 2.0
    third = score_of(evaluate(cuvee, server.url, repeats=3))
    assert set(seen.values()) == {3}
    assert third["verdicts"]["repeat_means"] == [2.0, 4.0, 6.0]
    assert (third["mean"], third["verdicts"]["repeat_sd"], third["verdicts"]["mean_spread"]) == (4.0, 2.0, 2.0)


def test_a_judge_that_never_keeps_to_the_form_is_an_error_that_shows_what_it_says(cuvee: Cuvee, server: Server) -> None:
    server.reply = answering(lambda text: "I would give it eight out of ten.")
    found = evaluate(cuvee, server.url)
    assert found.returncode == 1
    assert "gave no verdict on any of 16 replies (16 unreadable)" in found.stderr + found.stdout
    assert "I would give it eight out of ten." in found.stderr + found.stdout


def test_a_judge_that_does_not_answer_stops_the_stage_keeps_the_rest_and_may_be_borne_on_request(
    cuvee: Cuvee, place: Path, server: Server
) -> None:
    silent = True
    server.reply = answering(
        lambda text: error(503, "busy") if silent and "harbour" in text and "First" not in text else "[[6]]"
    )
    hasty = {"server": {"retries": 0}}
    found = evaluate(cuvee, server.url, **hasty)
    assert found.returncode == 1
    told = found.stderr + found.stdout
    assert "1 of 16 requests to the judge judge at" in told
    assert "HTTP 503" in told
    assert "judge.max_failed: 0.06" in told
    borne = score_of(evaluate(cuvee, server.url, max_failed=0.1, **hasty))
    assert (borne["n"], borne["unjudged"], borne["mean"]) == (15, 1, 6.0)
    assert borne["verdicts"]["failed"] == {"no answer": 1}
    assert len(asked_of_judge(server)) == 16 + 1


def test_a_missing_key_is_told_before_anything_is_asked(cuvee: Cuvee, server: Server) -> None:
    found = evaluate(cuvee, server.url, server={"key_env": "JUDGE_KEY"})
    assert found.returncode == 2
    assert "environment variable JUDGE_KEY, which is not set" in found.stderr
    assert server.asked == []


# --------------------------------------------------------------------------------------------- comparisons


def test_a_run_is_compared_with_a_file_of_answers_in_both_orders(cuvee: Cuvee, place: Path, server: Server) -> None:
    rows = [{"question_id": n, "choices": [{"turns": ["Theirs.", "Theirs again."]}]} for n in range(1, QUESTIONS)]
    (place / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def verdict(text: str) -> str:
        if "First question" in text:
            return "[[A]]"  # whatever stands first
        ours_first = text.index("Reply to turn 1.") < text.index("Theirs.")
        return "[[A]]" if ours_first else "[[B]]"

    server.reply = answering(verdict)
    score = score_of(evaluate(cuvee, server.url, "against=theirs.jsonl", evaluator="mt_bench_pairs"))
    assert (score["n"], score["mean"], score["unjudged"]) == (14, 0.75, 2)
    told = score["verdicts"]
    assert (told["win"], told["inconsistent"], told["loss"], told["first_preferred"]) == (7, 7, 0, 21)
    assert told["failed"] == {"no other reply": 4}


def test_alpaca_eval_compares_with_the_files_answers_once_in_an_order_of_chance(
    cuvee: Cuvee, place: Path, server: Server
) -> None:
    rows = [{"instruction": f"Say {n}.", "output": "Theirs.", "dataset": "own"} for n in range(20)]
    (place / "alpaca_eval.json").write_text(json.dumps(rows), encoding="utf-8")
    server.reply = answering(lambda text: "[[A]]" if text.index("Reply to") < text.index("Theirs.") else "[[B]]")
    found = cuvee(
        "evaluate", "talker", "--endpoint", server.url, "alpaca_eval", "path=alpaca_eval.json",
        "prompts=judged/judge_prompts.jsonl", f"judge={judge_of(server.url)}", "--json", env=HERE,
    )  # fmt: skip
    score = score_of(found)
    assert (score["n"], score["mean"], score["verdicts"]["win"]) == (20, 1.0, 20)
    assert len(asked_of_judge(server)) == 20
    assert 0 < score["verdicts"]["first_preferred"] < 20


def test_runs_are_compared_with_the_base_or_with_each_other_in_a_recipe(cuvee: Cuvee, place: Path) -> None:
    recipe = (place / "r.yaml").read_text(encoding="utf-8").partition("runs:")[0]
    (place / "p.yaml").write_text(
        recipe
        + "runs: [{strategy: multi_task}, {strategy: mixed_sequential, general: general}]\n"
        + "evaluation:\n  - {mt_bench_pairs: {path: judged, judge: gpt-4}}\n"
        + "  - {mt_bench_pairs: {path: judged, judge: gpt-4, against: mixed_sequential}}\n"
        + "analyses: [scores, judged]\n",
        encoding="utf-8",
    )
    view = json.loads(cuvee("run", "p.yaml", "--json").stdout)
    assert view["failed"] == {}
    scores = {(row["run"], row["evaluator"]) for row in view["scores"]} if "scores" in view else None
    done = [stage.partition("-")[0] for stage in journal(place / ".cuvee", "finished")]
    assert (done.count("judge"), done.count("generate")) == (3, 3), scores
    assert json.loads(cuvee("run", "p.yaml", "--json").stdout)["executed"] == []


# --------------------------------------------------------------------------------------------- wrong files


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["path=empty"], "the folder holds no questions: looked for mt_bench_questions.jsonl"),
        (["path=none"], "there is no such file of questions"),
        (["path=bare"], "no judge_prompts.jsonl in"),
        (["path=noref"], "and there is no file of them"),
        (["path=judged", "prompts=wrong.jsonl"], "the prompt 'single-v1' names answr"),
        (["path=judged", "prompts=form.jsonl"], "has output_format '[[x]]'; possible: [[rating]]"),
        (["path=judged", "judge.repeats=0"], "greater than or equal to 1"),
        (["path=judged", "judge.model=x"], "needs exactly one of endpoint and model, and both are given"),
    ],
)
def test_what_is_missing_is_named_with_the_remedy_before_anything_is_asked(
    cuvee: Cuvee, place: Path, settings: list[str], told: str
) -> None:
    (place / "empty").mkdir()
    for name in ("bare", "noref"):
        (place / name).mkdir()
        shutil.copy(FILES / "question.jsonl", place / name)
    shutil.copy(FILES / "judge_prompts.jsonl", place / "noref")
    prompt = {"name": "single-v1", "system_prompt": "", "prompt_template": "{answer}", "output_format": "[[rating]]"}
    (place / "wrong.jsonl").write_text(json.dumps({**prompt, "prompt_template": "{answr}"}), encoding="utf-8")
    (place / "form.jsonl").write_text(json.dumps({**prompt, "output_format": "[[x]]"}), encoding="utf-8")
    server = '{url: "http://127.0.0.1:9/v1", model: m}'
    found = cuvee("evaluate", "fake:a", "mt_bench", f"judge.endpoint={server}", *settings)
    assert found.returncode == 2, found.stdout
    assert told in found.stderr
    assert "Traceback" not in found.stderr


def test_an_item_without_its_reference_is_counted_and_not_asked_about(
    cuvee: Cuvee, place: Path, server: Server
) -> None:
    references = (FILES / "reference_answers.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "judged" / "reference_answers.jsonl").write_text("".join(references[1:]), encoding="utf-8")
    server.reply = answering(lambda text: "[[5]]")
    score = score_of(evaluate(cuvee, server.url))
    assert (score["n"], score["verdicts"]["failed"]) == (14, {"no reference": 2})
    assert len(asked_of_judge(server)) == 14


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
    environment = {**os.environ, **HERE}
    first = subprocess.Popen(start, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(asked_of_judge(server)) < 15 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = len(asked_of_judge(server))
    assert 15 <= before < 3 * TURNS
    again = subprocess.run(start, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)
    score = score_of(again)
    assert (score["n"], score["mean"], score["unjudged"]) == (TURNS, 7.0, 0)
    assert (score["verdicts"]["asked"], score["verdicts"]["failed"]) == (3 * TURNS, {})
    assert len(table(place, "judge", "judgements.parquet")) == 3 * TURNS
    assert sum(proxy.faults.values()) >= 5
    # What was answered well is asked again only where the kill came before it was kept, or the answer was cut late.
    assert sum(proxy.passed.values()) <= 2 * QUESTIONS + 3 * TURNS + 4
