"""GSM8K questions to a real pretrained model: texts equal transformers' one by one. `make smollm2` first."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from cuvee.data.chat import Chat  # noqa: E402
from cuvee.engine import generation, loading  # noqa: E402
from cuvee.engine.decoding import Decoding, Prompt  # noqa: E402
from cuvee.values import Message  # noqa: E402

from .conftest import RUNTIME, silent  # noqa: E402

pytestmark = pytest.mark.real

FOLDER = Path(os.environ.get("CUVEE_HOME") or Path.home() / ".cache" / "cuvee") / "smollm2-135m-instruct"
QUESTIONS = Path(__file__).parents[3] / "shared" / "data" / "math" / "gsm8k_test.jsonl.gz"
NUMBER, NEW = 8, 32


def margin(model: object, prompt: list[int], written: list[int]) -> float:
    """Return the difference between the two largest logits after prompt and what is written."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *written]])).logits[0, -1]  # type: ignore[operator]
    first, second = logits.topk(2).values.tolist()
    return float(first - second)


def test_greedy_texts_equal_transformers_own_but_for_ties() -> None:
    if not QUESTIONS.is_file():
        pytest.skip(f"{QUESTIONS} is not there")
    if not (FOLDER / "config.json").is_file():
        pytest.skip(f"{FOLDER} is not there: make smollm2")
    chat = Chat(FOLDER)
    with gzip.open(QUESTIONS, "rt", encoding="utf-8") as lines:
        asked = [json.loads(line)["question"] for line, _ in zip(lines, range(NUMBER), strict=False)]
    prompts = [Prompt(str(i), chat.prompt([Message("user", text)])) for i, text in enumerate(asked)]
    replies = generation.generate(FOLDER, prompts, Decoding(NEW), chat.stop_ids, RUNTIME, silent)
    loaded = loading.cached(FOLDER, "float32", torch.device("cpu"))
    loaded.use("single")
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([list(prompt.ids)])
        found = loaded.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=list(chat.stop_ids),
        )[0, len(prompt.ids) :].tolist()
        own = list(reply.ids) + [None] * (reply.finish == "stop")
        at = next((i for i, (a, b) in enumerate(zip(own, found, strict=False)) if a != b and a is not None), None)
        assert at is None or margin(loaded.model, list(prompt.ids), found[:at]) < 1e-3
