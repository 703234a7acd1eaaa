"""PIQA: which of two ways to reach a goal works, by the likelier text.

Bisk et al., arXiv 1911.11641. Prompt and readings as lm-evaluation-harness asks `piqa`.

    evaluation: [{piqa: {path: piqa.jsonl, metric: acc_norm}}]
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
ABILITY = "commonsense"
GROUPED = False
SOURCE = _choices.SOURCE

Params = _choices.Params
request_params, grade_params, grade = _choices.request_params, _choices.grade_params, _choices.grade


def size(params: Params) -> int:
    """Return how many items the validation set has."""
    return 1838


def ask(example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices:
    """Return the goal with the two ways to it."""
    return _choices.asked(example, shots, _choices.question_and_answer, _choices.choices)
