"""Who answers an evaluator's requests: a model on this machine, or one behind an endpoint.

Either way an answer is a text, its tokens, and why it ended. A request that fails is an error and never an answer;
what was answered before is kept in the work folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuvee import seeds
from cuvee.job import Job
from cuvee.protocols import Progress, Request
from cuvee.runtime import Runtime

DRAWING = ("samples", "temperature", "top_p", "seed")
"""Parameters that are absent where nothing is drawn."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: tokens are the server's count where there is one; finish is ``stop``, ``length`` or its word."""

    text: str
    tokens: int
    finish: str


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
        asked: requests.
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
        Decoding(params["max_new_tokens"], **drawing(params)),
        chat.stop_ids,
        runtime,
        progress,
        params["precision"],
        journal=work / "answers.jsonl",
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
    drawn = drawing(params)
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


def drawing(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of drawing, none where the likeliest token is taken."""
    return {name: params[name] for name in DRAWING if name in params}


def _seed(seed: int, sample: int) -> int:
    """Return a seed that servers take: below 2 to the 31."""
    return seeds.rank(seed, "endpoint sample", b"", sample) >> 33
