"""Published judgements, answers and prompts: our questions are the published ones, and so are our scores."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from cuvee import model_judge
from cuvee.evaluators import _judge, _verdicts, mt_bench
from cuvee.evaluators._verdicts import NoVerdict, first_line
from cuvee.protocols import Conversation, Judgement

pytestmark = pytest.mark.real

DATA = Path(os.environ.get("CUVEE_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"

SCORES = {"mistral-orpo-trl": (7.73125, 6.6, 7.165625), "mistral-orpo-mix": (6.43125, 5.575, 6.003125)}
"""Published means: first turn, second turn, all."""


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture
def judge() -> Path:
    if not (DATA / "judge").is_dir():
        pytest.skip(f"{DATA / 'judge'} is absent")
    return DATA / "judge"


def of(judge: Path, model: str) -> list[Conversation]:
    """Return a model's published answers as conversations."""
    asked = {row["question_id"]: row for row in rows(judge / "mt_bench_questions.jsonl.gz")}
    found = []
    for row in rows(judge / "mt_bench_model_answers_2models.jsonl.gz"):
        if row["model_id"] == model:
            question = asked[row["question_id"]]
            about = {"question_id": str(row["question_id"]), "category": question["category"]}
            replies = tuple(row["choices"][0]["turns"])
            item = str(row["question_id"])
            found.append(Conversation(item, json.dumps(about), tuple(question["turns"]), replies))
    return found


def judgements(judge: Path, model: str) -> list[Judgement]:
    """Return the published judgements of a model, those on one turn together."""
    published = [r for r in rows(judge / "mt_bench_gpt4_judgments_2models.jsonl.gz") if r["model"] == model]
    published.sort(key=lambda row: (row["question_id"], row["turn"]))
    return [
        Judgement(str(row["question_id"]), row["turn"], "", 0, row["judgment"], format="[[rating]]")
        for row in published
    ]


def params(judge: Path) -> tuple[mt_bench.Params, Mapping[str, Any], Mapping[str, Any]]:
    given = mt_bench.with_files(mt_bench.Params(path=str(judge), judge="gpt-4"), judge)
    return given, mt_bench.judge_params(given), mt_bench.judge_files(given)


def grades(judge: Path, model: str) -> Sequence[model_judge.Graded]:
    items = {one.item: (one.reference, one.item) for one in of(judge, model)}
    return model_judge.graded(mt_bench, items, judgements(judge, model), {"fallback": True})


@pytest.mark.parametrize("model", SCORES)
def test_the_judge_is_asked_what_gpt_4_was_asked_to_the_letter(judge: Path, model: str) -> None:
    _, decided, where = params(judge)
    asked = mt_bench.questions(of(judge, model), None, decided, where)
    ours = {(one.item, one.turn): one.messages[1].content for one in asked}
    published = [r for r in rows(judge / "mt_bench_gpt4_judgments_2models.jsonl.gz") if r["model"] == model]
    assert len(ours) == len(published) == 160
    differing = [r for r in published if ours[str(r["question_id"]), r["turn"]] != r["user_prompt"]]
    assert differing == []


@pytest.mark.parametrize(("model", "means"), SCORES.items())
def test_published_judgements_give_the_published_scores(
    judge: Path, model: str, means: tuple[float, float, float]
) -> None:
    found = grades(judge, model)
    by = model_judge.breakdown(found)
    assert [by["turn"][turn]["mean"] for turn in ("1", "2")] == pytest.approx(means[:2], abs=1e-12)
    assert model_judge._mean(found) == pytest.approx(means[2], abs=1e-12)
    assert [part["n"] for part in by["turn"].values()] == [80, 80]


@pytest.mark.parametrize("model", SCORES)
def test_every_published_rating_and_every_category_mean_is_found_again(judge: Path, model: str) -> None:
    published = [r for r in rows(judge / "mt_bench_gpt4_judgments_2models.jsonl.gz") if r["model"] == model]
    categories = {r["question_id"]: r["category"] for r in rows(judge / "mt_bench_questions.jsonl.gz")}
    by_category: dict[str, list[float]] = {}
    for row in published:
        by_category.setdefault(categories[row["question_id"]], []).append(row["score"])
    found = grades(judge, model)
    ours = {(one.item, one.turn): one.grade.score for one in found if one.grade}
    assert ours == {(str(r["question_id"]), r["turn"]): r["score"] for r in published}
    assert {name: part["mean"] for name, part in model_judge.breakdown(found)["category"].items()} == pytest.approx(
        {name: fmean(scores) for name, scores in by_category.items()}
    )
    assert Counter(len(scores) for scores in by_category.values()) == {20: 8}


def test_the_vicuna_reviews_give_the_published_totals_but_for_six_that_state_their_scores_otherwise(
    judge: Path,
) -> None:
    totals: dict[str, list[float]] = {}
    otherwise: list[tuple[str, int]] = []
    for row in rows(judge / "vicuna_blog_gpt4_reviews_2pairs.jsonl.gz"):
        try:
            scores = list(first_line(row["text"]))
        except NoVerdict:
            otherwise.append((row["pair"], row["question_id"]))
            scores = row["score"]  # as its authors took it from the text by hand
        assert scores == row["score"]
        total = totals.setdefault(row["pair"], [0.0, 0.0])
        total[:] = [total[0] + scores[0], total[1] + scores[1]]
    assert sorted(map(tuple, totals.values())) == [(583.0, 704.0), (693.0, 638.0)]
    # The three questions of mathematics, which were asked about in other words.
    assert sorted(otherwise) == [(pair, number) for pair in sorted(totals) for number in (68, 69, 70)]


def test_the_published_win_rates_of_alpaca_eval_follow_from_their_counts(judge: Path) -> None:
    table = rows(judge.parent / "knowledge" / "alpaca_eval2_leaderboard.jsonl.gz")
    differing = []
    for row in table:
        counts = {"win": int(row["n_wins"]), "tie": int(row["n_draws"]), "loss": int(row["n_wins_base"])}
        if abs(100 * _verdicts.win_rate(counts) - float(row["discrete_win_rate"])) > 1e-9:
            differing.append(row["model"])
    assert len(table) == 223
    # The one row whose published counts and rate disagree: 371 + 17 / 2 of 805 is no 40.19 %.
    assert differing == ["aligner-2b_gpt-4-turbo-2024-04-09"]


def test_published_answers_are_compared_in_both_orders_with_the_published_prompts(judge: Path) -> None:
    given = {"prompts": str(judge / "judge_prompts.jsonl.gz")}
    given |= {"references": str(judge / "mt_bench_reference_answers_gpt4.jsonl.gz")}
    decided = {name: _judge._content(name, path, "pair") for name, path in given.items()}
    decided |= {"with_reference": ["coding", "math", "reasoning"], "order": "both"}  # type: ignore[dict-item]
    first, second = of(judge, "mistral-orpo-trl"), of(judge, "mistral-orpo-mix")
    asked = _judge.Asker("pair", decided, given).questions(first, second)
    assert len(asked) == 80 * 2 * 2
    assert [one.failure for one in asked] == [""] * 320
    one = next(q for q in asked if q.item == "81" and q.turn == 1 and q.order == "BA")
    text = one.messages[1].content
    assert text.index(second[0].replies[0]) < text.index(first[0].replies[0])
