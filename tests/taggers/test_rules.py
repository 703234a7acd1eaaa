from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.taggers import rules
from cuvee.values import Example, Message


def tags(prompt: str, answer: str = "Yes.", *more: str) -> tuple[str, ...]:
    turns = (prompt, answer, *more)
    messages = tuple(Message(("user", "assistant")[place % 2], turn) for place, turn in enumerate(turns))
    return rules.tags(Example(messages), rules.Params())


@pytest.mark.parametrize(
    "answer",
    [
        "Sure:\n```python\nx = [1]\n```",
        "def add(a, b):\n    return a + b",
        "class Node:\n    pass",
        "import numpy as np",
        "#include <stdio.h>",
        "public static void main(String[] args) {",
        "function add(a, b) {\n  return a + b;\n}",
        "const add = (a, b) => { return a + b; };",
        "console.log('hi');",
        "SELECT name FROM users WHERE age > 3",
        "<div><p>hi</p></div>",
        "for (int i = 0; i < n; i++) {",
        "while not done:\n    step()",
        ".item {\n  color: red;\n}",
        "Run\n$ sudo apt install nginx",
        "Traceback (most recent call last):\n  ...",
    ],
)
def test_code_in_an_answer_is_seen(answer: str) -> None:
    assert tags("Help me.", answer) == ("code",)


@pytest.mark.parametrize(
    "prompt",
    [
        "Write a function that reverses a list.",
        "How do I read a file in Python?",
        "Fix the following code.",
        "Create a regular expression for dates.",
        "Explain how a linked list works.",
        "Write me a shell script please",
    ],
)
def test_a_request_for_code_is_seen(prompt: str) -> None:
    assert tags(prompt) == ("code",)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Ann has 3 apples and buys 2 more. How many apples has she?", "5"),
        ("Natalia sold clips.", "She sold 48/2 = <<48/2=24>>24.\n#### 24"),
        ("How big is it?", "It is 12 * 3 = 36."),
        ("Go on.", r"Hence \frac{a}{b}."),
        ("Solve for x: 2x + 3 = 9", "3"),
        ("What is the area of a circle with radius 4?", "About 50."),
        ("Calculate the mean of 3, 4 and 8.", "5"),
        ("Prove that the square root of 2 is irrational.", "Suppose not."),
        ("What is 7 times 6?", "42"),
        ("What's 15% of 80?", "12"),
    ],
)
def test_mathematics_is_seen(prompt: str, answer: str) -> None:
    assert tags(prompt, answer) == ("math",)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Give three tips for staying healthy.", "1. Eat well.\n2. Sleep 8 hours.\n3. Move."),
        ("Write a script for a short film.", "INT. KITCHEN - NIGHT"),
        ("What is our code of conduct?", "Be kind."),
        ("Which class shall I take?", "Take the class on Greek history: it is fun."),
        ("How many people live in Bonn?", "About 330,000 in 2020."),
        ("How old is the church that was built in 1250 and rebuilt in 1890?", "It is old."),
        ("Hi, I was born on 1990-05-15. How old am I?", "33."),
        ("Design a training program to lose weight.", "Week 1: run."),
        ("Draw a table.", "```\nA | B\n```"),
        ("Make a word search.", "```css\nN E L T A\nA E L A S\n```"),
        ("What is the difference between Quest 2 and Quest 3?", "The screen."),
        ("Select the best from these: apple, pear", "apple"),
        ("What should I import from France?", "Import wine from France."),
    ],
)
def test_what_only_looks_like_code_or_mathematics_is_other(prompt: str, answer: str) -> None:
    assert tags(prompt, answer) == ("other",)


def test_an_example_can_be_both() -> None:
    assert tags("Write a Python function.", "def area(r):\n    # 3 * 4 = 12\n    return r") == ("code", "math")


def test_every_turn_is_looked_at() -> None:
    assert tags("Hi", "Hello", "And now?", "def f(x):\n    return x") == ("code",)


def test_a_long_text_with_figures_and_a_question_is_no_word_problem() -> None:
    text = "The city has 3 rivers and 12 bridges. " * 30
    assert tags(text + "How many bridges are there?", "12") == ("other",)


def test_hits_show_what_gave_the_tag() -> None:
    example = Example((Message("user", "Sum?"), Message("assistant", "It is 1 + 2 = 3.")))
    assert list(rules.hits(example, "math")) == ["1 + 2 = 3"]
    assert list(rules.hits(example, "code")) == []


@given(st.text(max_size=400), st.text(max_size=400))
def test_any_text_has_one_of_the_stated_tags(prompt: str, answer: str) -> None:
    assert tags(prompt, answer) in {("code",), ("math",), ("code", "math"), ("other",)}


@pytest.mark.parametrize(
    "unit",
    ["SELECT a ", "1-", "1 + 1 ", "{ ", "x = ", "for x in a ", "```python\n", "\n", "how many ", "write a ", "a.b."],
)
def test_no_text_takes_long(unit: str) -> None:
    text = unit * (50_000 // len(unit))
    start = time.process_time()
    tags(text, text)
    assert time.process_time() - start < 2
