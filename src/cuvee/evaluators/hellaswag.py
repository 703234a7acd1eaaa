"""HellaSwag: how a scene goes on, by the likeliest of four endings.

Zellers et al., arXiv 1905.07830. Prompt and readings as lm-evaluation-harness asks `hellaswag`, texts cleaned as there;
the published reading is `acc_norm`.

    evaluation: [{hellaswag: {path: hellaswag_val.jsonl, metric: acc_norm}}]
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
    return 10_042


def ask(example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices:
    """Return the scene with its endings."""
    return _choices.asked(example, shots, _choices.question, _choices.choices)
