"""BIG-Bench Hard where it is multiple choice: 23 of the 27 tasks, by the likeliest option.

Suzgun et al., arXiv 2210.09261. Prompt and reading as lm-evaluation-harness asks `leaderboard_bbh_*`: ``Q: ...``
and ``A:``, the options' letters in brackets (or words, where a task has words), `acc_norm`. Its three shots a task are
fixed there; here they are the first of the task in a file of yours, and its one sentence a task is left out. The four
tasks whose answers are to be written (dyck_languages, multistep_arithmetic_two, object_counting, word_sorting) are left
out and counted by the load. The paper itself lets the model write its answer, after a chain of thought.

    evaluation: [{bbh: {path: bbh.jsonl}}]
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
ABILITY = "reasoning"
GROUPED = True
SOURCE = _choices.SOURCE


class Params(_choices.Params):
    """The parameters of all multiple choice; the reading is the harness' one unless said otherwise."""

    metric: _choices.Metric = "acc_norm"


request_params, grade_params, grade = _choices.request_params, _choices.grade_params, _choices.grade


def ask(example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices:
    """Return the task with its options."""
    return _choices.asked(example, shots, _prompt, _choices.choices)


def _prompt(example: Example) -> str:
    return f"Q: {_choices.question(example)}\nA:"
