"""Tags of a source's examples: by a rule, by a model on this machine, or by one behind an endpoint.

Equal conversations are tagged once. A model's answers are kept as they arrive, so that a killed tagging goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cuvee.bases import MODEL
from cuvee.errors import StageFailed
from cuvee.job import Job
from cuvee.protocols import Progress
from cuvee.runtime import Runtime
from cuvee.values import Example

TagsOf = Callable[[Example], tuple[tuple[str, ...] | None, str]]
"""Tags of an example, None where an answer could not be read, and the answer."""


def write(module: Any, job: Job, work: Path, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Tag a source's examples.

    Args:
        module: the tagger.
        job: with the source, and the model when one on this machine is asked.
        work: the stage's work folder.
        runtime: how a local model is run.
        progress: told how far it is.

    Returns:
        What `data.tags.write` counted; for a model also ``cut``, the queries that were too long.

    Raises:
        StageFailed: more than half of the answers could not be read: a filter would let those rows pass unseen.
    """
    from cuvee.data import tags

    if hasattr(module, "request"):
        return _by_model(module, job, work, runtime, progress)
    params = module.Params(**job.params)
    return tags.write(work, _rows(job, lambda example: (module.tags(example, params), "")))


def _rows(job: Job, tags_of: TagsOf) -> Iterator[tuple[bytes, int, tuple[str, ...] | None, str]]:
    from cuvee.data import examples

    for example, occurrence in examples.read(job.one("source").folder):
        yield example.key, occurrence, *tags_of(example)


def _by_model(module: Any, job: Job, work: Path, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    from cuvee.data import examples, tags

    params = module.Params(**job.locate["params"])
    distinct = {example.id: example for example, _ in examples.read(job.one("source").folder)}
    asked = [(name, module.request(example, params)) for name, example in distinct.items()]
    answer = _endpoint if params.endpoint else _local
    answers = answer(asked, params, module.generation(params), job, work, runtime, progress)
    summary = tags.write(work, _rows(job, lambda one: (module.parse(answers[one.id], params), answers[one.id])))
    if 2 * summary["unread"] > summary["rows"]:
        shown = next(text for text in answers.values() if module.parse(text, params) is None)[:300]
        raise StageFailed(
            f"{summary['unread']:,} of {summary['rows']:,} answers could not be read as tags; one of them: {shown!r}. "
            "Take a model that follows the request, or another wording",
            stage=job.short,
        )
    return {**summary, "cut": sum(module.is_cut(example, params) for example in distinct.values())}


def _endpoint(
    asked: list[Any], params: Any, generation: Any, job: Job, work: Path, runtime: Runtime, progress: Progress
) -> dict[str, str]:
    from cuvee.engine import endpoint

    settings = endpoint.Settings(params.endpoint, generation["max_new_tokens"], generation["temperature"])
    found = endpoint.ask(asked, settings, work / endpoint.JOURNAL, progress)
    return {name: answer.text for name, answer in found.items()}


def _local(
    asked: list[Any], params: Any, generation: Any, job: Job, work: Path, runtime: Runtime, progress: Progress
) -> dict[str, str]:
    from cuvee import engine
    from cuvee.data.chat import Chat
    from cuvee.engine.decoding import Decoding, Prompt

    item = job.one("model")
    folder = Path(item.locate["path"]) if "path" in item.locate else item.folder / MODEL
    chat = Chat(folder, params.template)
    prompts = [Prompt(name, chat.prompt(messages)) for name, messages in asked]
    replies = engine.for_model(folder).generate(
        folder,
        prompts,
        Decoding(**generation),
        chat.stop_ids,
        runtime,
        progress,
        "float32",
        journal=work / "answers.jsonl",
    )
    return {name: chat.decode(reply.ids) for (name, _), reply in zip(asked, replies, strict=True)}
