"""ARC: questions of school science, by the likeliest of the answers' texts.

Clark et al., arXiv 1803.05457. Prompt and readings as lm-evaluation-harness asks `arc_easy` and `arc_challenge`; the
published reading of the challenge set is `acc_norm` with 25 shots, which are drawn there and cannot be the same here.

    evaluation:
      - {arc: {path: arc_easy.jsonl, part: easy, name: arc_easy}}
      - {arc: {path: arc_challenge.jsonl, metric: acc_norm}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cuvee.evaluators import _choices
from cuvee.protocols import Choices
from cuvee.values import Example

VERSION = 1
REQUEST_VERSION = 1
ANSWERS, METRIC, HIGHER_IS_BETTER = _choices.HEAD
ABILITY = "knowledge"
GROUPED = False
SOURCE = _choices.SOURCE

SIZES = {"easy": 2376, "challenge": 1172}
"""Items of the test sets."""


class Params(_choices.Params):
    """Args:
    part: which set the file is; a score over fewer items than it has says so.
    """

    part: Literal["easy", "challenge"] = "challenge"


request_params, grade_params, grade = _choices.request_params, _choices.grade_params, _choices.grade


def size(params: Params) -> int:
    """Return how many items the set has."""
    return SIZES[params.part]


def ask(example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices:
    """Return the question with its answers."""
    return _choices.asked(example, shots, _choices.question_and_answer, _choices.choices)
