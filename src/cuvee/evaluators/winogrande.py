"""WinoGrande: what a pronoun's blank stands for, by partial scoring.

Sakaguchi et al., arXiv 1907.10641. Each option is put into the blank, and what is weighed is the same for both: the
text after the blank (partial scoring, Trinh and Le, arXiv 1806.02847). Prompt as lm-evaluation-harness asks
`winogrande`: the sentence up to and with the option, nothing else; in shots the right sentence is whole.

    evaluation: [{winogrande: {path: winogrande.jsonl}}]

The text weighed is the same for all choices of an item, so that normalised readings choose what the plain one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cuvee.errors import DataError
from cuvee.evaluators import _choices
from cuvee.protocols import Choices, Grade, ScoredChoice
from cuvee.values import Example

VERSION = 2
REQUEST_VERSION = 1
ANSWERS, METRIC, HIGHER_IS_BETTER = _choices.HEAD
ABILITY = "commonsense"
GROUPED = False
SOURCE = _choices.SOURCE

BLANK = "_"

Params = _choices.Params
request_params, grade_params = _choices.request_params, _choices.grade_params


def size(params: Params) -> int:
    """Return how many items the validation set has."""
    return 1267


def ask(example: Example, shots: Sequence[Example], params: Mapping[str, Any]) -> Choices:
    """Return the sentence with each option in its blank, and what comes after it.

    Raises:
        DataError: the sentence has no blank, or nothing after it.
    """
    worked = "".join(f"{_filled(shot)[_choices.gold(shot)[0]]} {_rest(shot)}\n\n" for shot in shots)
    contexts = tuple(worked + text for text in _filled(example))
    rest = _rest(example)
    texts = (rest,) * len(contexts)
    return Choices(example.id, contexts, (rest,), texts, _choices.gold(example), group=_choices.group(example))


def grade(scored: Sequence[ScoredChoice], params: Mapping[str, Any]) -> Grade:
    """Return the grade of `evaluators._choices` without `same`: what is weighed is equal for both options."""
    found = _choices.grade(scored, params)
    return replace(found, extra={name: value for name, value in found.extra.items() if name != "same"})


def _filled(example: Example) -> tuple[str, ...]:
    before = _choices.question(example).partition(BLANK)[0]
    return tuple(before + option for option in _choices.choices(example))


def _rest(example: Example) -> str:
    _, blank, after = _choices.question(example).partition(BLANK)
    if not after.strip():
        why = "nothing stands after the blank" if blank else f"the sentence has no blank ({BLANK})"
        raise DataError(f"{why}; is this WinoGrande?", path=example.path, line=example.line)
    return after.strip()
