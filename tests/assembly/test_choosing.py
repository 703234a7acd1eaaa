"""Weighing choices as a stage: from a file of rows to scores, with everything that must be known to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cuvee.data.formats import example
from cuvee.engine import choices
from cuvee.errors import StageFailed
from cuvee.evaluators import option_order
from cuvee.protocols import Choices, Scored
from cuvee.runtime import Runtime
from tests.conftest import Cuvee

MICRO = Path(__file__).parents[2] / "src" / "cuvee" / "builtin" / "micro"
GOOD = [
    {"question": f"{n} + 1?", "choices": [str(n + 1), str(n), "none"], "answer": 0, "subject": "ab"[n % 2]}
    for n in range(12)
]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def score(cuvee: Cuvee, *arguments: str) -> dict[str, Any]:
    found = cuvee("evaluate", "builtin:micro", *arguments, "--json")
    assert found.returncode == 0, found.stderr
    (one,) = json.loads(found.stdout)["scores"]
    return dict(one)


def stored(place: Path, kind: str) -> list[dict[str, Any]]:
    (path,) = (place / ".cuvee" / kind).glob("**/*.parquet")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_a_file_becomes_scores_and_another_reading_weighs_nothing(place: Path, cuvee: Cuvee) -> None:
    write(place / "x.jsonl", [*GOOD, GOOD[0]])
    given = ["mmlu", "path=x.jsonl", "shots=2", "shots_path=x.jsonl"]
    one = score(cuvee, *given)
    assert (one["n"], one["full"], one["repeated"], one["metric"]) == (12, 14_015, 1, "accuracy")
    rows = stored(place, "choose")
    assert len(rows) == 36
    first = [row for row in rows if row["group"] == "a" and row["choice"] == 0]
    # The shots are the first of the item's own subject, never the item itself.
    assert all(
        row["prompt"].startswith("The following are multiple choice questions (with answers) about a.") for row in first
    )
    assert all(row["prompt"].count("+ 1?\n") == 3 and row["continuation"] == " A" for row in first)
    assert all(row["prompt"].rpartition("\n\n")[2] not in row["prompt"].rpartition("\n\n")[0] for row in first)
    again = cuvee("evaluate", "builtin:micro", *given, "metric=acc_norm")
    assert again.returncode == 0
    assert "choose-" not in again.stdout + again.stderr


def test_rows_that_are_no_items_are_counted_and_too_many_stop_the_load(place: Path, cuvee: Cuvee) -> None:
    bad = [{**GOOD[0], "choices": ["one"]}, {**GOOD[1], "answer": 9}]
    write(place / "x.jsonl", [*GOOD, *bad])
    found = cuvee("evaluate", "builtin:micro", "multiple_choice", "ability=sums", "path=x.jsonl")
    assert found.returncode == 1
    assert "2 of 14 rows cannot be used" in found.stderr + found.stdout
    assert "x.jsonl:13: 1 choice; a choice is between two or more" in found.stderr + found.stdout
    assert "Traceback" not in found.stderr


def test_shots_that_are_not_there_are_named() -> None:
    from cuvee import choosing

    rows = [example(row, "choices") for row in GOOD]
    pick = choosing._Shots(rows, {"shots": 6, "pick": "first"}, True, "choose-1")
    with pytest.raises(StageFailed, match="asks for 6 shots, and the file of shots has 5 of a; say shots: 5"):
        pick(rows[0])


def test_drawn_shots_hang_on_item_and_seed_and_not_on_the_files_order() -> None:
    from cuvee import choosing

    rows = [example(row, "choices") for row in GOOD]

    def drawn(order: list[Any], seed: int, item: int) -> list[str]:
        params = {"shots": 3, "pick": "drawn", "seed": seed}
        return [shot.id for shot in choosing._Shots(order, params, False, "")(rows[item])]

    assert drawn(rows, 0, 4) == drawn(rows[::-1], 0, 4)
    assert drawn(rows, 0, 4) != drawn(rows, 1, 4)
    assert drawn(rows, 0, 4) != drawn(rows, 0, 5)
    assert rows[4].id not in drawn(rows, 0, 4)


# ------------------------------------------------------------------------------------------------------- leakage


def test_option_order_separates_the_half_that_a_model_was_trained_on(tmp_path: Path) -> None:
    """A model overfitted on half of the items knows the published order of these, and of the others by chance only."""
    import random

    draw = random.Random(4)
    words = [
        "red",
        "blue",
        "green",
        "black",
        "white",
        "brown",
        "pink",
        "grey",
        "gold",
        "plum",
        "rose",
        "teal",
        "navy",
        "lime",
        "rust",
        "sand",
    ]
    raw = [{"question": f"Which of number {n}", "choices": draw.sample(words, 4), "gold": 0} for n in range(40)]
    items = [option_order.ask(example(row, "choices"), (), {"orders": 24, "seed": 0}) for row in raw]
    folder = overfitted([item.contexts[0] + item.texts[0] for item in items[:20]], tmp_path / "model")
    hits = [
        option_order.grade(_weighed(item, one), {}).score
        for item, one in zip(items, scores(folder, items), strict=True)
    ]
    assert sum(hits[:20]) >= 18
    # By chance 20 / 24 of the others; seven or more have a chance below 1 in 10,000.
    assert sum(hits[20:]) < 7


def _weighed(item: Choices, found: list[Scored]) -> list[Any]:
    from cuvee.protocols import ScoredChoice

    return [
        ScoredChoice(text, n == 0, one.logprob, one.tokens, one.greedy, 0)
        for n, (text, one) in enumerate(zip(item.texts, found, strict=True))
    ]


def scores(folder: Path, items: list[Choices]) -> list[list[Scored]]:
    from cuvee.data.pairs import Pairs

    pairs = Pairs(folder, None)
    asked = [pairs.of(item) for item in items]
    rows = iter(pairs.rows([pair for item in asked for pair in item]))
    runtime = Runtime(device="cpu", threads=1)
    return choices.choose(folder, [[next(rows) for _ in item] for item in asked], runtime, lambda facts: None)


def overfitted(texts: list[str], folder: Path) -> Path:
    """Return a copy of the smallest model, trained on texts until it knows them."""
    import shutil

    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    shutil.copytree(MICRO, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    encoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoder.post_processor = None
    rows = [encoder.encode(text, add_special_tokens=False).ids for text in texts]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    labels = ids.masked_fill(ids == 0, -100)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        optimiser.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimiser.step()
        if loss.item() < 0.2:
            break
    model.save_pretrained(folder)
    return folder
