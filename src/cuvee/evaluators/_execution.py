"""What evaluators that run code share: parameters, running all replies at once, pass@k by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from cuvee import sandbox
from cuvee.evaluators import _benchmark, _code
from cuvee.evaluators._pass_at_k import pass_at_k
from cuvee.protocols import Grade, Request, Response
from cuvee.sandbox import Limits, Program, Verdict


class Params(_benchmark.Params):
    """Args:
    k: the score is pass@k, the chance that at least one of k replies passes.
    sandbox: false runs the code as a plain process, in view of your files; such results say so.
    """

    k: Annotated[int, Field(ge=1)] = 1
    sandbox: bool = True

    @model_validator(mode="after")
    def _enough_replies(self) -> Params:
        if self.k > self.samples:
            raise ValueError(f"k: {self.k} needs as many samples; there are {self.samples}: samples: {self.k} or more")
        return self


def grade_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the grading; an unsafe run is another one."""
    return {"k": params.k, **({} if params.sandbox else {"sandbox": False})}


def grade_many(
    asked: Sequence[tuple[Request, Sequence[Response]]],
    params: Mapping[str, Any],
    workers: int,
    program: Callable[[Request, str], tuple[Program, str]],
    limits: Limits,
) -> list[Grade]:
    """Run every reply and return pass@k of each item.

    Args:
        asked: items with their replies.
        params: ``k``, and ``sandbox`` where it is not to be used.
        workers: programs at a time.
        program: what a reply comes to, with the rule that found its code.
        limits: what each program may use.

    Raises:
        SandboxUnavailable: programs cannot be isolated here.
    """
    drafts = [program(request, response.text) for request, responses in asked for response in responses]
    unsafe = params.get("sandbox") is False
    verdicts = sandbox.run_many([draft for draft, _ in drafts], limits, workers=workers, unsafe=unsafe)
    rules = [rule for _, rule in drafts]
    grades, at = [], 0
    for _, responses in asked:
        end = at + len(responses)
        grades.append(_item(verdicts[at:end], rules[at:end], responses, params["k"]))
        at = end
    return grades


def _item(verdicts: Sequence[Verdict], rules: Sequence[str], responses: Sequence[Response], k: int) -> Grade:
    passed = sum(verdict.passed for verdict in verdicts)
    extra = {
        "outcome": verdicts[0].outcome if len(verdicts) == 1 else ", ".join(one.outcome for one in verdicts),
        "detail": verdicts[0].detail[:200],
        "rule": ", ".join(dict.fromkeys(rules)),
        "passed": passed,
        "replies": len(verdicts),
        "cut": sum(response.finish == "length" for response in responses),
        "shortened": sum(len(response.text) > _code.LONGEST for response in responses),
        "isolated": all(verdict.isolated for verdict in verdicts),
    }
    return Grade(pass_at_k(len(verdicts), passed, k), extra=extra)
