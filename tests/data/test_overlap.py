from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee import seeds
from cuvee.data import examples, exclusions, overlap, shingles
from cuvee.data.exclusions import Exclusion
from cuvee.data.texts import text_of
from cuvee.errors import RecipeError
from cuvee.values import Example, Message

Talk = Callable[..., Example]

QUESTION = "Anna has three red pens and buys four more of them at the shop. How many pens has she now?"
"""20 words: 13 n-grams of 8."""


def load(folder: Path, rows: Sequence[Example]) -> Path:
    folder.mkdir()
    examples.write(folder, rows, Fraction(0))
    return folder


def found(
    folder: Path, rows: Sequence[Example], items: Sequence[Example], **params: Any
) -> tuple[list[Exclusion], list[dict[str, Any]], dict[str, Any]]:
    with TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        summary = overlap.write(place, load(place / "source", rows), load(place / "items", items), params)
        return list(exclusions.read(place)), pq.read_table(place / overlap.ITEMS_FILE).to_pylist(), summary


# ----------------------------------------------------------------------------------------------- by definition

WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=12)


def words(example: Example, part: str) -> list[str]:
    return shingles.words(shingles.folded(text_of(example, part))).decode().split()


def grams(found: list[str], length: int, short: bool) -> set[tuple[str, ...]]:
    width = min(length, len(found)) if short else length
    return {tuple(found[at : at + width]) for at in range(len(found) - width + 1)}


def strongest(row: Example, item: Example, rule: overlap.Rule) -> tuple[int, float] | None:
    """The rule's definition for one row and one item: (place of the reason, similarity)."""
    prompt, whole, asked = words(row, "prompt"), words(row, "conversation"), words(item, "prompt")
    mine, theirs = grams(asked, rule.ngram, False), grams(whole, rule.ngram, False)
    one, other = (grams(each, 3, True) for each in (asked, prompt))
    jaccard = Fraction(len(one & other), len(one | other))
    if prompt == asked:
        return 0, 1.0
    if len(asked) >= rule.ngram and f" {' '.join(asked)} " in f" {' '.join(whole)} ":
        return 1, 1.0
    if len(mine & theirs) >= max(overlap.ALONE, rule.coverage * len(mine)):
        return 2, len(mine & theirs) / len(mine)
    return (3, float(jaccard)) if jaccard >= rule.near else None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6),
    st.lists(WORDS, min_size=1, max_size=6),
    st.sampled_from([2, 3, 4]),
    st.sampled_from(["1/4", "1/2", "1"]),
    st.sampled_from(["1/3", "4/5", "1"]),
)
def test_rows_and_items_are_hit_as_the_rule_says_of_each_pair(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[list[str], list[str]]],
    items: list[list[str]],
    ngram: int,
    coverage: str,
    near: str,
) -> None:
    source = [Example((Message("user", " ".join(q)), Message("assistant", " ".join(a)))) for q, a in rows]
    asked = [Example((Message("user", " ".join(q)), Message("assistant", "z"))) for q in items]
    rule = overlap.Rule(ngram, Fraction(coverage), Fraction(near))
    expected = {
        (row, item): (hit[0], -hit[1], item)
        for row, one in enumerate(source)
        for item, other in enumerate(asked)
        if (hit := strongest(one, other, rule))
    }
    lines, hits, summary = found(
        tmp_path_factory.mktemp("rule"), source, asked, ngram=ngram, coverage=coverage, near=near
    )
    best_of_row = {row: min(hit for (r, _), hit in expected.items() if r == row) for row, _ in expected}
    assert {line.row: (line.reason, line.other_row) for line in lines} == {
        row: (overlap.REASONS[rank], item) for row, (rank, _, item) in best_of_row.items()
    }
    assert [line.similarity for line in lines] == pytest.approx([-best_of_row[line.row][1] for line in lines])
    best_of_item = {item: min(hit for (_, i), hit in expected.items() if i == item) for _, item in expected}
    assert [(hit["row"], hit["reason"], hit["rows"], hit["first_row"]) for hit in hits] == [
        (
            item,
            overlap.REASONS[best_of_item[item][0]],
            sum(i == item for _, i in expected),
            min(row for row, i in expected if i == item),
        )
        for item in sorted(best_of_item)
    ]
    assert (summary["hit_rows"], summary["hit_items"]) == (len(lines), len(hits))
    assert summary["too_short"] == sum(len(item) < ngram for item in items)


# ------------------------------------------------------------------------------------------------------ claims


def test_a_planted_item_is_found_whole_in_part_and_reworded(tmp_path: Path, talk: Talk) -> None:
    rows = [
        talk("Something else.", "No."),
        talk(QUESTION.upper().replace("?", " ?"), "7", path="a.jsonl", line=2),
        talk("Read this.", "Sure.", "Here: " + QUESTION + " Think!", "7"),
        talk("Once more: " + QUESTION.replace("Anna", "Ben").replace("now", "today"), "7"),
    ]
    lines, items, summary = found(tmp_path, rows, [talk("Who?", "I."), talk(QUESTION, "7", path="t.jsonl", line=9)])
    assert [(line.row, line.reason, line.other_row) for line in lines] == [
        (1, "equal", 1),
        (2, "contained", 1),
        (3, "ngram", 1),
    ]
    assert lines[2].similarity == pytest.approx(11 / 13)
    (item,) = items
    assert (item["row"], item["reason"], item["rows"], item["first_row"]) == (1, "equal", 3, 1)
    shown = summary.pop("examples")
    assert (shown[0]["row"], shown[0]["item"], shown[0]["reason"]) == ("a.jsonl:2", "t.jsonl:9", "equal")
    assert (len(shown), shown[0]["item_text"]) == (3, QUESTION)
    assert summary == {
        "rows": 4,
        "hit_rows": 3,
        "items": 2,
        "hit_items": 1,
        "row_reasons": {"equal": 1, "contained": 1, "ngram": 1, "near": 0},
        "item_reasons": {"equal": 1, "contained": 0, "ngram": 0, "near": 0},
        "too_short": 1,
        "whole_only": 0,
    }


def test_a_common_beginning_is_no_reason_but_a_whole_short_item_is(tmp_path: Path, talk: Talk) -> None:
    item = talk("Write a function to find the area of a rectangle.", "x")
    rows = [
        talk("Write a function to find the area of a triangle.", "y"),
        talk("Please! Write a function to find the area of a rectangle. Use Python.", "z"),
    ]
    lines, _, summary = found(tmp_path, rows, [item])
    assert [(line.row, line.reason) for line in lines] == [(1, "contained")]
    assert summary["whole_only"] == 1


def test_items_too_short_for_an_ngram_are_hit_by_equal_prompts_only_and_counted(tmp_path: Path, talk: Talk) -> None:
    rows = [talk("What is two and two?", "4"), talk("She asked: what is two and two? Nobody knew that then.", "4")]
    lines, _, summary = found(tmp_path, rows, [talk("what is two and two", "4")])
    assert [(line.row, line.reason) for line in lines] == [(0, "equal")]
    assert summary["too_short"] == 1


def test_an_answer_that_holds_the_question_is_a_hit_and_a_system_turn_is_not_compared(
    tmp_path: Path, talk: Talk
) -> None:
    rows = [talk("Give me a puzzle.", QUESTION), talk("Give me another.", "No.", system=QUESTION)]
    lines, _, _ = found(tmp_path, rows, [talk(QUESTION, "7", system="Answer with a number and nothing else at all.")])
    assert [(line.row, line.reason) for line in lines] == [(0, "contained")]


def test_the_excerpt_shows_where_a_long_row_holds_the_item(tmp_path: Path, talk: Talk) -> None:
    row = talk("Read on.", "Filler and more filler. " * 200 + QUESTION + " The end of it." * 200)
    (line,), _, _ = found(tmp_path, [row], [talk(QUESTION, "7")])
    assert QUESTION in line.text
    assert len(line.text) <= exclusions.EXCERPT


def test_held_out_rows_of_the_source_are_not_looked_at(tmp_path: Path, talk: Talk) -> None:
    rows = [talk(f"{QUESTION} {number}", "7") for number in range(40)]
    held = [seeds.below(5, "heldout", row.prompt_key, Fraction(1, 2)) for row in rows]
    lines, _, summary = found(tmp_path, rows, [talk(QUESTION, "7")], heldout="1/2", split_seed=5)
    assert [line.row for line in lines] == [row for row in range(40) if not held[row]]
    assert summary["rows"] == 40 - sum(held)


def test_a_source_shows_where_its_own_held_out_rows_leak(tmp_path: Path, talk: Talk) -> None:
    rows = [talk(f"{QUESTION} {number}", "7") for number in range(40)]
    held = {row for row in range(40) if seeds.below(5, "heldout", rows[row].prompt_key, Fraction(1, 4))}
    folder = load(tmp_path / "both", rows)
    params = {"heldout": "1/4", "split_seed": 5, "items": "heldout"}
    summary = overlap.write(tmp_path, folder, folder, params)
    lines = list(exclusions.read(tmp_path))
    assert {line.other_row for line in lines} <= held
    assert {line.row for line in lines} == set(range(40)) - held
    assert (summary["items"], summary["hit_items"]) == (len(held), len(held))
    # Of a small source nothing may be held out: then there is nothing to find, and that is no fault.
    assert overlap.write(tmp_path, folder, folder, {"items": "heldout"})["items"] == 0
    assert list(exclusions.read(tmp_path)) == []


def test_many_batches_are_as_one(tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [talk(f"{QUESTION} {number % 9}", f"word {number % 4}") for number in range(50)]
    items = [talk(f"{QUESTION} {number}", "7") for number in range(9)]
    whole = found(tmp_path, rows, items)
    monkeypatch.setattr(shingles, "BYTES", 200)
    assert found(tmp_path, rows, items) == whole


@pytest.mark.parametrize(
    ("params", "key"),
    [({"ngram": 1}, "ngram"), ({"coverage": "0"}, "coverage"), ({"near": "2"}, "near"), ({"items": "some"}, "items")],
)
def test_impossible_parameters_are_refused(tmp_path: Path, params: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError, match=f"^{key}: .*possible"):
        overlap.write(tmp_path, tmp_path, tmp_path, params)
