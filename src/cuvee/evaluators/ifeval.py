"""IFEval: instructions that a program can check ("no commas", "at least 300 words"), without a judge.

Zhou et al., arXiv 2311.07911. A prompt holds one to three of 25 instructions. Strict accuracy looks at the reply as it
is; loose accuracy also accepts it without its first line, its last line or its asterisks. At the level of prompts an
item is right where all of its instructions are followed; at the level of instructions each counts, and an item weighs
as many as it has. All four are columns of the results. The checks, and where they differ from the released ones, are in
`evaluators._constraints`; 95 of the 834 instructions need langdetect (extra ``ifeval``).

    evaluation: [{ifeval: {path: input_data.jsonl}}]
    evaluation: [{ifeval: {path: input_data.jsonl, level: instruction, reading: loose, name: ifeval_loose}}]

No library fits: `lm_eval` has the checks inside one of its tasks, which fetches NLTK's data when it is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from cuvee.evaluators import _benchmark, _constraints
from cuvee.protocols import Grade, Request, Response
from cuvee.values import Example

VERSION = 1
REQUEST_VERSION = 1
ANSWERS: Literal["generate"] = "generate"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
ABILITY = "instructions"
SIZE = 541
"""Prompts of the release."""
SOURCE: Mapping[str, Any] = {
    "format": "question",
    "questions": True,
    "columns": {"question": "prompt"},
    "kept": ("instruction_id_list", "kwargs"),
}


class Params(_benchmark.Params):
    """Args:
    level: whether ``prompt`` or ``instruction`` is what counts.
    reading: ``strict`` or ``loose``; see the module.
    """

    level: Literal["prompt", "instruction"] = "prompt"
    reading: Literal["strict", "loose"] = "strict"
    max_new_tokens: Annotated[int, Field(ge=1)] = 1280


def request_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the replies."""
    return _benchmark.decoding(params)


def grade_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the grading."""
    return {"level": params.level, "reading": params.reading}


def request(example: Example, params: Mapping[str, Any]) -> Request:
    """Return the prompt; its instructions with their arguments are the reference.

    Raises:
        DataError: an instruction is not known, or has not its arguments.
    """
    names, given = example.extra["instruction_id_list"], example.extra["kwargs"]
    if not isinstance(names, list) or not names or not isinstance(given, list) or len(given) != len(names):
        raise _benchmark.not_this(example, "there is not one set of arguments an instruction", "IFEval")
    if unknown := _constraints.unknown(names):
        raise _benchmark.not_this(example, f"there is no check for {', '.join(map(str, unknown))}", "IFEval")
    if not all(one is None or isinstance(one, dict) for one in given):
        raise _benchmark.not_this(example, "arguments are no {name: value}", "IFEval")
    # The hub's rows name every argument there is, without a value where it is another instruction's.
    told = [{key: value for key, value in (one or {}).items() if value is not None} for one in given]
    reference = json.dumps(list(zip(names, told, strict=True)), ensure_ascii=False)
    for name, arguments in zip(names, told, strict=True):
        try:
            if not name.startswith(("language", "change_case:english")):
                _constraints.followed(name, "x", arguments)
        except (KeyError, TypeError) as error:
            raise _benchmark.not_this(example, f"{name} lacks an argument ({error})", "IFEval") from None
    return Request(example.id, example.prompt, reference)


def grade(request: Request, responses: Sequence[Response], params: Mapping[str, Any]) -> Grade:
    """Return the share of instructions followed, or whether all are; a mean over several replies.

    Raises:
        UsageError: a language is to be told and langdetect is not installed.
    """
    instructions = json.loads(request.reference)
    found = [_one(instructions, response) for response in responses]
    kind = "prompt" if params["level"] == "prompt" else "share"
    score = f"{kind}_{params['reading']}"
    grade = _benchmark.over_samples([(float(one[score]), {name: one[name] for name in _COLUMNS}) for one in found])
    weight = float(len(instructions)) if params["level"] == "instruction" else 1.0
    return Grade(grade.score, weight, {**grade.extra, "instructions": len(instructions)})


_COLUMNS = ("prompt_strict", "prompt_loose", "followed_strict", "followed_loose", "cut")


def _one(instructions: Sequence[tuple[str, Mapping[str, Any]]], response: Response) -> dict[str, Any]:
    found: dict[str, Any] = {"cut": response.finish == "length"}
    for reading, check in (("strict", _constraints.followed), ("loose", _constraints.loosely)):
        hits = [check(name, response.text, given) for name, given in instructions]
        found |= {
            f"prompt_{reading}": all(hits),
            f"followed_{reading}": sum(hits),
            f"share_{reading}": sum(hits) / len(hits),
        }
    return found
