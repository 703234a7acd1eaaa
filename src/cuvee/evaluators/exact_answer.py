"""Exact answer: greedy generation, graded against a reference answer by a stated rule.

Rules:
    gsm8k   the number after the first ``#### ``, read as the RFT evaluator reads it: commas removed, equal as
            numbers to 1e-4 (Yuan et al., arXiv 2308.01825, evaluation code). The reading of Cobbe et al.
            (arXiv 2110.14168, equal as strings) is the column `correct_as_string`.
    text    the whole reply equals the reference after stripping white space at both ends.
    auto    gsm8k where the reference itself holds ``#### `` and a number, text otherwise.

An item is the first question of a row: everything before its first assistant turn. Items are the held-out rows
of the recipe's sources, or all rows of a benchmark file given as `path`.

    evaluation: [{exact_answer: {ability: math, path: gsm8k_test.jsonl, items: 100}}]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from cuvee import protocols
from cuvee.protocols import Grade, Request, Response
from cuvee.recipe import Declared
from cuvee.values import Example

VERSION = 1
REQUEST_VERSION = 1
ANSWERS: Literal["generate"] = "generate"
METRIC = "accuracy"
HIGHER_IS_BETTER = True

ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")
"""The published extraction expression; first match (Cobbe et al., arXiv 2110.14168, and Yuan et al.)."""


class Params(protocols.EvaluatorParams):
    """Args:
    path: a benchmark file; held-out rows of the sources when absent. Needs `ability`.
    format: the file's row format; found by looking when ``auto``.
    declared: size of the file when it is not at hand, to plan with.
    rule: how a reply is graded, see the module.
    max_new_tokens: longest reply.
    """

    path: str | None = None
    format: str = "auto"
    declared: Declared | None = None
    rule: Literal["auto", "gsm8k", "text"] = "auto"
    max_new_tokens: Annotated[int, Field(ge=1)] = 256


def request_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the generated text."""
    return {"max_new_tokens": params.max_new_tokens}


def grade_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the grading."""
    return {"rule": params.rule}


def request(example: Example, params: Mapping[str, Any]) -> Request:
    """Return the first question of a conversation with its first answer as reference."""
    return Request(example.id, example.prompt, example.messages[len(example.prompt)].content, example.tools)


def extract(text: str) -> str | None:
    """Return the text of the number after the first ``#### ``, commas removed; None when there is none."""
    match = ANSWER.search(text)
    return match.group(1).replace(",", "") if match else None


def as_number(text: str | None) -> float | None:
    """Return the number of an extracted text, None where it is not one (``1.5.2``, ``.``, ``-``)."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def grade(request: Request, responses: Sequence[Response], params: Mapping[str, Any]) -> Grade:
    """Return 1 or 0, with what was extracted; a reply without an answer scores 0 and is counted."""
    (response,) = responses
    rule = params["rule"]
    if rule == "auto":
        rule = "gsm8k" if as_number(extract(request.reference)) is not None else "text"
    if rule == "text":
        right = response.text.strip() == request.reference.strip()
        return Grade(float(right), extra=_columns(bool(response.text.strip()), right, response, rule))
    found, wanted = extract(response.text), extract(request.reference)
    number, gold = as_number(found), as_number(wanted)
    right = number is not None and gold is not None and abs(number - gold) < 1e-4
    same_string = found is not None and found == wanted
    return Grade(float(right), extra=_columns(number is not None, same_string, response, rule))


def _columns(extracted: bool, as_string: bool, response: Response, rule: str) -> dict[str, Any]:
    return {"extracted": extracted, "correct_as_string": as_string, "finish": response.finish, "rule": rule}
