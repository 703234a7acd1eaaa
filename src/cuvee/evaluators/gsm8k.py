"""GSM8K: grade-school word problems, graded by the number an answer ends with.

Cobbe et al., arXiv 2110.14168. An item is a question; the reference's line ``#### 72`` holds the right number.

Readings of a reply:
    number    the first ``#### `` followed by digits, commas removed, equal as numbers to 1e-4 (the RFT evaluator,
              Yuan et al., arXiv 2308.01825; what Dong et al., arXiv 2310.05492, report)
    string    the same text, equal as strings (Cobbe et al.); ``72.`` and ``72.0`` are then wrong
    flexible  `math-verify` reads the end of the reply, takes the last answer in it, boxed or not, and compares by value

The results hold every reading that was made, and how many replies held no number at all (`unread`): a model that never
writes ``####`` is a model that has not learnt the form, which a score of 0 alone does not say. With several replies the
score is the mean over them (maj1@1 is what one reply gives). `majority: true` grades maj@k: the most frequent text of a
number among the item's replies, ties by first seen; replies without a number have no vote.

    evaluation: [{gsm8k: {path: gsm8k_test.jsonl}}]
    evaluation: [{gsm8k: {path: gsm8k_test.jsonl, samples: 8, temperature: 0.7, majority: true, name: maj@8}}]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from cuvee.errors import UsageError
from cuvee.evaluators import _benchmark, _math_reader
from cuvee.evaluators.exact_answer import as_number, extract
from cuvee.protocols import Grade, Request, Response
from cuvee.values import Example

VERSION = 1
REQUEST_VERSION = 1
ANSWERS: Literal["generate"] = "generate"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
ABILITY = "math"
SIZE = 1319
"""Questions in the test set."""

NEAR = 1e-4
"""Two numbers nearer than this are equal (Yuan et al., arXiv 2308.01825, code of the evaluation)."""


class Params(_benchmark.Params):
    """Args:
    reading: which reading decides the score; see the module.
    majority: grade the most frequent number of an item's replies, as it is read by ``number``.
    """

    reading: Literal["number", "string", "flexible"] = "number"
    majority: bool = False

    @model_validator(mode="after")
    def _votes_are_numbers(self) -> Params:
        if self.majority and self.reading != "number":
            raise ValueError(
                f"majority votes by the number after '#### ', and reading is {self.reading}; leave one of them out"
            )
        return self


def request_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the replies."""
    return _benchmark.decoding(params)


def grade_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the grading."""
    return {"reading": params.reading, "majority": params.majority}


def request(example: Example, params: Mapping[str, Any]) -> Request:
    """Return the question; its worked solution is the reference.

    Raises:
        DataError: the solution holds no number after ``#### ``.
    """
    reference = example.messages[len(example.prompt)].content
    if as_number(extract(reference)) is None:
        raise _benchmark.not_this(example, "the solution has no number after '#### '", "GSM8K")
    return Request(example.id, example.prompt, reference)


def grade(request: Request, responses: Sequence[Response], params: Mapping[str, Any]) -> Grade:
    """Return the item's score with the readings as columns; a reply without a number scores 0 and is counted.

    Raises:
        UsageError: the reading is flexible and `math-verify` is not installed.
    """
    if params["majority"]:
        return _majority(request, responses)
    return _benchmark.over_samples([_reading(request, response, params["reading"]) for response in responses])


def _gold(request: Request) -> float:
    gold = as_number(extract(request.reference))
    if gold is None:
        raise UsageError(f"item {request.item}: the reference has no number after '#### '")
    return gold


def _reading(request: Request, response: Response, reading: str) -> tuple[float, dict[str, Any]]:
    found, gold = extract(response.text), _gold(request)
    number = as_number(found)
    readings = {
        "correct_as_number": number is not None and abs(number - gold) < NEAR,
        "correct_as_string": found is not None and found == extract(request.reference),
    }
    unread = {"unread": int(number is None)}
    if reading == "flexible":
        flexible = _math_reader.read(response.text, gold)
        readings["correct_flexible"] = flexible.right
        unread = {"unread": int(not flexible.found), "given_up": int(flexible.late)}
    score = float(readings["correct_flexible" if reading == "flexible" else f"correct_as_{reading}"])
    return score, {**unread, **readings, "cut": int(response.finish == "length")}


def _majority(request: Request, responses: Sequence[Response]) -> Grade:
    """Vote by the extracted text, as the RFT evaluator does."""
    texts = [text for response in responses if as_number(text := extract(response.text)) is not None]
    # The counter keeps the order of first sight, and `most_common` is stable.
    chosen = as_number(Counter(texts).most_common(1)[0][0]) if texts else None
    right = chosen is not None and abs(chosen - _gold(request)) < NEAR
    counts = {"unread": len(responses) - len(texts), "cut": sum(one.finish == "length" for one in responses)}
    return Grade(float(right), extra={**counts, "replies": len(responses)})
