"""Tags, duplicates and overlap are stages of their own; a mixture hangs on them only where it looks at them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cuvee import api
from cuvee.errors import RecipeError
from cuvee.plan import Plan
from cuvee.runtime import Runtime
from cuvee.store import Store

CODE = {"question": "Write a Python function that adds a and b.", "answer": "def add(a, b):\n    return a + b"}
TALK = [{"question": f"What is pleasant about the month {n}?", "answer": f"A lot, dear {n}."} for n in range(8)]
PROSE = "The old harbour town woke slowly while the gulls argued above the fish market and {} boats came home again."


def recipe(sources: dict[str, Any], **more: Any) -> Any:
    data = {
        "base": "fake:one",
        "sources": sources,
        "heldout": 0,
        "training": {"epochs": 1, "batch_size": 8, "max_length": 256, "template": "plain"},
        "runs": [{"strategy": "multi_task"}],
        "evaluation": [],
        **more,
    }
    return api.load_recipe(data)


def source(rows: list[Any], ability: str = "chat", **more: Any) -> dict[str, Any]:
    return {"rows": rows, "ability": ability, **more}


def plan(sources: dict[str, Any], tmp_path: Path, **more: Any) -> Plan:
    return api.plan(recipe(sources, **more), Runtime(tmp_path / "store"))


def parts(tmp_path: Path) -> list[dict[str, Any]]:
    found = [m for m in Store(tmp_path / "store").stages() if m["kind"] == "mix"]
    return [part for manifest in found for part in manifest["summary"]["parts"]]


def run(sources: dict[str, Any], tmp_path: Path, **more: Any) -> None:
    outcome = api.run(recipe(sources, **more), Runtime(tmp_path / "store", workers=1))
    assert outcome.failed == {}


def test_rows_are_dropped_by_the_tags_of_a_rule(tmp_path: Path) -> None:
    run({"talk": source([*TALK, CODE], taggers=["rules"], drop={"tags": "code"})}, tmp_path)
    assert [(part["filtered"], part["rows"]) for part in parts(tmp_path)] == [(1, 8)]


def test_a_tagger_that_no_rule_asks_for_changes_no_mixture(tmp_path: Path) -> None:
    plain, tagged = (
        plan({"talk": source(TALK, **extra)}, tmp_path).runs[0].models[0].id for extra in ({}, {"taggers": ["rules"]})
    )
    assert plain == tagged
    asked = plan({"talk": source(TALK, taggers=["rules"], drop={"tags": "code"})}, tmp_path)
    assert asked.runs[0].models[0].id != plain


def test_near_duplicates_within_a_source_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"question": PROSE.format(n), "answer": "Yes. " + PROSE.format(n)} for n in ("two", "two", "six")]
    run({"talk": source([*TALK, *rows], duplicates={"near": 0.7})}, tmp_path)
    assert [(part["duplicates"], part["rows"]) for part in parts(tmp_path)] == [(2, 9)]


def test_across_sources_the_earlier_one_of_the_order_keeps_the_row(tmp_path: Path) -> None:
    sources = {"talk": source([*TALK, CODE]), "code": source([CODE], "code")}
    for order, kept in ((["talk", "code"], {9}), (["code", "talk"], {8, 1})):
        place = tmp_path / order[0]
        if order[0] == "talk":
            # Nothing is left of the other source, which is said and not done.
            outcome = api.run(recipe(sources, duplicates={"order": order}), Runtime(place / "store", workers=1))
            assert "no row is left" in next(iter(outcome.failed.values()))
            continue
        run(sources, place, duplicates={"order": order})
        assert {part["rows"] for part in parts(place)} == kept


def test_across_two_sources_that_are_the_same_rows_each_row_trains_once(tmp_path: Path) -> None:
    sources = {"one": source(TALK), "two": source([*TALK], "code", amount={"count": 8})}
    outcome = api.run(recipe(sources, duplicates={"order": ["one", "two"]}), Runtime(tmp_path / "store", workers=1))
    assert "source 'two'" in next(iter(outcome.failed.values()))  # nothing of it is left


def test_the_order_must_name_sources(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must name sources, each once; there are talk"):
        plan({"talk": source(TALK)}, tmp_path, duplicates={"order": ["talks"]})


def test_rows_are_dropped_by_length(tmp_path: Path) -> None:
    long = {"question": "Tell me everything.", "answer": "word " * 60}
    run({"talk": source([*TALK, long], drop={"longer_than": 60})}, tmp_path)
    assert [(part["filtered"], part["rows"]) for part in parts(tmp_path)] == [(1, 8)]


def test_a_rule_on_tags_needs_tags(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"drop.*looks at tags, and the source has none"):
        plan({"talk": source(TALK, drop={"tags": "code"})}, tmp_path)


def test_an_unknown_tagger_suggests_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"taggers\.0.*Did you mean 'rules'"):
        plan({"talk": source(TALK, taggers=["rule"])}, tmp_path)


class _Tagger(BaseHTTPRequestHandler):
    asked = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked += 1
        tag = "coding" if "Python" in body["messages"][0]["content"].partition("[begin]")[2] else "small talk"
        content = json.dumps([{"tag": tag, "explanation": "so it seems"}])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    _Tagger.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), _Tagger) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}/v1"
        found.shutdown()
        thread.join()


def test_rows_are_dropped_by_the_stemmed_tags_of_a_model(tmp_path: Path, server: str) -> None:
    tagger = {"instag": {"endpoint": {"url": server, "model": "m", "concurrency": 2}}}
    sources = {"talk": source([*TALK, CODE, CODE], taggers=[tagger], drop={"tags": "code|math", "stem": True})}
    run(sources, tmp_path)
    assert [(part["filtered"], part["rows"]) for part in parts(tmp_path)] == [(2, 8)]
    assert _Tagger.asked == 9  # equal rows are asked once
    (manifest,) = (m for m in Store(tmp_path / "store").stages() if m["kind"] == "tag")
    assert manifest["summary"]["tags"] == {"small talk": 8, "coding": 2}


def test_benchmarks_of_one_name_are_all_compared(tmp_path: Path) -> None:
    rows = {name: [{"question": f"How much is {n} {name} 7, and why?", "answer": "7"}] for n, name in enumerate("+-")}
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(some[0]), encoding="utf-8")
    asked = [
        {"exact_answer": {"path": str(tmp_path / f"{name}.jsonl"), "ability": ability}}
        for name, ability in zip("+-", ("one", "two"), strict=True)
    ]
    found = plan({"talk": source(TALK)}, tmp_path, evaluation=asked)
    assert sorted(found.benchmarks.values()) == ["exact_answer", "exact_answer 2"]
    (checks,) = found.preflights
    assert {stage.one("benchmark").id for stage in checks.inputs["overlaps"]} == set(found.benchmarks)
