"""What evaluators of multiple-choice benchmarks share: parameters, shots in a prompt, plain and normalised scores.

The chosen one of an item's choices is the first with the largest

    acc         log p(choice | context)
    acc_norm    log p(choice | context) / characters of the choice
    acc_bytes   log p(choice | context) / its bytes in UTF-8

as lm-evaluation-harness has them (api/task.py, `process_results`); the length is that of the choice without the space
before it. All three are columns of the results, and `metric` says which is the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cuvee import protocols
from cuvee.protocols import Choices, Grade, ScoredChoice
from cuvee.recipe import Columns, Declared
from cuvee.values import Example

Metric = Literal["acc", "acc_norm", "acc_bytes"]

HEAD: tuple[Literal["choose"], str, bool] = ("choose", "accuracy", True)
"""ANSWERS, METRIC and HIGHER_IS_BETTER of every evaluator that weighs choices."""

SOURCE: Mapping[str, Any] = {"format": "choices"}
"""How the files are read: see `cuvee.data.choices`."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Params(protocols.EvaluatorParams):
    """Args:
    path: the benchmark's file, or ``hf://datasets/OWNER/NAME``; nothing is fetched unless it is named.
    columns: ``question``, ``choices``, ``answer``, ``group`` to the file's columns, where they are not found.
    subset, split: of a hub data set.
    declared: size of the file when it is not at hand, to plan with.
    shots: worked examples before each question.
    shots_path: the file they come from.
    pick: the ``first`` of the file, or for every item as many ``drawn`` by `seed`.
    seed: of the draws.
    metric: which reading is the score; see `evaluators._choices`.
    chat: whether the model's chat template is used; published scores are without it.
    too_long: what is longer than the model's context is ``cut`` at its beginning and counted, or makes an ``error``.
    """

    path: str
    columns: dict[str, Columns] = Field(default_factory=dict)
    subset: str | None = None
    split: str | None = None
    declared: Declared | None = None
    shots: Annotated[int, Field(ge=0)] = 0
    shots_path: str | None = None
    pick: Literal["first", "drawn"] = "first"
    seed: int = 0
    metric: Metric = "acc"
    chat: bool = False
    too_long: Literal["cut", "error"] = "cut"

    @model_validator(mode="after")
    def _shots_come_from_somewhere(self) -> Params:
        if self.shots and not self.shots_path:
            raise ValueError(f"shots: {self.shots} need the file they come from: shots_path: FILE")
        if self.shots_path and not self.shots:
            raise ValueError("shots_path is of no use without shots; add shots: 5, or leave it out")
        if "seed" in self.model_fields_set and self.pick != "drawn":
            raise ValueError("seed is for shots that are drawn; add pick: drawn, or leave seed out")
        return self


def request_params(params: Params) -> dict[str, Any]:
    """Return what decides the scores of the choices."""
    found: dict[str, Any] = {"chat": params.chat, "too_long": params.too_long, "shots": params.shots}
    if params.shots:
        found |= {"pick": params.pick, **({"seed": params.seed} if params.pick == "drawn" else {})}
    return found


def grade_params(params: Params) -> dict[str, Any]:
    """Return what decides the grading."""
    return {"metric": params.metric}


def question(example: Example) -> str:
    """Return a row's question."""
    return example.messages[0].content


def choices(example: Example) -> tuple[str, ...]:
    """Return a row's choices."""
    return tuple(example.messages[0].extra["choices"])


def question_and_answer(example: Example) -> str:
    """Return a row's question as ARC and PIQA are asked, up to where the answer begins."""
    return f"Question: {question(example)}\nAnswer:"


def gold(example: Example) -> tuple[int, ...]:
    """Return the numbers of a row's right choices."""
    return tuple(example.messages[0].extra["gold"])


def group(example: Example) -> str:
    """Return a row's subject or task, empty where it names none."""
    return str(example.messages[0].extra.get("group", ""))


def letters(example: Example) -> tuple[str, ...]:
    """Return A, B, ... as many as the row has choices."""
    return tuple(LETTERS[: len(choices(example))])


def lettered(example: Example) -> str:
    """Return a row's choices as lines ``A. ...``."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, choices(example), strict=False))


def asked(
    example: Example,
    shots: Sequence[Example],
    prompt: Callable[[Example], str],
    answers: Callable[[Example], tuple[str, ...]],
    description: str = "",
) -> Choices:
    """Return an item whose choices follow one context: the shots with their right answers, then the question.

    Args:
        example: the row.
        shots: worked examples.
        prompt: a row to the text before its answer.
        answers: a row to its continuations, which are also what length normalisation counts.
        description: what stands before the shots.
    """
    worked = "".join(f"{prompt(shot)} {answers(shot)[gold(shot)[0]]}\n\n" for shot in shots)
    texts = answers(example)
    return Choices(example.id, (worked + prompt(example),), texts, texts, gold(example), description, group(example))


def grade(scored: Sequence[ScoredChoice], params: Mapping[str, Any]) -> Grade:
    """Return 1 or 0 by the metric, with all of them as columns; not a number where a log-probability is none.

    `mass` is the share of the right choices in the probability of all. `same` counts choices that equal an earlier
    one, `context_cut` is 1 where a context was cut.
    """
    readings = {name: _hit(scored, length) for name, length in _LENGTHS.items()}
    columns: dict[str, Any] = {name: bool(hit) for name, (hit, _) in readings.items()}
    columns |= {"chosen": readings[params["metric"]][1], "mass": mass(scored), **counts(scored)}
    score = float(readings[params["metric"]][0])
    return Grade(math.nan if any(math.isnan(one.logprob) for one in scored) else score, extra=columns)


def counts(scored: Sequence[ScoredChoice]) -> dict[str, int]:
    """Return what is counted of an item: repeated choices, and whether its context was cut."""
    return {"same": len(scored) - len({one.text for one in scored}), "context_cut": int(any(one.cut for one in scored))}


_LENGTHS: Mapping[str, Callable[[str], int]] = {
    "acc": lambda text: 1,
    "acc_norm": len,
    "acc_bytes": lambda text: len(text.encode("utf-8")),
}


def _hit(scored: Sequence[ScoredChoice], length: Callable[[str], int]) -> tuple[bool, int]:
    """Return whether the chosen one is right, and its number; ties go to the first."""
    values = [one.logprob / length(one.text) for one in scored]
    chosen = max(range(len(values)), key=lambda at: (not math.isnan(values[at]), values[at], -at))
    return scored[chosen].right, chosen


def mass(scored: Sequence[ScoredChoice]) -> float:
    """Return the share of the right choices in the probability of all choices."""
    top = max(one.logprob for one in scored)
    weights = [math.exp(one.logprob - top) if top > -math.inf else 1.0 for one in scored]
    return sum(weight for weight, one in zip(weights, scored, strict=True) if one.right) / sum(weights)
