"""Rows of multiple-choice benchmarks in the layouts they are published in: a question, its choices, which are right.

    {question | query | goal | ctx ..., choices | options | endings: [...], gold | answer | label: 2 | "C" | a choice}
    {question | question_stem, choices: {text: [...], label: [...]}, answerKey: "C"}          ARC, OpenBookQA
    {question, A, B, C, D, answer: "C"}                                                       MMLU's CSV
    {goal | question, sol1, sol2, label}                                                      PIQA
    {sentence: "... _ ...", option1, option2, answer: "2"}                                    WinoGrande
    {context_options: [...], continuation, gold}                                              WinoGrande, llm-foundry
    {activity_label, ctx_a, ctx_b, endings, label}                                            HellaSwag
    {Question, Best Answer, Correct Answers, Incorrect Answers}                               TruthfulQA's CSV
    {question, mc1_targets, mc2_targets: {choices: [...], labels: [...]}}                     TruthfulQA on the hub
    {input, target}                                                                           BIG-Bench Hard

The result is one user turn: the question as its text, and beside it `choices`, `gold` (indices of the right ones, the
best first) and, where the row names one, its `group` (subject, task, category). They are part of the row's id: two
questions with equal words and other choices are two items. An index counts from 0.

Refused, with the reason: fewer than two choices, an empty choice, no right answer, one that is out of range, and a
text that is one choice and the index or letter of another (choices 1, 2, 3 with the answer "2"; labels and numbers
rule). Equal choices are kept; the evaluators count them. A task of BIG-Bench Hard without choices is left out by rule.
"""

from __future__ import annotations

import math
import os.path
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cuvee.data import turns
from cuvee.values import Message

QUESTIONS = ("question", "query", "goal", "question_stem", "ctx", "sentence", "prompt", "input")
CHOICES = ("choices", "options", "endings")
RIGHT = ("gold", "answer", "answerKey", "answer_index", "label", "target")
GROUPS = ("subject", "task", "category", "Category")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Columns = Mapping[str, str | Sequence[str]]


class NoItem(ValueError):
    """The row is none of the benchmark's items by the benchmark's own rule, which is no fault of the file."""


def read(raw: Mapping[str, Any], columns: Columns, repairs: list[str]) -> Message:
    """Return a row's question with `choices`, `gold` and `group`.

    Args:
        raw: the row.
        columns: the row's own names of ``question``, ``choices`` (one column with a list, or one column a choice),
            ``answer`` and ``group``; what is not named is found by looking.
        repairs: gets a sentence where a number stands for a text.

    Raises:
        NoItem: the row is left out by rule.
        ValueError: the row cannot be used; the text is the reason.
    """
    question, choices, gold = _columns(raw, columns, repairs) if columns else _special(raw, repairs)
    if len(choices) < 2:
        raise ValueError(f"{len(choices)} choice{'s' * (len(choices) != 1)}; a choice is between two or more")
    for place, choice in enumerate(choices):
        if not choice.strip():
            raise ValueError(f"choice {place} is empty")
    group = raw.get(str(columns["group"])) if "group" in columns else _value(raw, GROUPS)
    extra = {"choices": choices, "gold": gold, **({"group": str(group)} if group is not None else {})}
    return Message("user", question, extra)


Read = tuple[str, list[str], list[int]]


def _special(raw: Mapping[str, Any], repairs: list[str]) -> Read:
    """Return a row of a layout that only one benchmark has, else of the ordinary one."""
    if "context_options" in raw:
        return _foundry_winogrande(raw, repairs)
    if "option1" in raw:
        choices = [_text(raw[name], name, repairs) for name in ("option1", "option2")]
        return _text(raw.get("sentence"), "sentence", repairs), choices, [_one_based(raw.get("answer"))]
    if "sol1" in raw:
        choices = [_text(raw.get(name), name, repairs) for name in ("sol1", "sol2")]
        return _question(raw, repairs), choices, _right(raw.get("label"), choices, ())
    if "endings" in raw and "ctx_a" in raw:
        return _hellaswag(raw, repairs)
    if "Incorrect Answers" in raw:
        return _truthful_csv(raw)
    if "mc2_targets" in raw:
        return _truthful_hub(raw, repairs)
    if "input" in raw and "target" in raw and not any(name in raw for name in CHOICES):
        return _bbh(raw, repairs)
    return _columns(raw, {}, repairs)


def _columns(raw: Mapping[str, Any], columns: Columns, repairs: list[str]) -> Read:
    """Return a row with a question, choices and an answer each in a column, or one column a choice."""
    for field, names in columns.items():
        if field not in ("question", "choices", "answer", "group"):
            raise ValueError(f"columns may name question, choices, answer and group, and names {field!r}")
        for name in [names] if isinstance(names, str) else names:
            if name not in raw:
                raise ValueError(f"no column {name!r}")
    if "question" in columns:
        named = columns["question"]
        parts = [named] if isinstance(named, str) else named
        question = " ".join(_text(raw[name], f"column {name!r}", repairs) for name in parts)
    else:
        question = _question(raw, repairs)
    choices, labels = _choices(raw, columns.get("choices"), repairs)
    answer = raw[str(columns["answer"])] if "answer" in columns else _value(raw, RIGHT)
    return question, choices, _right(answer, choices, labels)


def _question(raw: Mapping[str, Any], repairs: list[str]) -> str:
    name = next((name for name in QUESTIONS if raw.get(name) is not None), "")
    if not name:
        raise ValueError(f"no {' or '.join(QUESTIONS)}")
    text = _text(raw[name], name, repairs)
    # llm-foundry's files hold a part of the prompt.
    return text.removeprefix("Question: ").removesuffix("\nAnswer:") if name == "query" else text


def _choices(
    raw: Mapping[str, Any], named: str | Sequence[str] | None, repairs: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Return choices, and what the row calls each of them."""
    if named is not None and not isinstance(named, str):
        return [_text(raw[name], name, repairs) for name in named], tuple(named)
    found = raw[named] if named is not None else _value(raw, CHOICES)
    if found is None and named is None:
        letters = [letter for letter in LETTERS if raw.get(letter) is not None]
        if "".join(letters) != LETTERS[: len(letters)] or not letters:
            raise ValueError(f"no {' or '.join(CHOICES)}, and no columns A, B, ...")
        return [_text(raw[letter], letter, repairs) for letter in letters], tuple(letters)
    labels: Any = ()
    if isinstance(found, Mapping) and "text" in found:
        found, labels = found["text"], found.get("label", ())
    if not isinstance(found, list | tuple):
        raise ValueError("the choices are no list")
    return [_text(one, f"choice {at}", repairs) for at, one in enumerate(found)], tuple(map(str, labels))


def _right(answer: Any, choices: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Return the index of the right choice, which may be given as an index, a label, a letter or its text."""
    if isinstance(answer, list | tuple) and answer:
        return [place for one in answer for place in _right(one, choices, labels)]
    if isinstance(answer, float) and math.isfinite(answer) and answer == int(answer):
        answer = int(answer)
    if isinstance(answer, bool) or not isinstance(answer, int | str) or answer == "":
        raise ValueError(f"no right answer ({answer!r})")
    text = str(answer).strip()
    if isinstance(answer, str) and text in labels:
        place = list(labels).index(text)
    elif re.fullmatch(r"-?\d+", text):
        place = int(text)
    elif len(text) == 1 and text in LETTERS:
        place = LETTERS.index(text)
    elif text in choices:
        place = list(choices).index(text)
    else:
        raise ValueError(f"the right answer {text[:40]!r} is none of the choices")
    if isinstance(answer, str) and text not in labels:
        _unambiguous(text, place, choices)
    if not 0 <= place < len(choices):
        raise ValueError(f"the right answer is number {place}, counted from 0, of {len(choices)} choices")
    return [place]


def _unambiguous(text: str, place: int, choices: Sequence[str]) -> None:
    """Refuse an answer that is the text of one choice and names another by its index or letter."""
    same = [at for at, choice in enumerate(choices) if choice.strip() == text]
    if len(same) == 1 and same[0] != place:
        raise ValueError(
            f"the right answer {text!r} is ambiguous: it is the text of choice {same[0]}, and as an index or letter it "
            f"names choice {place}, counted from 0; write the index as a number ({same[0]} or {place}), or give the "
            "choices labels: {text: [...], label: [...]}"
        )


def _one_based(answer: Any) -> int:
    if str(answer) not in ("1", "2"):
        raise ValueError(f"the right answer is {answer!r}, neither 1 nor 2")
    return int(answer) - 1


def _value(raw: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((raw[name] for name in names if raw.get(name) is not None), None)


def _text(value: Any, what: str, repairs: list[str]) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} is {value}, no text")
    return turns.question(value, what, repairs)


# ---------------------------------------------------------------------------------------- layouts of one benchmark


def _foundry_winogrande(raw: Mapping[str, Any], repairs: list[str]) -> Read:
    """Put the blank back: what the contexts have in common, up to a word's beginning, stands before it."""
    contexts = raw["context_options"]
    if not isinstance(contexts, list) or len(contexts) < 2:
        raise ValueError("context_options is no list of two or more")
    texts = [_text(one, "a context", repairs) for one in contexts]
    # Character by character is what is meant.
    before = os.path.commonprefix(texts).rpartition(" ")[0]  # noqa: RUF071
    before = before + " " if before else ""
    choices = [text[len(before) :] for text in texts]
    question = f"{before}_ {_text(raw.get('continuation'), 'continuation', repairs)}"
    return question, choices, _right(raw.get("gold"), choices, ())


_BRACKETS = re.compile(r"\[.*?\]")


def _hellaswag(raw: Mapping[str, Any], repairs: list[str]) -> Read:
    """Clean the texts as lm-evaluation-harness does (tasks/hellaswag/utils.py): marks of WikiHow are taken out."""

    def clean(text: str) -> str:
        return _BRACKETS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")

    parts = [_text(raw.get(name) or "", name, repairs) for name in ("activity_label", "ctx_a", "ctx_b")]
    question = clean(f"{parts[0]}: {parts[1]} {parts[2].capitalize()}")
    endings, labels = _choices(raw, "endings", repairs)
    choices = [clean(one) for one in endings]
    return question, choices, _right(raw.get("label"), choices, labels)


def _truthful_csv(raw: Mapping[str, Any]) -> Read:
    """Take the answers apart at semicolons, each ending with a full stop (TruthfulQA, utilities.py)."""
    texts = {name: raw.get(name) for name in ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")}
    for name, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"no {name}")
    best = _closed(str(texts["Best Answer"]))
    right = [best, *(one for one in _parts(str(texts["Correct Answers"])) if one != best)]
    choices = [*right, *_parts(str(texts["Incorrect Answers"]))]
    return str(texts["Question"]), choices, list(range(len(right)))


def _parts(text: str) -> list[str]:
    return [_closed(part) for part in text.split(";") if part.strip()]


def _closed(text: str) -> str:
    return text.strip() if text.strip().endswith(".") else f"{text.strip()}."


def _truthful_hub(raw: Mapping[str, Any], repairs: list[str]) -> Read:
    single, many = (_labelled(raw.get(name), name, repairs) for name in ("mc1_targets", "mc2_targets"))
    best = next(iter(single[1]), None)
    if best is None or not many[1]:
        raise ValueError("no right answer among the targets")
    right = [best, *(one for one in many[1] if one != best)]
    wrong = [one for one in many[0] if one not in many[1]]
    return _question(raw, repairs), [*right, *wrong], list(range(len(right)))


def _labelled(found: Any, name: str, repairs: list[str]) -> tuple[list[str], list[str]]:
    """Return all choices, and the right ones."""
    if not isinstance(found, Mapping) or not isinstance(found.get("choices"), list):
        raise ValueError(f"{name} has no choices")
    choices, labels = found["choices"], found.get("labels")
    if not isinstance(labels, list) or len(labels) != len(choices):
        raise ValueError(f"{name} has not one label a choice")
    texts = [_text(one, f"a choice of {name}", repairs) for one in choices]
    return texts, [text for text, label in zip(texts, labels, strict=True) if label == 1]


_LABELLED = re.compile(r"^\(([A-Z])\) ", re.MULTILINE)
_DASHED = re.compile(r"^- (.+?) *$", re.MULTILINE)
_PAIRS = (("False", "True"), ("No", "Yes"), ("no", "yes"), ("invalid", "valid"))
"""Answers of the tasks that list no options: boolean_expressions, web_of_lies, sports_understanding."""


def _bbh(raw: Mapping[str, Any], repairs: list[str]) -> Read:
    """Return the letters in brackets, the listed words, or the two words that the task's answers are.

    Raises:
        NoItem: the answer is to be written, as in word_sorting.
    """
    question = _text(raw["input"], "input", repairs)
    target = _text(raw["target"], "target", repairs).strip()
    _, listed, options = question.rpartition("Options:\n")
    letters = [f"({letter})" for letter in _LABELLED.findall(options)] if listed else []
    words = _DASHED.findall(options) if listed else []
    choices = letters or words or next((list(pair) for pair in _PAIRS if target in pair), [])
    if not choices:
        raise NoItem("the answer is no choice: it is to be written")
    if target not in choices:
        raise ValueError(f"the right answer {target[:40]!r} is none of the options {', '.join(choices)}")
    return question, choices, [choices.index(target)]
