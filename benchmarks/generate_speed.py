"""Generation speed: cuvee's loop against transformers' own `generate` in padded batches, same prompts, one run.

    PYTHONPATH=src python benchmarks/generate_speed.py --model ~/.cache/cuvee/smollm2-135m-instruct \
        --prompts gsm8k_test.jsonl.gz --number 64 --new 128 --batches 8 16 32 64 --rounds 2 --threads 1
    PYTHONPATH=src python benchmarks/generate_speed.py --lengths random     # a random LLaMA of 12 million parameters
    ... --tokenizer ~/.cache/cuvee/smollm2-135m-instruct --prompts gsm8k_test.jsonl.gz    # the same, real questions

Each round runs everything once, one after another (A B A B). Transformers gets its prompts sorted by length, padded on
the left, at every batch size asked for; the ratio is against the best of them. Counted are the tokens of the answers,
stop tokens included, over all seconds from prompts to answers, prefill included; loading is not.

--lengths natural: answers end at their stop token or after --new tokens. equal: prompts are cut to one length and
answers all have --new tokens. random: every answer has its own length, uniform between 1/8 and 15/8 of --new, and
transformers runs each batch to its longest.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from cuvee.data.chat import Chat
from cuvee.engine import generation, loading
from cuvee.engine.answer import Row
from cuvee.engine.columns import by_column
from cuvee.engine.decoding import Decoding, Prompt
from cuvee.values import Message

Answers = dict[str, list[int]]

VOCABULARY = 4096
"""Of the random model when it is asked random prompts."""


@dataclass(frozen=True)
class Work:
    """What is to be written: prompts, the most tokens of each answer, and what ends one."""

    prompts: Sequence[Prompt]
    limits: Sequence[int]
    stops: Sequence[int]


def questions(path: Path, folder: Path, number: int) -> tuple[list[Prompt], list[int]]:
    """Return the first questions of a JSON lines file as chat prompts, and the template's stop tokens."""
    chat = Chat(folder)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        asked = [json.loads(line)["question"] for line, _ in zip(lines, range(number), strict=False)]
    prompts = [Prompt(str(i), chat.prompt([Message("user", text)])) for i, text in enumerate(asked)]
    return prompts, list(chat.stop_ids)


def random_prompts(number: int, vocabulary: int) -> list[Prompt]:
    """Return prompts of random tokens, about as long as GSM8K's."""
    draw = random.Random(3)
    lengths = [max(40, min(220, int(draw.gauss(95, 35)))) for _ in range(number)]
    return [Prompt(str(i), [1] + [draw.randrange(300, vocabulary) for _ in range(n)]) for i, n in enumerate(lengths)]


def random_model(folder: Path, vocabulary: int) -> None:
    """Save a random LLaMA of 11 million parameters besides its embeddings."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        pad_token_id=0,
        tie_word_embeddings=vocabulary > VOCABULARY,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)


def cuvee(loaded: loading.Loaded, work: Work) -> Answers:
    """Write the answers with our loop as `generation.generate` does, each up to its own limit."""
    settings, stops = Decoding(max(work.limits)), frozenset(work.stops)
    rows = [
        Row(i, prompt, 0, settings, stops, limit)
        for i, (prompt, limit) in enumerate(zip(work.prompts, work.limits, strict=True))
    ]
    rows.sort(key=lambda row: -len(row.prompt.ids))
    with by_column(loaded.model, len(rows)):
        written = generation._answers(loaded, rows, settings, 4096, lambda facts: None)
        return {row.prompt.id: row.ids for row in written}


def transformers(loaded: loading.Loaded, work: Work, batch: int) -> Answers:
    """Write the answers with transformers in batches padded on the left."""
    loaded.use("single")
    order = sorted(range(len(work.prompts)), key=lambda i: len(work.prompts[i].ids))
    answers: Answers = {}
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        longest = max(len(work.prompts[i].ids) for i in chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            prompt = torch.tensor(list(work.prompts[i].ids))
            ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
        loaded.model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call,unused-ignore]
            max_new_tokens=max(work.limits[i] for i in chosen),
            do_sample=False,
            eos_token_id=list(work.stops) or None,
            pad_token_id=0,
        )
        found = loaded.model.generate(ids, attention_mask=mask)[:, longest:].tolist()
        for i, tokens in zip(chosen, found, strict=True):
            answers[work.prompts[i].id] = cut(tokens[: work.limits[i]], work.stops)
    return answers


def cut(tokens: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Return the tokens before the first stop token."""
    end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
    return list(tokens[:end])


def timed(write: Callable[[], Answers], work: Work) -> tuple[float, float, Answers]:
    """Return tokens a second, tokens a processor second, and the answers."""
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        answers = write()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = sum(min(len(answers[p.id]) + 1, limit) for p, limit in zip(work.prompts, work.limits, strict=True))
    return tokens / wall, tokens / cpu, answers


def make_work(options: argparse.Namespace, folder: Path) -> Work:
    """Return what the options ask for; see the head of this file."""
    prompts, stops = random_prompts(options.number, VOCABULARY), list[int]()
    if options.prompts:
        prompts, stops = questions(options.prompts, options.model or options.tokenizer, options.number)
    if options.model is None:
        random_model(folder, Chat(options.tokenizer).tokenizer.get_vocab_size() if options.tokenizer else VOCABULARY)
    limits, draw = [options.new] * len(prompts), random.Random(4)
    if options.lengths == "random":
        limits, stops = [draw.randrange(options.new // 8, options.new * 15 // 8) for _ in prompts], []
    if options.lengths == "equal":
        short = min(len(p.ids) for p in prompts)
        prompts, stops = [Prompt(p.id, p.ids[-short:]) for p in prompts], []
    return Work(prompts, limits, stops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder; without, a random one is made")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer and template for the random model")
    parser.add_argument("--prompts", type=Path, help="JSON lines, gzip, with the field question")
    parser.add_argument("--number", type=int, default=64)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--lengths", choices=("natural", "equal", "random"), default="natural")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model or Path(temporary) / "model"
        work = make_work(options, folder)
        loaded = loading.load(folder, "float32", torch.device("cpu"))
        ways: dict[str, Callable[[], Answers]] = {"cuvee": lambda: cuvee(loaded, work)}
        for batch in options.batches:
            ways[f"transformers {batch}"] = lambda batch=batch: transformers(loaded, work, batch)  # type: ignore[misc]
        speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        texts: dict[str, Answers] = {}
        for _ in range(options.rounds):
            for name, write in ways.items():
                wall, cpu, texts[name] = timed(write, work)
                speeds[name].append((wall, cpu))
                print(f"{name:16} {wall:8.1f} tokens/s {cpu:8.1f} tokens/CPU s", flush=True)
    report(speeds, texts)


def report(speeds: dict[str, list[tuple[float, float]]], texts: dict[str, Answers]) -> None:
    """Print medians, the ratios to the best batch size, and how many texts differ from ours."""
    for column, unit in enumerate(("tokens/s", "tokens/CPU s")):
        middle = {name: statistics.median(pair[column] for pair in pairs) for name, pairs in speeds.items()}
        peers = {name: value for name, value in middle.items() if name != "cuvee"}
        best = max(peers, key=peers.__getitem__)
        ratios = [a[column] / b[column] for a, b in zip(speeds["cuvee"], speeds[best], strict=True)]
        print(
            f"{unit}: cuvee {middle['cuvee']:.1f}, best peer {best} {middle[best]:.1f}: "
            f"{middle['cuvee'] / middle[best]:.2f}x [{min(ratios):.2f}..{max(ratios):.2f} over rounds]"
        )
    for name, answers in texts.items():
        differing = sum(answers[i] != texts["cuvee"][i] for i in answers)
        if name != "cuvee":
            print(f"{name}: {differing} of {len(answers)} texts differ from cuvee's")
    lengths = sorted(map(len, texts["cuvee"].values()))
    print(f"answers: {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}")


if __name__ == "__main__":
    main()
