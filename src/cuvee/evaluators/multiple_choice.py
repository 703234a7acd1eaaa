"""Multiple choice: the likeliest of the given answers, for a benchmark file of any of the known layouts.

No paper: the reading of answers by likelihood is that of lm-evaluation-harness. `prompt` is the text before an answer;
`form` says what is weighed: the choices' own texts (``text``), or their letters after a list of them (``letter``). With
the defaults it asks as the harness asks ARC and PIQA; `prompt: "{question}\\n{choices}\\nAnswer:"` with `form: letter`
asks as it asks MMLU and CommonsenseQA.

    evaluation:
      - {multiple_choice: {path: arc_easy.jsonl, ability: science, metric: acc_norm}}
      - {multiple_choice: {path: exam.csv, ability: law, form: letter, shots: 5, shots_path: dev.csv,
                           columns: {question: q, choices: [a, b, c], answer: key}}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from cuvee.evaluators import _choices
from cuvee.protocols import Choices
from cuvee.values import Example

VERSION = 1
REQUEST_VERSION = 2
ANSWERS, METRIC, HIGHER_IS_BETTER = _choices.HEAD
GROUPED = False
SOURCE = _choices.SOURCE

QUESTION, LISTED = "Question: {question}\nAnswer:", "Question: {question}\n{choices}\nAnswer:"


class Params(_choices.Params):
    """Args:
    form: ``text`` weighs the choices, ``letter`` their letters.
    prompt: the text before an answer, with ``{question}`` and, for letters, ``{choices}``; by the form when absent.
    description: stands before the shots.
    grouped: whether shots are those of the item's own group.
    """

    form: Literal["text", "letter"] = "text"
    prompt: str | None = None
    description: str = ""
    grouped: bool = False

    @model_validator(mode="after")
    def _the_prompt_shows_what_is_asked(self) -> Params:
        text = self.wording
        if "{question}" not in text:
            raise ValueError(f"prompt {text!r} has no {{question}}")
        if self.form == "letter" and "{choices}" not in text:
            raise ValueError(f"prompt {text!r} has no {{choices}}, so that the letters stand for nothing")
        return self

    @property
    def wording(self) -> str:
        """The prompt as it is used."""
        return self.prompt if self.prompt is not None else {"text": QUESTION, "letter": LISTED}[self.form]


def request_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the scores of the choices."""
    own = {"form": params.form, "prompt": params.wording, "description": params.description}
    return {**_choices.request_params(params), **own, **({"grouped": params.grouped} if params.shots else {})}


grade_params, grade = _choices.grade_params, _choices.grade


def ask(example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices:
    """Return the question with its choices, or with their letters."""

    def prompt(row: Example) -> str:
        shown = {"question": _choices.question(row), "choices": _choices.lettered(row)}
        # Only the two names are put in: questions and prompts may hold braces of their own.
        parts = _parts(str(params["prompt"]))
        return "".join(shown[part] if at % 2 else part for at, part in enumerate(parts))

    answers = _choices.letters if params["form"] == "letter" else _choices.choices
    return _choices.asked(example, shots, prompt, answers, params["description"])


def _parts(text: str) -> list[str]:
    """Return a prompt cut at its two fields: what stands between them, and at odd places their names."""
    return re.split(r"\{(question|choices)\}", text)
