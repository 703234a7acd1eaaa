from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cuvee.engine import endpoint as module
from cuvee.engine.endpoint import Answer, Endpoint, Settings, ask, request_key
from cuvee.errors import StageFailed, UsageError
from cuvee.values import Message

pytest.importorskip("openai")

Reply = tuple[int, Mapping[str, str], Any]
KEY = "sk-very-secret-0123"


class Server:
    """A server that answers with what `reply` says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.at_once = self.most_at_once = 0
        self.reply: Callable[[Server, dict[str, Any]], Reply | None] = lambda server, body: completion(text_of(body))
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def times(self, text: str) -> int:
        return sum(text_of(body) == text for body in self.asked)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.asked.append({**body, "path": self.path})
                    server.keys.append(self.headers.get("Authorization", ""))
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                reply = server.reply(server, body)
                with server.lock:
                    server.at_once -= 1
                if reply is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, headers, data = reply
                raw = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    if name != "Content-Length":
                        self.send_header(name, value)
                self.send_header("Content-Length", headers.get("Content-Length", str(len(raw))))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def text_of(body: Mapping[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def completion(text: str, finish: str = "stop") -> Reply:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text.upper()}}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return (
        200,
        {},
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage},
    )


def error(status: int, text: str, headers: Mapping[str, str] | None = None, code: str = "") -> Reply:
    return status, headers or {}, {"error": {"message": text, "type": "x", "code": code or None}}


def once(first: Reply | None) -> Callable[[Server, dict[str, Any]], Reply | None]:
    """Answer the first request of each text with `first`, and well from then on."""
    return lambda server, body: first if server.times(text_of(body)) == 1 else completion(text_of(body))


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.http.shutdown()
    found.http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(Endpoint(url=server.url, model="m", concurrency=2, retries=2, timeout=10), max_tokens=16)


def requests(*texts: str) -> list[tuple[str, tuple[Message, ...]]]:
    return [(text, (Message("user", text),)) for text in texts]


def quiet(facts: Mapping[str, Any]) -> None:
    pass


def told(call: Callable[[], Any]) -> str:
    with pytest.raises(StageFailed) as caught:
        call()
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ answers


def test_every_request_gets_its_answer_and_is_kept(server: Server, settings: Settings, tmp_path: Path) -> None:
    answers = ask(requests("a", "b", "c"), settings, tmp_path / "j.jsonl", quiet)
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    assert answers == {text: Answer(text.upper(), "stop", usage) for text in "abc"}
    assert list(answers) == ["a", "b", "c"]
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert sorted(line["text"] for line in lines) == ["A", "B", "C"]


def test_what_is_sent_is_what_was_set_and_no_more(server: Server, tmp_path: Path) -> None:
    endpoint = Endpoint(url=server.url + "/", model="m")
    ask(requests("a"), Settings(endpoint, 7, seed=3, stop=["\n"]), tmp_path / "j", quiet)
    newer = endpoint.model_copy(update={"limit_name": "max_completion_tokens"})
    ask(requests("a"), Settings(newer, 7, temperature=None), tmp_path / "other", quiet)
    messages = [{"role": "user", "content": "a"}]
    common = {"model": "m", "messages": messages, "path": "/v1/chat/completions"}
    assert server.asked[0] == {**common, "max_tokens": 7, "temperature": 0.0, "seed": 3, "stop": ["\n"]}
    assert server.asked[1] == {**common, "max_completion_tokens": 7}


def test_equal_requests_are_asked_once(server: Server, settings: Settings, tmp_path: Path) -> None:
    same = [("first", (Message("user", "a"),)), ("second", (Message("user", "a"),))]
    answers = ask(same, settings, tmp_path / "j", quiet)
    assert answers["first"] == answers["second"]
    assert len(server.asked) == 1


def test_two_requests_of_one_id_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 requests have 1 different ids"):
        ask([("a", (Message("user", "a"),)), ("a", (Message("user", "b"),))], settings, tmp_path / "j", quiet)


def test_no_more_than_concurrency_are_under_way(server: Server, tmp_path: Path) -> None:
    def slow(server: Server, body: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return completion(text_of(body))

    server.reply = slow
    endpoint = Endpoint(url=server.url, model="m", concurrency=3)
    ask(requests(*map(str, range(12))), Settings(endpoint, 16), tmp_path / "j", quiet)
    assert server.most_at_once == 3


def test_progress_ends_at_the_number_of_different_requests(settings: Settings, tmp_path: Path) -> None:
    facts: list[Mapping[str, Any]] = []
    ask(requests("a", "b"), settings, tmp_path / "j", facts.append)
    assert (facts[-1]["step"], facts[-1]["steps"], facts[-1]["tokens"]) == (2, 2, 4)


def test_an_answer_without_text_is_empty_and_keeps_its_finish(
    server: Server, settings: Settings, tmp_path: Path
) -> None:
    refused = completion("", "content_filter")
    refused[2]["choices"][0]["message"]["content"] = None
    server.reply = lambda server, body: refused
    assert ask(requests("a"), settings, tmp_path / "j", quiet)["a"] == Answer(
        "", "content_filter", {"prompt_tokens": 3, "completion_tokens": 2}
    )


# ------------------------------------------------------------------------------------------------ retries


@pytest.mark.parametrize(
    "first",
    [
        error(500, "oops"),
        error(503, "busy"),
        error(429, "slow down"),
        error(408, "late"),
        None,
        (200, {"Content-Length": "500"}, b'{"choices": [{"mess'),
        (200, {}, b'{"choices": [{"mess'),
        (200, {}, {"choices": []}),
        (200, {"Content-Type": "text/html"}, b"<html>a proxy's page</html>"),
    ],
    ids=[
        "500",
        "503",
        "429",
        "408",
        "connection dropped",
        "dropped inside an answer",
        "cut JSON",
        "no choice",
        "a web page",
    ],
)
def test_a_passing_fault_is_tried_again(
    server: Server, settings: Settings, tmp_path: Path, first: Reply | None
) -> None:
    server.reply = once(first)
    answers = ask(requests("a", "b"), settings, tmp_path / "j", quiet)
    assert [answer.text for answer in answers.values()] == ["A", "B"]
    assert (server.times("a"), server.times("b")) == (2, 2)


def test_the_wait_that_the_server_asks_for_is_kept(server: Server, settings: Settings, tmp_path: Path) -> None:
    server.reply = once(error(429, "slow down", {"Retry-After": "1"}))
    start = time.monotonic()
    ask(requests("a"), settings, tmp_path / "j", quiet)
    assert time.monotonic() - start >= 1.0


def test_a_server_that_asks_to_wait_for_hours_ends_the_round(
    server: Server, settings: Settings, tmp_path: Path
) -> None:
    server.reply = lambda server, body: error(429, "daily quota", {"Retry-After": "7200"})
    text = told(lambda: ask(requests("a"), settings, tmp_path / "j", quiet))
    assert "the server asks to wait 7,200 s" in text


def test_a_slow_answer_is_given_up_and_tried_again(server: Server, tmp_path: Path) -> None:
    def slow_at_first(server: Server, body: dict[str, Any]) -> Reply:
        if len(server.asked) == 1:
            time.sleep(0.5)
        return completion(text_of(body))

    server.reply = slow_at_first
    endpoint = Endpoint(url=server.url, model="m", timeout=0.2)
    assert ask(requests("a"), Settings(endpoint, 16), tmp_path / "j", quiet)["a"].text == "A"
    assert len(server.asked) == 2


# ------------------------------------------------------------------------------------------------- resume


def test_a_second_round_asks_only_what_is_missing(server: Server, settings: Settings, tmp_path: Path) -> None:
    first = ask(requests("a", "b"), settings, tmp_path / "j", quiet)
    again = ask(requests("a", "b", "c"), settings, tmp_path / "j", quiet)
    assert {name: again[name] for name in "ab"} == first
    assert [server.times(text) for text in "abc"] == [1, 1, 1]


def test_a_cut_last_line_is_asked_again_and_spoils_no_other(server: Server, settings: Settings, tmp_path: Path) -> None:
    journal = tmp_path / "j"
    ask(requests("a"), settings, journal, quiet)
    with journal.open("a") as file:
        file.write('{"key": "0123", "text": "half an ans')
    ask(requests("a", "b"), settings, journal, quiet)
    ask(requests("a", "b"), settings, journal, quiet)
    assert [server.times(text) for text in "ab"] == [1, 1]
    assert len([json.loads(line) for line in journal.read_text().splitlines()]) == 2


def test_a_killed_round_loses_no_answer_that_had_arrived(server: Server, settings: Settings, tmp_path: Path) -> None:
    held = threading.Event()

    def hold_the_last(server: Server, body: dict[str, Any]) -> Reply:
        if text_of(body) == "9" and server.times("9") == 1:
            held.wait(20)
        return completion(text_of(body))

    server.reply = hold_the_last
    journal = tmp_path / "j"
    code = (
        "import sys; from pathlib import Path; from cuvee.engine.endpoint import *; from cuvee.values import Message\n"
        "requests = [(t, (Message('user', t),)) for t in '0123456789']\n"
        "endpoint = Endpoint(url=sys.argv[1], model='m', concurrency=2)\n"
        "ask(requests, Settings(endpoint, max_tokens=16), Path(sys.argv[2]), print)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.url, str(journal)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 20
    while time.monotonic() < until and not (journal.exists() and journal.read_bytes().count(b"\n") == 9):
        time.sleep(0.02)
    process.kill()
    process.wait()
    held.set()
    answers = ask(requests(*"0123456789"), settings, journal, quiet)
    assert [answers[text].text for text in "0123456789"] == list("0123456789")
    assert [server.times(text) for text in "0123456789"] == [1] * 9 + [2]


# ------------------------------------------------------------------------------------------------- faults


def test_a_refused_key_is_told_without_the_key(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    server.reply = lambda server, body: error(401, f"Incorrect API key provided: {KEY}.")
    settings = Settings(Endpoint(url=server.url, model="gpt-x", key_env="MY_KEY"), 16)
    text = told(lambda: ask(requests("a"), settings, tmp_path / "j", quiet))
    assert server.keys == [f"Bearer {KEY}"]
    assert KEY not in text
    assert KEY not in (tmp_path / "j").read_text()
    for part in (server.url, "model gpt-x", "key from MY_KEY", "HTTP 401", "set MY_KEY to a key", "0 of 1 requests"):
        assert part in text


def test_an_unknown_model_or_path_is_told_at_once(server: Server, settings: Settings, tmp_path: Path) -> None:
    server.reply = lambda server, body: error(404, "The model `m` does not exist.")
    text = told(lambda: ask(requests(*map(str, range(50))), settings, tmp_path / "j", quiet))
    assert "HTTP 404: " in text
    assert "check url (what comes before /chat/completions, often ending in /v1) and model" in text
    assert len(server.asked) <= 2  # those under way when the first came back


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    settings = Settings(Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m"), 16)
    start = time.monotonic()
    text = told(lambda: ask(requests("a"), settings, tmp_path / "j", quiet))
    assert time.monotonic() - start < 5
    assert "no connection: " in text
    assert "refused" in text
    assert "start the server or check url" in text


def test_an_empty_account_is_no_reason_to_wait(server: Server, settings: Settings, tmp_path: Path) -> None:
    server.reply = lambda server, body: error(429, "You exceeded your quota.", code="insufficient_quota")
    assert "raise the account's quota" in told(lambda: ask(requests("a"), settings, tmp_path / "j", quiet))
    assert len(server.asked) == 1


def test_one_request_that_fails_for_good_leaves_the_others_answered_and_kept(
    server: Server, settings: Settings, tmp_path: Path
) -> None:
    too_long = error(400, "maximum context length is 8 tokens")
    server.reply = lambda server, body: too_long if text_of(body) == "c" else completion(text_of(body))
    text = told(lambda: ask(requests("c", "a", "b", "d"), settings, tmp_path / "j", quiet))
    assert "1 requests failed for good; the first: HTTP 400: " in text
    assert "maximum context length" in text
    assert "3 of 4 requests are answered and kept in" in text
    assert server.times("c") == 1
    server.reply = lambda server, body: completion(text_of(body))
    assert len(ask(requests("c", "a", "b", "d"), settings, tmp_path / "j", quiet)) == 4
    assert [server.times(text) for text in "abcd"] == [1, 1, 2, 1]


def test_a_server_that_stays_down_is_told_with_the_number_of_tries(
    server: Server, settings: Settings, tmp_path: Path
) -> None:
    server.reply = lambda server, body: error(503, "busy")
    text = told(lambda: ask(requests("a"), settings, tmp_path / "j", quiet))
    assert "busy" in text
    assert "(3 tries)" in text


def test_after_many_failures_no_more_are_sent(server: Server, settings: Settings, tmp_path: Path) -> None:
    server.reply = lambda server, body: error(400, "max_tokens is not supported")
    text = told(lambda: ask(requests(*map(str, range(200))), settings, tmp_path / "j", quiet))
    # Of the two under way at once, one may be answered after the twentieth failure.
    assert re.search(r"2[01] requests failed for good, and no more were sent after 20", text)
    assert "it would refuse them again" in text
    assert 20 <= len(server.asked) <= 21


def test_a_slow_reader_of_the_answers_lets_no_more_failing_requests_out(
    server: Server, settings: Settings, tmp_path: Path
) -> None:
    server.reply = lambda server, body: error(400, "max_tokens is not supported")

    def slow(facts: Mapping[str, Any]) -> None:
        time.sleep(0.3)

    told(lambda: ask(requests(*map(str, range(200))), settings, tmp_path / "j", slow))
    assert 20 <= len(server.asked) <= 21


def test_a_key_variable_that_is_not_set_is_told_before_anything_is_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    settings = Settings(Endpoint(url=server.url, model="m", key_env="MY_KEY"), 16)
    with pytest.raises(UsageError, match=r"variable MY_KEY, which is not set; export MY_KEY=\.\.\. before running"):
        ask(requests("a"), settings, tmp_path / "j", quiet)
    assert server.asked == []


def test_without_the_package_the_error_names_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[endpoint\]'"):
        ask(requests("a"), settings, tmp_path / "j", quiet)


# ------------------------------------------------------------------------------------------- description


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_shown() -> None:
    with pytest.raises(ValidationError, match="the name of an environment variable") as caught:
        Endpoint(url="http://localhost/v1", model="m", key_env=KEY)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "https://user:secret@x/v1", "https://"])
def test_what_is_no_root_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="http://HOST/v1"):
        Endpoint(url=url, model="m")


def test_how_it_is_asked_is_no_part_of_who_answers() -> None:
    plain = Endpoint(url="http://h/v1", model="m")
    other = Endpoint(url="http://h/v1/chat/completions", model="m", key_env="K", concurrency=64, timeout=1, retries=0)
    assert plain.identity() == other.identity() == {"url": "http://h/v1", "model": "m"}
    messages = (Message("user", "a"),)
    assert request_key(messages, Settings(plain, 16)) == request_key(messages, Settings(other, 16))


def test_what_changes_an_answer_changes_its_key() -> None:
    one, two = Endpoint(url="http://h/v1", model="m"), Endpoint(url="http://h/v1", model="n")
    messages = (Message("user", "a"),)
    variants = [
        Settings(one, 16),
        Settings(two, 16),
        Settings(one, 17),
        Settings(one, 16, 1.0),
        Settings(one, 16, seed=1),
    ]
    keys = {request_key(messages, variant) for variant in variants}
    keys.add(request_key((Message("user", "b"),), Settings(one, 16)))
    keys.add(request_key(messages, Settings(one, 16, stop=["x"])))
    assert len(keys) == 7


def test_importing_it_imports_neither_torch_nor_openai() -> None:
    code = "import sys, cuvee.engine.endpoint; print([m for m in ('torch', 'openai') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
