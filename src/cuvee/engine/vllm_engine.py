"""Answers by vLLM, behind the same call as our own loop. Only for those who have it: `pip install vllm`.

Each sample is a request with a seed of its own, so a draw hangs on seed, request id and sample number; vLLM's prefix
cache computes the prompt once. Its draws are not those of our loop: texts agree in distribution only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cuvee import seeds
from cuvee.engine import decoding
from cuvee.engine.decoding import Decoding, Prompt
from cuvee.engine.disk import Ticker
from cuvee.engine.replies import ReplyJournal, fingerprint
from cuvee.errors import ModelError, UsageError
from cuvee.protocols import Progress, Reply
from cuvee.runtime import Runtime

CHUNK = 1024
"""Requests handed over at once: what is finished reaches the journal after each chunk."""


def generate(
    model_folder: Path,
    prompts: Sequence[Prompt],
    settings: Decoding,
    stop_ids: Sequence[int],
    runtime: Runtime,
    progress: Progress,
    precision: str = "float32",
    *,
    journal: Path | None = None,
    references: Sequence[Sequence[int]] = (),
    ability: str = "",
) -> list[Reply]:
    """Return the answers to every prompt; arguments and order as in `generation.generate`.

    Raises:
        UsageError: vLLM is not installed.
        ModelError: vLLM cannot load the model.
        StageFailed: a prompt is empty, there twice, or leaves no room for an answer in the model's context.
    """
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise UsageError(
            f"generator vllm needs vllm, which cannot be imported ({error}); install it or use local"
        ) from None
    places = [(prompt, sample) for prompt in prompts for sample in range(settings.samples)]
    kept = ReplyJournal(journal, "vllm " + fingerprint(model_folder, precision, settings, stop_ids), progress)
    replies = {number: reply for number, place in enumerate(places) if (reply := kept.get(*place))}
    rest = [number for number in range(len(places)) if number not in replies]
    ticker = Ticker(progress, len(places))
    with closing(kept):
        if rest:
            model = _load(vllm, model_folder, precision)
            decoding.check(prompts, model.llm_engine.model_config.max_model_len)
        for at in range(0, len(rest), CHUNK):
            chunk = rest[at : at + CHUNK]
            written = _write(vllm, model, [places[number] for number in chunk], settings, stop_ids)
            for number, reply in zip(chunk, written, strict=True):
                replies[number] = reply
                kept.add(*places[number], reply)
                ticker.tick(len(replies), len(places[number][0].ids) + len(reply.ids))
    return [replies[number] for number in range(len(places))]


_held: dict[tuple[Any, str, str], Any] = {}
"""The last model: turns and temperatures of one benchmark are asked one after another."""


def _load(vllm: Any, folder: Path, precision: str) -> Any:
    key = (vllm, str(folder), precision)
    if key not in _held:
        _held.clear()
        _held[key] = _new(vllm, folder, precision)
    return _held[key]


def _new(vllm: Any, folder: Path, precision: str) -> Any:
    try:
        return vllm.LLM(
            model=str(folder),
            dtype=precision,
            skip_tokenizer_init=True,
            enable_prefix_caching=True,
            generation_config="vllm",  # not the folder's own penalties and temperature
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{folder}: vLLM cannot load it: {first}") from error


def _write(
    vllm: Any, model: Any, places: Sequence[tuple[Prompt, int]], settings: Decoding, stop_ids: Sequence[int]
) -> Iterator[Reply]:
    """Yield the answer to each (prompt, sample)."""
    how = [
        vllm.SamplingParams(
            max_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seeds.rank(settings.seed, "vllm", prompt.id.encode(), sample) >> 1,
            stop_token_ids=sorted(map(int, stop_ids)),
            ignore_eos=True,
            detokenize=False,
        )
        for prompt, sample in places
    ]
    asked = [{"prompt_token_ids": list(map(int, prompt.ids))} for prompt, _ in places]
    stops = frozenset(map(int, stop_ids))
    for result in model.generate(asked, how, use_tqdm=False):
        answer = result.outputs[0]
        ids = tuple(map(int, answer.token_ids))
        stopped = answer.finish_reason == "stop"
        yield Reply(ids[:-1] if stopped and ids[-1] in stops else ids, "stop" if stopped else "length")
