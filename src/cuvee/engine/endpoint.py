"""Asking a chat model behind an OpenAI-compatible server: many requests at once, each answered once and kept.

    endpoint = Endpoint(url="http://localhost:8000/v1", model="qwen", key_env="QWEN_KEY")
    answers = ask(requests, Settings(endpoint, max_tokens=512), work / "answers.jsonl", progress)

Every answer is appended to the journal as it arrives. Asked again with the same journal, only what is missing is
asked. Equal requests are one request. Importing this module imports neither torch nor the openai package.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from pydantic import ConfigDict, Field, field_validator

from cuvee import canonical
from cuvee.errors import StageFailed, UsageError
from cuvee.protocols import Params, Progress
from cuvee.values import Message

JOURNAL = "answers.jsonl"

PASSING = frozenset({408, 409, 425, 429})
"""Status codes, besides 5xx, after which the same request may well be answered."""

HOPELESS = frozenset({401, 403, 404, 405})
"""Status codes that every other request would get as well."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first retry, doubled each time, and at most; a server's Retry-After may say more."""

PATIENCE = 600.0
"""Seconds that a server may ask to wait; when it asks for more, the round ends."""

MOST_FAILURES = 20
"""Requests that may fail for good before no further ones are sent."""


class Endpoint(Params):
    """A server and how to ask it.

    Args:
        url: what comes before ``/chat/completions``, such as ``http://localhost:8000/v1``.
        model: the model's name there.
        key_env: name of the environment variable that holds the key; without it the word ``none`` is sent.
        limit_name: what the server calls the longest answer; newer OpenAI models know ``max_completion_tokens``.
        concurrency: requests under way at once.
        timeout: seconds without a sign of the server before a try is given up.
        retries: further tries of a request after 429, 5xx, a time-out or a lost connection.
    """

    # An error's text must not show what was given: it may be a key.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    model: str
    key_env: str | None = None
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    concurrency: Annotated[int, Field(ge=1, le=512)] = 8
    timeout: Annotated[float, Field(gt=0)] = 120.0
    retries: Annotated[int, Field(ge=0)] = 6

    @field_validator("url")
    @classmethod
    def _is_a_root(cls, value: str) -> str:
        if not re.match(r"https?://[^\s/@]+(?:/\S*)?\Z", value):
            raise ValueError("must be http://HOST/v1 or https://HOST/v1, without user name or key in it")
        return value.rstrip("/").removesuffix("/chat/completions")

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", value):
            raise ValueError("must be the name of an environment variable, such as OPENAI_API_KEY, and not the key")
        return value

    def identity(self) -> dict[str, Any]:
        """Return what says who answers: url and model; the rest is how to ask."""
        return {"url": self.url, "model": self.model}


@dataclass(frozen=True)
class Settings:
    """An endpoint and how it is to generate; a parameter that is None is not sent.

    Args:
        endpoint: who is asked.
        max_tokens: longest answer.
        temperature: 0 for the likeliest answer; None for models that refuse the parameter.
        seed: for servers that honour one.
        stop: texts that end an answer.
        top_p: draw among the likeliest tokens that together have at least this probability.
        copy: not sent; answers of different copies are kept apart, so that the same can be asked several times.
    """

    endpoint: Endpoint
    max_tokens: int
    temperature: float | None = 0.0
    seed: int | None = None
    stop: Sequence[str] = ()
    top_p: float | None = None
    copy: int = 0

    def sampling(self) -> dict[str, Any]:
        """Return the body's parameters besides model and messages."""
        given = {
            self.endpoint.limit_name: self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stop": list(self.stop) or None,
            "top_p": self.top_p,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; finish is ``stop``, ``length`` or the server's own word, usage its token counts."""

    text: str
    finish: str
    usage: Mapping[str, int] = field(default_factory=dict)


def request_key(messages: Sequence[Message], settings: Settings) -> str:
    """Return the hash of model, messages and sampling parameters: what makes two requests one."""
    sampling = {**settings.sampling(), "max_tokens": settings.max_tokens}
    if settings.copy:
        sampling["copy"] = settings.copy
    sampling.pop("max_completion_tokens", None)
    turns = [message.as_dict() for message in messages]
    return canonical.digest({"model": settings.endpoint.model, "messages": turns, **sampling})


def ask(
    requests: Sequence[tuple[str, Sequence[Message]]], settings: Settings, journal: Path, progress: Progress
) -> dict[str, Answer]:
    """Return the answer to every request.

    Args:
        requests: (id, conversation so far) each; ids differ.
        settings: who is asked and how.
        journal: JSON lines of the answers so far; read when it is there, and appended to.
        progress: told {"step", "steps", "tokens", "tokens_per_second", "seconds_left"} in different requests.

    Raises:
        UsageError: the openai package is absent, or the environment variable of the key is not set.
        StageFailed: the server cannot be reached, refuses key or model, or a request failed for good; says how many
            answers are kept.
    """
    answers, failures = _ask(requests, settings, journal, progress, (), tolerant=False)
    assert not failures
    return answers


def ask_most(
    requests: Sequence[tuple[str, Sequence[Message]]],
    settings: Settings,
    journal: Path,
    progress: Progress,
    known: Iterable[Path] = (),
    answered: bool = False,
) -> tuple[dict[str, Answer], dict[str, Failure]]:
    """Return the answers, and why there is none to the other requests.

    Args:
        requests, settings, journal, progress: as of `ask`.
        known: journals of others about the same server, which are read and not written.
        answered: whether it has answered requests beside these; else one of them must be.

    Raises:
        UsageError: as `ask`.
        StageFailed: the server cannot be reached, refuses key or model, or most requests failed for good.
    """
    return _ask(requests, settings, journal, progress, known, tolerant=True, answered=answered)


def _ask(
    requests: Sequence[tuple[str, Sequence[Message]]],
    settings: Settings,
    journal: Path,
    progress: Progress,
    known: Iterable[Path],
    tolerant: bool,
    answered: bool = False,
) -> tuple[dict[str, Answer], dict[str, Failure]]:
    keys = {name: request_key(messages, settings) for name, messages in requests}
    if len(keys) < len(requests):
        raise ValueError(f"{len(requests)} requests have {len(keys)} different ids; each needs its own")
    wanted = {keys[name]: messages for name, messages in requests}
    failed: dict[str, Failure] = {}
    with _Journal(journal) as kept:
        for other in known:
            kept.answers |= {key: answer for key, answer in _whole_lines(other)[0].items() if key in wanted}
        missing = {key: messages for key, messages in wanted.items() if key not in kept.answers}
        if missing:
            failed = _Round(settings, kept, progress, len(wanted), len(missing)).run(missing, tolerant, answered)
        answers = {name: kept.answers[key] for name, key in keys.items() if key not in failed}
        return answers, {name: failed[key] for name, key in keys.items() if key in failed}


# ------------------------------------------------------------------------------------------------- journal


class _Journal:
    """The answers so far, in memory and in a file that a kill leaves readable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        self._file: TextIO | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> _Journal:
        self.answers, whole = _whole_lines(self.path) if self.path.exists() else ({}, 0)
        self._file = self.path.open("a", encoding="utf-8")
        # What a kill cut off would swallow the next line.
        self._file.truncate(whole)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add(self, key: str, answer: Answer) -> None:
        data = {"key": key, "text": answer.text, "finish": answer.finish, "usage": dict(answer.usage)}
        line = json.dumps(data) + "\n"
        with self._lock:
            assert self._file is not None
            self.answers[key] = answer
            self._file.write(line)
            self._file.flush()


def _whole_lines(path: Path) -> tuple[dict[str, Answer], int]:
    """Return a journal's answers and how many bytes its whole lines are. A line that is damaged is asked again."""
    answers: dict[str, Answer] = {}
    whole = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                data = json.loads(line)
                answers[data["key"]] = Answer(data["text"], data["finish"], data["usage"])
            except (ValueError, KeyError, TypeError):
                continue
    return answers, whole


# ------------------------------------------------------------------------------------------------- asking


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer; `refused` when the server answered that it will not, and would again."""

    reason: str
    refused: bool


class _Failed(Exception):
    """A request that will not be answered; `hopeless` when no other one would be either."""

    def __init__(self, reason: str, hopeless: bool = False, refused: bool = False) -> None:
        super().__init__(reason)
        self.hopeless, self.refused = hopeless, refused


class _Round:
    """One round of asking: threads that share a client, and what they have done so far."""

    def __init__(self, settings: Settings, kept: _Journal, progress: Progress, total: int, missing: int) -> None:
        self.settings, self.kept, self.progress, self.total = settings, kept, progress, total
        self.package = _openai()
        self.key = _key(settings.endpoint)
        self.stopping = threading.Event()
        self.start, self.tokens, self.told = time.monotonic(), 0, 0.0
        self.before, self.old = len(kept.answers), total - missing
        self.failures: dict[str, _Failed] = {}
        self.ended, self.tolerant = 0, False
        self._lock = threading.Lock()

    @property
    def new(self) -> int:
        """Answers that this round has brought."""
        return len(self.kept.answers) - self.before

    def run(self, missing: Mapping[str, Sequence[Message]], tolerant: bool, answered: bool) -> dict[str, Failure]:
        """Ask all of `missing` and return the failures when the others are through; raise them unless `tolerant`."""
        self.tolerant = tolerant
        with self._client() as client, ThreadPoolExecutor(self.settings.endpoint.concurrency) as pool:
            try:
                futures = [pool.submit(self._take, client, key, said) for key, said in missing.items()]
                for future in as_completed(futures):
                    self._tell(future.result())
                    if self.stopping.is_set():
                        break
            finally:
                self.stopping.set()
                pool.shutdown(wait=True, cancel_futures=True)
        failures = self.failures
        if failures and (self.ended or not tolerant or not (answered or self.kept.answers)):
            raise StageFailed(self._message(list(failures.values())), stage="endpoint")
        return {key: Failure(str(one), one.refused) for key, one in failures.items()}

    def _take(self, client: Any, key: str, messages: Sequence[Message]) -> Answer | None:
        """Return the answer; None when there is none. The thread that sees one failure too many ends the round."""
        try:
            return self._answer(client, key, messages)
        except _Failed as failure:
            with self._lock:
                self.failures[key] = failure
                if not self.ended and self._is_over(failure):
                    self.ended = len(self.failures)
                    self.stopping.set()
            return None

    def _is_over(self, failure: _Failed) -> bool:
        """Return whether asking on makes no sense: too many failures, or, where they are borne, mostly failures."""
        failed = len(self.failures)
        return failure.hopeless or (failed >= MOST_FAILURES and (not self.tolerant or failed > self.new))

    def _tell(self, answer: Answer | None) -> None:
        self.tokens += answer.usage.get("completion_tokens", 0) if answer else 0
        now, done = time.monotonic(), self.old + self.new
        if now - self.told < 0.2 and done < self.total:
            return
        self.told = now
        spent = max(now - self.start, 1e-9)
        self.progress(
            {
                "step": done,
                "steps": self.total,
                "tokens": self.tokens,
                "tokens_per_second": self.tokens / spent,
                "seconds_left": spent / max(self.new, 1) * (self.total - done),
            }
        )

    @contextmanager
    def _client(self) -> Iterator[Any]:
        endpoint = self.settings.endpoint
        client = self.package.OpenAI(
            base_url=endpoint.url,
            api_key=self.key or "none",
            timeout=endpoint.timeout,
            max_retries=0,  # retries are ours: they end when the round does
        )
        try:
            yield client
        finally:
            client.close()

    def _answer(self, client: Any, key: str, messages: Sequence[Message]) -> Answer | None:
        """Ask until there is an answer; None when the round was stopped before."""
        body = {"model": self.settings.endpoint.model, "messages": [message.as_dict() for message in messages]}
        for tried in range(self.settings.endpoint.retries + 1):
            if self.stopping.is_set():
                break
            try:
                answer = _read(client.chat.completions.create(**body, **self.settings.sampling()))
            except (self.package.OpenAIError, ValueError) as error:
                self.stopping.wait(self._wait(error, tried))
                continue
            self.kept.add(key, answer)
            return answer
        return None

    def _wait(self, error: Exception, tried: int) -> float:
        """Return the seconds until the next try, or raise when there is none."""
        reason, asked = self._reason(error), _retry_after(error)
        if asked > PATIENCE:
            reason += f" (the server asks to wait {asked:,.0f} s)"
        if asked > PATIENCE or self._is_hopeless(error):
            raise _Failed(reason, hopeless=True) from None
        status = getattr(error, "status_code", None)
        passing = status is None or status in PASSING or status >= 500 or status < 400
        if not passing or tried == self.settings.endpoint.retries:
            tries = f" ({tried + 1} tries)" if tried else ""
            raise _Failed(reason + tries, refused=not passing) from None
        backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0**tried)
        # Spread, so that requests refused together do not come back together; decides nothing about results.
        return max(asked, backoff * random.uniform(0.5, 1.0))  # noqa: S311

    def _is_hopeless(self, error: Exception) -> bool:
        if getattr(error, "status_code", None) in HOPELESS or getattr(error, "code", None) == "insufficient_quota":
            return True
        # A server that has answered before may be restarting.
        unreachable = any(
            isinstance(cause, OSError) and not isinstance(cause, TimeoutError) for cause in _causes(error)
        )
        lost = any(isinstance(cause, ConnectionResetError | BrokenPipeError) for cause in _causes(error))
        return unreachable and not lost and not self.kept.answers

    def _reason(self, error: Exception) -> str:
        if isinstance(error, self.package.APIStatusError):
            text = f"HTTP {error.status_code}: {_first_line(error.message)}"
        elif isinstance(error, self.package.APITimeoutError):
            text = f"no answer within {self.settings.endpoint.timeout:g} s"
        elif isinstance(error, self.package.APIConnectionError):
            causes = [_first_line(str(cause)) for cause in _causes(error)]
            text = f"no connection: {next((c for c in reversed(causes) if c), 'lost')}"
        else:
            text = f"unreadable answer: {_first_line(str(error))}"
        return text.replace(self.key, "***") if self.key else text

    def _message(self, failures: Sequence[_Failed]) -> str:
        endpoint = self.settings.endpoint
        key = f"key from {endpoint.key_env}" if endpoint.key_env else "no key_env"
        who = f"{endpoint.url}, model {endpoint.model}, {key}"
        kept = f"{self.old + self.new:,} of {self.total:,} requests are answered and kept in {self.kept.path}"
        if hopeless := next((one for one in failures if one.hopeless), None):
            return f"{who}: {hopeless}; {_remedy(str(hopeless), endpoint)}. {kept}; run again to ask the rest"
        stopped = f", and no more were sent after {self.ended}" if self.ended else ""
        remedy = "run again to ask the rest, with more retries or a longer timeout if the server is slow or busy"
        if all(one.refused for one in failures):
            remedy = "it would refuse them again: change what it names (lengths, limit_name, temperature)"
        return f"{who}: {len(failures):,} requests failed for good{stopped}; the first: {failures[0]}. {kept}; {remedy}"


def _remedy(reason: str, endpoint: Endpoint) -> str:
    if "HTTP 401" in reason or "HTTP 403" in reason:
        return (
            f"set {endpoint.key_env} to a key that may use the model"
            if endpoint.key_env
            else "name the environment variable that holds the key with key_env"
        )
    if "HTTP 40" in reason:
        return "check url (what comes before /chat/completions, often ending in /v1) and model"
    if "HTTP 429" in reason:
        return "wait or raise the account's quota"
    return "start the server or check url"


def _read(completion: Any) -> Answer:
    """Return the answer in a completion.

    Raises:
        ValueError: it is not what the protocol says.
    """
    try:
        choice = completion.choices[0]
        text, usage = choice.message.content, completion.usage
        counts = {name: getattr(usage, name) for name in ("prompt_tokens", "completion_tokens") if usage}
    except (AttributeError, IndexError, TypeError):
        raise ValueError(f"not a chat completion: {str(completion)[:200]}") from None
    if not isinstance(text, str | None):
        raise ValueError(f"the answer is no text but {type(text).__name__}")
    found = {name: count for name, count in counts.items() if isinstance(count, int)}
    return Answer(text or "", str(choice.finish_reason or ""), found)


def _retry_after(error: Exception) -> float:
    """Return the seconds a server asks to wait, 0 when it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        return _until(str(headers["retry-after"]))


def _until(date: str) -> float:
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return 0.0


def _causes(error: BaseException) -> list[BaseException]:
    """Return what led to an error, nearest first."""
    found: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else "no reason given"


def need(endpoint: Endpoint) -> None:
    """Raise what asking this server would raise at once.

    Raises:
        UsageError: the openai package is absent, or the environment variable of the key is not set.
    """
    if find_spec("openai") is None:
        _openai()
    _key(endpoint)


def _key(endpoint: Endpoint) -> str:
    if endpoint.key_env is None:
        return ""
    key = os.environ.get(endpoint.key_env, "").strip()
    if not key:
        raise UsageError(
            f"the key for {endpoint.url} is to come from the environment variable {endpoint.key_env}, which is not "
            f"set; export {endpoint.key_env}=... before running, or leave key_env out for a server without keys"
        )
    return key


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise UsageError(
            "asking an endpoint needs the package openai, which this Python has not; pip install 'cuvee[endpoint]'"
        ) from None
    return openai
