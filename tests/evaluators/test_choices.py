"""What each evaluator asks is what lm-evaluation-harness asks, word by word; scores by all readings."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cuvee import components
from cuvee.data import formats
from cuvee.errors import DataError, RecipeError
from cuvee.evaluators import _choices, option_order, winogrande
from cuvee.protocols import Choices, ScoredChoice
from cuvee.recipe import validate
from cuvee.values import Example

ROW = {"question": "2 + 2?", "choices": ["3", "four"], "gold": 1, "subject": "high_school_sums"}
SHOT = {"question": "1 + 1?", "choices": ["2", "one"], "gold": 0, "subject": "high_school_sums"}
HEAD = "The following are multiple choice questions (with answers) about high school sums.\n\n"


def example(raw: dict[str, Any]) -> Example:
    return formats.example(raw, "choices", path="x.jsonl", line=3)


def asked(name: str, raw: dict[str, Any], *shots: dict[str, Any], **given: Any) -> Choices:
    module = components.find("evaluators", name)
    more = {"shots": len(shots), "shots_path": "y"} if shots else {}
    params = module.request_params(module.Params(path="x", **more, **given))
    return module.ask(example(raw), [example(shot) for shot in shots], params)


def weighed(*logprobs: float, right: tuple[int, ...] = (0,), texts: tuple[str, ...] = ()) -> list[ScoredChoice]:
    names = texts or tuple("abcdefgh"[: len(logprobs)])
    return [ScoredChoice(names[n], n in right, value, 1, False, 0) for n, value in enumerate(logprobs)]


def test_mmlu_names_the_subject_shows_shots_with_their_letters_and_weighs_letters() -> None:
    found = asked("mmlu", ROW, SHOT)
    assert found.description == HEAD
    assert found.contexts == ("1 + 1?\nA. 2\nB. one\nAnswer: A\n\n2 + 2?\nA. 3\nB. four\nAnswer:",)
    assert (found.continuations, found.gold) == (("A", "B"), (1,))


def test_arc_and_piqa_weigh_the_texts_of_the_answers() -> None:
    found = asked("arc", ROW, SHOT)
    assert found.contexts == ("Question: 1 + 1?\nAnswer: 2\n\nQuestion: 2 + 2?\nAnswer:",)
    assert found.continuations == found.texts == ("3", "four")
    goal = {"goal": "Add.", "sol1": "one", "sol2": "two", "label": 0}
    assert asked("piqa", goal).contexts == ("Question: Add.\nAnswer:",)


def test_winogrande_weighs_what_follows_the_blank_after_each_option() -> None:
    raw = {"sentence": "Ann met Eve, so _ waved.", "option1": "Ann", "option2": "Eve", "answer": "2"}
    found = asked("winogrande", raw, raw)
    shot = "Ann met Eve, so Eve waved.\n\n"
    assert found.contexts == (f"{shot}Ann met Eve, so Ann", f"{shot}Ann met Eve, so Eve")
    assert (found.continuations, found.gold) == (("waved.",), (1,))


def test_winogrande_counts_no_equal_choices_as_both_options_have_the_text_that_is_weighed() -> None:
    scored = [ScoredChoice("waved.", n == 1, -2.0 + n, 1, False, 0) for n in range(2)]
    found = winogrande.grade(scored, {"metric": "acc"})
    assert found.score == 1.0
    assert found.extra["acc_norm"] is True
    assert "same" not in found.extra
    assert _choices.grade(scored, {"metric": "acc"}).extra["same"] == 1


@pytest.mark.parametrize(("sentence", "why"), [("No blank.", "has no blank"), ("It was _", "nothing stands after")])
def test_a_sentence_without_a_blank_is_no_item(sentence: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"x.jsonl:3: .*{why}"):
        asked("winogrande", {"sentence": sentence, "option1": "a", "option2": "b", "answer": "1"})


def test_bbh_asks_with_q_and_a_and_truthfulqa_after_its_own_questions() -> None:
    assert asked("bbh", {"input": "not True is", "target": "False"}).contexts == ("Q: not True is\nA:",)
    raw = {"Question": "Why?", "Best Answer": "So", "Correct Answers": "So; Thus", "Incorrect Answers": "No"}
    found = asked("truthfulqa", raw)
    assert found.contexts[0].startswith("Q: What is human life expectancy in the United States?\nA: Human")
    assert found.contexts[0].endswith("in Barcelona, Spain.\n\nQ: Why?\nA:")
    assert (found.continuations, found.gold) == (("So.", "Thus.", "No."), (0, 1))


def test_a_form_of_ones_own_may_hold_braces() -> None:
    found = asked("multiple_choice", ROW, form="letter", prompt="{x} {question}\n{choices}\n=", ability="sums")
    assert found.contexts == ("{x} 2 + 2?\nA. 3\nB. four\n=",)
    assert found.continuations == ("A", "B")


def test_a_form_of_ones_own_may_begin_with_the_name_of_a_field() -> None:
    found = asked("multiple_choice", ROW, prompt="question{question}choices{choices}", ability="sums")
    assert found.contexts == ("question2 + 2?choicesA. 3\nB. four",)


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("mmlu", {"shots": 5}, "shots: 5 need the file they come from"),
        ("mmlu", {"shots_path": "dev.jsonl"}, "of no use without shots"),
        ("arc", {"seed": 1}, "seed is for shots that are drawn"),
        ("multiple_choice", {"prompt": "Say:"}, "has no {question}"),
        ("multiple_choice", {"prompt": "{question}", "form": "letter"}, "has no {choices}"),
        ("truthfulqa", {"shots": 1, "shots_path": "x"}, "six questions of its own"),
        ("truthfulqa", {"metric": "acc"}, "say reading: mc2"),
    ],
)
def test_parameters_that_say_nothing_are_refused(name: str, given: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        validate(components.find("evaluators", name).Params, {"path": "x", **given})


def test_lengths_can_turn_the_choice_round() -> None:
    # By the sum b is ahead; by characters a; "éé" has two characters and four bytes.
    scored = weighed(-4.0, -3.0, texts=("éé", "b"))
    readings = {metric: _choices.grade(scored, {"metric": metric}) for metric in ("acc", "acc_norm", "acc_bytes")}
    assert {metric: grade.score for metric, grade in readings.items()} == {"acc": 0, "acc_norm": 1, "acc_bytes": 1}
    assert readings["acc"].extra | {"mass": 0} == {
        **{"acc": False, "acc_norm": True, "acc_bytes": True},
        **{"chosen": 1, "mass": 0, "same": 0, "context_cut": 0},
    }
    assert readings["acc"].extra["mass"] == pytest.approx(math.exp(-4) / (math.exp(-4) + math.exp(-3)))


def test_ties_go_to_the_first_and_equal_choices_are_counted() -> None:
    scored = weighed(-2.0, -1.0, -1.0, right=(2,), texts=("a", "b", "b"))
    assert (_choices.grade(scored, {"metric": "acc"}).score, _choices.counts(scored)["same"]) == (0.0, 1)


def test_a_log_probability_that_is_no_number_gives_no_score() -> None:
    assert math.isnan(_choices.grade(weighed(-1.0, math.nan), {"metric": "acc"}).score)
    assert _choices.grade(weighed(-math.inf, -math.inf), {"metric": "acc"}).score == 1.0


def test_truthfulqa_reads_the_best_answer_or_the_share_of_all_true_ones() -> None:
    module = components.find("evaluators", "truthfulqa")
    scored = weighed(-2.0, -1.0, -1.5, right=(0, 1))
    assert module.grade(scored, {"reading": "mc1"}).score == 0.0
    share = (math.exp(-2) + math.exp(-1)) / (math.exp(-2) + math.exp(-1) + math.exp(-1.5))
    assert module.grade(scored, {"reading": "mc2"}).score == pytest.approx(share)


# ---------------------------------------------------------------------------------------------- order of options


def test_all_orders_are_asked_once_the_published_one_first() -> None:
    raw = {"question": "Which?", "choices": ["w", "x", "y", "z"], "gold": 0}
    found = asked("option_order", raw)
    assert len(set(found.texts)) == 24
    assert (found.contexts, found.texts[0], found.delimiter) == (("Which?:\n",), "A:w\nB:x\nC:y\nD:z", "")


def test_more_orders_than_asked_for_are_drawn_by_the_item_alone() -> None:
    row = example({"question": "Which?", "choices": list("uvwxy"), "gold": 0})
    drawn = option_order.orders(row, 24, 0)
    assert (len(drawn), drawn[0]) == (24, (0, 1, 2, 3, 4))
    assert drawn == option_order.orders(row, 24, 0) != option_order.orders(row, 24, 1)


def test_the_published_order_is_first_or_not() -> None:
    assert option_order.grade(weighed(-1.0, -2.0, -3.0), {}).extra["rank"] == 0
    assert option_order.grade(weighed(-2.5, -2.0, -3.0), {}).extra["rank"] == 1
    broken = option_order.grade(weighed(-1.0, math.nan), {})
    assert math.isnan(broken.score)
    # One table holds both.
    assert broken.extra.keys() == option_order.grade(weighed(-1.0, -2.0), {}).extra.keys()


def test_ties_are_no_leak_more_often_than_chance() -> None:
    """All orders alike, as for equal options: first in about one of four."""
    first = sum(
        option_order.grade(weighed(*[-1.0] * 4, texts=(f"item {n}", "b", "c", "d")), {}).score for n in range(400)
    )
    assert 70 <= first <= 130


def test_what_stands_out_is_told_from_what_does_not() -> None:
    assert option_order.outlier([1.0, 1.0, 1.0]) == 0.0
    assert option_order.outlier([9.0, 1.0, 2.0, 3.0]) > 5 > option_order.outlier([4.0, 1.0, 2.0, 3.0])
