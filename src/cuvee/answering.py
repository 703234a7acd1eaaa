"""Who answers an evaluator's requests: a model on this machine, or one behind an endpoint.

Follow-up turns are asked after the replies to the turns before. Either way an answer is a text, its tokens, and why it
ended. A request that fails is an error and never an answer; what was answered before is kept in the work folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cuvee import seeds
from cuvee.job import Job
from cuvee.protocols import Progress, Request
from cuvee.runtime import Runtime
from cuvee.values import Message

DRAWING = ("samples", "temperature", "top_p", "seed")
"""Parameters that are absent where nothing is drawn."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: tokens are the server's count where there is one; finish is ``stop``, ``length`` or its word."""

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with the place of what it answers.

    Args:
        number: of the request among all.
        sample: of the answers to it.
        turn: from 1.
        messages: the conversation up to the answer.
        answer: what came back.
    """

    number: int
    sample: int
    turn: int
    messages: tuple[Message, ...]
    answer: Answer


Ask = Callable[[Sequence[Request]], list[Answer]]
"""Answers requests that share a temperature, the samples of each together."""


def converse(asked: Sequence[Request], ask: Ask) -> list[Reply]:
    """Return the replies to all turns of all requests, in the order of requests, samples and turns.

    A later turn is a request of its own, ``ITEM/turn 2``, so that its draws hang on item and turn.
    """
    found: list[Reply] = []
    open_now = [(number, -1, request) for number, request in enumerate(asked)]
    turn = 1
    while open_now:
        replies = [reply for group in _by_temperature(open_now) for reply in _ask(group, turn, ask)]
        found += replies
        turn += 1
        open_now = [
            (one.number, one.sample, _next(asked[one.number], one, turn))
            for one in replies
            if len(asked[one.number].followups) >= turn - 1
        ]
    return sorted(found, key=lambda one: (one.number, one.sample, one.turn))


_Open = tuple[int, int, Request]
"""Number of a request, sample (-1 while there are none), and what is asked now."""


def _by_temperature(rows: Sequence[_Open]) -> list[list[_Open]]:
    groups: dict[float | None, list[_Open]] = {}
    for row in rows:
        groups.setdefault(row[2].temperature, []).append(row)
    return list(groups.values())


def _ask(rows: Sequence[_Open], turn: int, ask: Ask) -> list[Reply]:
    answers = ask([request for *_, request in rows])
    each = len(answers) // len(rows)
    return [
        Reply(number, place % each if sample < 0 else sample, turn, request.messages, answers[place])
        for at, (number, sample, request) in enumerate(rows)
        for place in range(at * each, (at + 1) * each)
    ]


def _next(request: Request, reply: Reply, turn: int) -> Request:
    """Return the request that asks the turn after a reply."""
    said = (*reply.messages, Message("assistant", reply.answer.text), Message("user", request.followups[turn - 2]))
    sample = f" of sample {reply.sample}" if reply.sample else ""
    return replace(request, item=f"{request.item}/turn {turn}{sample}", messages=said)


def by_model(
    job: Job,
    asked: Sequence[Request],
    work: Path,
    runtime: Runtime,
    progress: Progress,
    folder: Path,
    tokenizer: Path,
) -> list[Answer]:
    """Return the answers of a model folder, an item's samples together.

    Args:
        job: the generate stage.
        asked: requests of one temperature.
        work: its work folder.
        runtime: how to run.
        progress: told how far it is.
        folder: the model.
        tokenizer: a folder with the model's tokenizer.
    """
    from cuvee import engine
    from cuvee.data.chat import Chat
    from cuvee.engine.decoding import Decoding, Prompt

    params = job.params
    chat = Chat(tokenizer, params["template"])
    replies = engine.for_model(folder, runtime.generator).generate(
        folder,
        [Prompt(request.item, chat.prompt(request.messages, request.tools)) for request in asked],
        Decoding(params["max_new_tokens"], **drawing(params, asked)),
        chat.stop_ids,
        runtime,
        progress,
        params["precision"],
        journal=work / _journal(asked),
        references=[chat.tokenizer.encode(r.solution or r.reference, add_special_tokens=False).ids for r in asked],
        ability=job.names.get(job.inputs["items"][0].id, ("", ""))[1],
    )
    return [Answer(chat.decode(reply.ids), len(reply.ids), reply.finish) for reply in replies]


def by_endpoint(job: Job, asked: Sequence[Request], work: Path, progress: Progress) -> list[Answer]:
    """Return the answers of a server, an item's samples together; its own template and draws.

    Each sample is asked for under a seed of its own, for servers that honour one.

    Raises:
        UsageError: the package is absent, or the key is not set.
        StageFailed: the server cannot be reached or a request failed for good; what came before is kept.
    """
    from cuvee.engine import endpoint

    params, server = job.params, endpoint.Endpoint(**job.one("model").locate["endpoint"])
    drawn = drawing(params, asked)
    rounds = []
    for sample in range(drawn.get("samples", 1)):
        settings = endpoint.Settings(
            server,
            params["max_new_tokens"],
            drawn.get("temperature", 0.0),
            _seed(drawn["seed"], sample) if drawn else None,
            top_p=drawn.get("top_p", 1.0) if drawn.get("top_p", 1.0) < 1 else None,
        )
        requests = [(request.item, request.messages) for request in asked]
        rounds.append(endpoint.ask(requests, settings, work / endpoint.JOURNAL, progress))
    found = [answers[request.item] for request in asked for answers in rounds]
    return [Answer(one.text, one.usage.get("completion_tokens", 0), one.finish) for one in found]


def drawing(params: Mapping[str, Any], asked: Sequence[Request] = ()) -> dict[str, Any]:
    """Return the parameters of drawing, none where the likeliest token is taken; a request's own temperature counts."""
    found = {name: params[name] for name in DRAWING if name in params}
    own = asked[0].temperature if asked else None
    if own is None:
        return found
    # Of a later turn every sample is a request of its own.
    samples = {"samples": found["samples"]} if "samples" in found and "/turn " not in asked[0].item else {}
    return {"temperature": own, "seed": params["seed"], **samples} if own else {}


def _journal(asked: Sequence[Request]) -> str:
    """Return the file that keeps the answers to these requests: turns and temperatures have files of their own."""
    _, later, turn = asked[0].item.partition("/turn ")
    own = asked[0].temperature
    parts = [f"turn{turn.split(' ')[0]}"] * bool(later) + ([] if own is None else [f"t{own:g}"])
    return "-".join(["answers", *parts]) + ".jsonl"


def _seed(seed: int, sample: int) -> int:
    """Return a seed that servers take: below 2 to the 31."""
    return seeds.rank(seed, "endpoint sample", b"", sample) >> 33
