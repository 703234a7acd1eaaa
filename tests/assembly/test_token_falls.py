"""With `tokens: true` a held-out loss keeps every token's text and loss, and `token_falls` reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cuvee as package
from cuvee import api, judging
from cuvee.data import token_texts
from cuvee.protocols import TokenRow
from cuvee.recipe import load
from cuvee.runtime import Runtime
from cuvee.store import Store
from tests.conftest import Cuvee

TINY = Path(package.__file__).parent / "builtin" / "tiny"
ASKED = (
    "runs=[{strategy: multi_task}]",
    "evaluation=[{heldout_loss: {items: 10, tokens: true}}]",
    "training.marks=[1/2]",
    "analyses=[token_falls]",
)


def test_every_supervised_token_is_kept_with_its_loss_and_text(place: Path, cuvee: Cuvee) -> None:
    done = cuvee("run", "r.yaml", *ASKED, "--report", "rep", "--json")
    assert json.loads(done.stdout)["failed"] == {}
    store = Store(place / ".cuvee")
    plan = api.plan(load(place / "r.yaml", list(ASKED)), Runtime(store=place / ".cuvee", workers=1, threads=1))
    for item in plan.evaluated:
        scored = judging.read_table(store.path("score", item.grade.one("answers").id) / "scores.parquet")
        graded = judging.read_table(store.path("grade", item.grade.id) / "results.parquet")
        assert [row["item"] for row in scored] == [row["item"] for row in graded]
        for row, copy in zip(scored, graded, strict=True):
            assert len(row["texts"]) == len(row["losses"]) == row["tokens"]
            assert sum(row["losses"]) == pytest.approx(row["nll"], rel=1e-5)
            assert (copy["texts"], copy["losses"]) == (row["texts"], row["losses"])
    text = (place / "rep" / "report.md").read_text(encoding="utf-8")
    assert "### Tokens whose loss falls most" in text
    assert "fall of rare" in text


def test_the_texts_are_those_of_the_supervised_tokens() -> None:
    tokenizer, _, _ = token_texts.load_tokenizer(TINY)
    ids = tokenizer.encode("What is 2 + 2? It is 4.", add_special_tokens=False).ids
    (texts,) = token_texts.supervised(TINY, [TokenRow(ids, [(0, 2), (5, len(ids))])])
    assert texts == [tokenizer.decode([one]) for one in [*ids[1:2], *ids[5:]]]
    assert "".join(texts[1:]) == tokenizer.decode(ids[5:])


def test_without_being_asked_nothing_more_is_kept(place: Path, cuvee: Cuvee) -> None:
    asked = [one.replace(", tokens: true", "") for one in ASKED]
    cuvee("run", "r.yaml", *asked, "--report", "rep")
    (folder, *_) = (place / ".cuvee" / "score").iterdir()
    assert set(judging.read_table(folder / "scores.parquet")[0]) == {"item", "nll", "tokens"}
    assert "keeps the loss of every token" in (place / "rep" / "report.md").read_text(encoding="utf-8")
