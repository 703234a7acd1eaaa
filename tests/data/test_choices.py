"""Every published layout gives question, choices and right ones; what is no item is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cuvee.data import formats
from cuvee.data.turns import LeftOut
from cuvee.errors import DataError
from cuvee.values import BadRow, Example

LAYOUTS: dict[str, tuple[dict[str, Any], tuple[str, list[str], list[int]]]] = {
    "foundry": ({"query": "Question: 2+2?", "choices": ["3", "4"], "gold": 1}, ("2+2?", ["3", "4"], [1])),
    "arc": (
        {"question": "2+2?", "choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"},
        ("2+2?", ["3", "4"], [1]),
    ),
    "mmlu csv": ({"question": "2+2?", "A": "3", "B": "4", "answer": "B", "subject": "sums"}, ("2+2?", ["3", "4"], [1])),
    "mmlu hub": ({"question": "2+2?", "choices": ["3", "4"], "answer": 1}, ("2+2?", ["3", "4"], [1])),
    "piqa": ({"goal": "Add.", "sol1": "one", "sol2": "two", "label": 0}, ("Add.", ["one", "two"], [0])),
    "winogrande": (
        {"sentence": "Ann met Eve, so _ waved.", "option1": "Ann", "option2": "Eve", "answer": "2"},
        ("Ann met Eve, so _ waved.", ["Ann", "Eve"], [1]),
    ),
    "foundry winogrande": (
        {"context_options": ["Ann met Eva, so Ann", "Ann met Eva, so Eva"], "continuation": "waved.", "gold": 1},
        ("Ann met Eva, so _ waved.", ["Ann", "Eva"], [1]),
    ),
    "hellaswag": (
        {"activity_label": "Tea", "ctx_a": "Water [x] boils.", "ctx_b": "a cup", "endings": ["is [title] hot", "runs"]}
        | {"label": "0"},
        ("Tea: Water boils. A cup", ["is. hot", "runs"], [0]),
    ),
    "truthful csv": (
        {"Question": "Why?", "Best Answer": "So", "Correct Answers": "So; Thus.", "Incorrect Answers": "No; Never"},
        ("Why?", ["So.", "Thus.", "No.", "Never."], [0, 1]),
    ),
    "truthful hub": (
        {
            "question": "Why?",
            "mc1_targets": {"choices": ["Thus", "No"], "labels": [1, 0]},
            "mc2_targets": {"choices": ["So", "Thus", "No"], "labels": [1, 1, 0]},
        },
        ("Why?", ["Thus", "So", "No"], [0, 1]),
    ),
    "bbh letters": (
        {"input": "Which?\nOptions:\n(A) one\n(B) two", "target": "(B)"},
        ("Which?\nOptions:\n(A) one\n(B) two", ["(A)", "(B)"], [1]),
    ),
    "bbh words": (
        {"input": "Is it?\nOptions:\n- valid \n- invalid", "target": "invalid"},
        ("Is it?\nOptions:\n- valid \n- invalid", ["valid", "invalid"], [1]),
    ),
    "bbh without options": ({"input": "not True is", "target": "False"}, ("not True is", ["False", "True"], [0])),
}


def told(raw: dict[str, Any], **more: Any) -> tuple[str, list[str], list[int]]:
    message = formats.example(raw, "choices", **more).messages[0]
    return message.content, message.extra["choices"], message.extra["gold"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_published_layout_is_read(name: str) -> None:
    raw, wanted = LAYOUTS[name]
    assert told(raw) == wanted


@pytest.mark.parametrize(
    ("choices", "answer", "text", "index"),
    [(["1", "2", "3", "4"], "2", 1, 2), (["B", "A"], "A", 1, 0), (["3", " 4"], "4", 1, 4), ([1, 2, 3], "1", 0, 1)],
)
def test_a_text_that_is_one_choice_and_the_index_or_letter_of_another_is_refused(
    choices: list[Any], answer: str, text: int, index: int
) -> None:
    why = rf"'{answer}' is ambiguous: .* text of choice {text}, .* names choice {index}.*as a number .*label"
    with pytest.raises(ValueError, match=why):
        told({"question": "Which?", "choices": choices, "answer": answer})


def test_what_can_be_read_in_one_way_only_is_read_so() -> None:
    def right(choices: Any, answer: Any) -> list[int]:
        return told({"question": "Which?", "choices": choices, "answer": answer})[2]

    assert right(["1", "2", "3"], 2) == [2]
    assert right(["0", "1", "2"], "2") == [2]
    assert right(["A", "B"], "B") == [1]
    assert right({"text": ["B", "A"], "label": ["A", "B"]}, "A") == [0]
    assert right({"text": ["2", "1"], "label": ["1", "2"]}, "2") == [1]
    assert right(["2", "2", "x"], "1") == [1]


def test_columns_may_be_named() -> None:
    raw = {"q": "2+2?", "x": "3", "y": "4", "key": "y", "topic": "sums"}
    columns = {"question": "q", "choices": ["x", "y"], "answer": "key", "group": "topic"}
    assert told(raw, columns=columns) == ("2+2?", ["3", "4"], [1])
    assert formats.example(raw, "choices", columns=columns).messages[0].extra["group"] == "sums"
    with pytest.raises(ValueError, match="no column 'z'"):
        told(raw, columns={**columns, "choices": ["x", "z"]})


def test_equal_questions_with_other_choices_are_two_items() -> None:
    one, other = ({"question": "Which is true?", "choices": [text, "none"], "gold": 0} for text in ("a", "b"))
    assert formats.example(one, "choices").id != formats.example(other, "choices").id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choices": ["4"], "gold": 0}, "1 choice; a choice is between two or more"),
        ({"choices": []}, "0 choices"),
        ({"gold": 2}, "the right answer is number 2, counted from 0, of 2 choices"),
        ({"gold": -1}, "number -1"),
        ({"gold": "C"}, "number 2"),
        ({"gold": "five"}, "'five' is none of the choices"),
        ({"gold": None}, "no right answer"),
        ({"gold": ""}, "no right answer"),
        ({"gold": True}, "no right answer"),
        ({"gold": float("nan")}, "no right answer"),
        ({"choices": ["3", "  "]}, "choice 1 is empty"),
        ({"choices": ["3", float("nan")]}, "choice 1 is nan"),
        ({"choices": ["3", None]}, "choice 1"),
        ({"choices": "3, 4"}, "the choices are no list"),
        ({"choices": None}, "no choices or options or endings"),
        ({"question": None}, "no question or query"),
        ({"question": " "}, "an empty user turn"),
        ({"choices": ["3", "\ud800"]}, "broken Unicode"),
    ],
)
def test_what_is_no_item_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    raw = {"question": "2+2?", "choices": ["3", "4"], "gold": 1, **change}
    (row,) = formats.examples([(7, raw)], "choices", path="x.jsonl")
    assert isinstance(row, BadRow)
    assert reason in row.reason
    assert (row.path, row.line) == ("x.jsonl", 7)


def test_a_task_without_choices_is_left_out_by_rule_and_no_bad_row() -> None:
    rows = list(formats.examples([(1, {"input": "Sort: b a", "target": "a b"})], "choices"))
    assert [type(row) for row in rows] == [LeftOut]


def test_nobody_trains_on_choices() -> None:
    assert formats.known("choices", questions=True) == "choices"
    with pytest.raises(DataError, match="the format choices has no answers to train on"):
        formats.known("choices")


@pytest.mark.real
@pytest.mark.parametrize(
    ("file", "items", "left"),
    [
        ("arc_easy", 2376, 0),
        ("arc_challenge", 1172, 0),
        ("piqa", 1838, 0),
        ("winogrande", 1267, 0),
        ("truthfulqa", 817, 0),
        ("commonsense_qa", 1221, 0),
        ("mmlu_test", 14042, 0),
        ("bbh", 5507, 1000),
    ],
)
def test_the_published_files_are_read_whole(shared: Path, file: str, items: int, left: int) -> None:
    import gzip
    import json

    with gzip.open(shared / "data" / "knowledge" / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = list(formats.examples(enumerate(map(json.loads, lines), 1), "choices"))
    assert sum(isinstance(row, Example) for row in rows) == items
    assert sum(isinstance(row, LeftOut) for row in rows) == left
