"""How often the rules hit on real data whose content is known; the bounds are what was measured, with some room."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cuvee.taggers import rules
from cuvee.values import Example, Message

pytestmark = pytest.mark.real

SHARED = Path(os.environ.get("CUVEE_SHARED", Path(__file__).parents[3] / "shared")) / "data"


def rows(name: str) -> Iterator[dict[str, Any]]:
    path = SHARED / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not at hand")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def talk(*turns: Any) -> Example:
    return Example(tuple(Message(("user", "assistant")[place % 2], str(turn)) for place, turn in enumerate(turns)))


def pairs(name: str, question: tuple[str, ...], answer: str) -> Iterator[Example]:
    for row in rows(name):
        yield talk("\n".join(str(row[key]) for key in question if row[key]), row[answer])


def share(examples: Iterator[Example], tag: str) -> float:
    found = [tag in rules.tags(example, rules.Params()) for example in examples]
    return sum(found) / len(found)


ALPACA = ("instruction", "input")


@pytest.mark.parametrize(
    ("name", "question", "answer", "tag", "least"),
    [
        ("math/gsm8k_train", ("question",), "answer", "math", 0.999),
        ("math/svamp_test", ("Body", "Question"), "Answer", "math", 0.98),
        ("math/mawps_test", ("input",), "target", "math", 0.95),
        ("math/asdiv_test", ("body", "question"), "answer", "math", 0.78),
        ("math/llm_adapters_math_cot_3k", ALPACA, "output", "math", 0.96),
        ("code/new_codealpaca", ALPACA, "response", "code", 0.99),
        ("code/code_alpaca_20k", ALPACA, "output", "code", 0.86),
        ("code/humaneval", ("prompt",), "canonical_solution", "code", 1.0),
        ("code/mbpp", ("text",), "code", "code", 0.999),
    ],
)
def test_most_of_what_is_code_or_mathematics_is_seen(
    name: str, question: tuple[str, ...], answer: str, tag: str, least: float
) -> None:
    assert share(pairs(name, question, answer), tag) >= least


def test_mathematics_is_not_taken_for_code() -> None:
    assert share(pairs("math/gsm8k_train", ("question",), "answer"), "code") < 0.001
    assert share(pairs("math/mawps_test", ("input",), "target"), "code") < 0.001


def test_booking_dialogues_and_small_talk_are_neither() -> None:
    dialogues = (talk(*(turn["utterance"] for turn in row["turns"])) for row in rows("chat/sgd_dialogues_train"))
    assert share(dialogues, "other") > 0.999


def test_rows_of_dolly_by_their_human_category() -> None:
    """No category is about code or mathematics: what is tagged so is a handful of questions."""
    found = Counter(
        (row["category"], tag)
        for row in rows("chat/dolly_3k")
        for tag in rules.tags(talk(f"{row['instruction']}\n{row['input']}", row["output"]), rules.Params())
    )
    positives = {key: count for key, count in found.items() if key[1] != "other"}
    assert 0 < sum(positives.values()) <= 15
    assert not any(category == "classification" for category, _ in positives)
