"""MMLU: exam questions of 57 subjects with four choices, by the likeliest letter.

Hendrycks et al., arXiv 2009.03300. Prompt and reading as lm-evaluation-harness asks `mmlu` (tasks/mmlu/default): a
sentence names the subject, the shots are the first of the subject's own (`dev` of the release; published scores have
five), each choice stands in a line of its own, and the four letters are weighed.

    evaluation: [{mmlu: {path: mmlu_test.jsonl, shots: 5, shots_path: mmlu_dev.jsonl}}]

The score is the mean over all items, not over subjects. Of 14,042 rows 27 are equal to another of their subject; each
is asked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cuvee.evaluators import _choices
from cuvee.protocols import Choices
from cuvee.values import Example

VERSION = 1
REQUEST_VERSION = 1
ANSWERS, METRIC, HIGHER_IS_BETTER = _choices.HEAD
ABILITY = "knowledge"
GROUPED = True
SOURCE = _choices.SOURCE

DESCRIPTION = "The following are multiple choice questions (with answers)"

Params = _choices.Params
request_params, grade_params, grade = _choices.request_params, _choices.grade_params, _choices.grade


def size(params: Params) -> int:
    """Return how many different items the test set has."""
    return 14_015


def ask(example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices:
    """Return the question with its letters."""
    subject = _choices.group(example).replace("_", " ")
    about = f" about {subject}" if subject else ""
    return _choices.asked(example, shots, _prompt, _choices.letters, f"{DESCRIPTION}{about}.\n\n")


def _prompt(example: Example) -> str:
    return f"{_choices.question(example).strip()}\n{_choices.lettered(example)}\nAnswer:"
