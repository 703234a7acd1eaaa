"""lm-evaluation-harness: any of its tasks, or tasks of your own in its YAML form, on a model of the graph.

Gao et al., github.com/EleutherAI/lm-evaluation-harness; no paper of ours. Needs the extra ``harness``. Each task is a
stage of its own: its prompts, its filters and its metrics are the harness', and so is the engine that runs the model.
What comes back is one score an item, so that its numbers stand in the same tables and tests as all others.

    evaluation:
      - {lm_eval: {tasks: [arc_easy, hellaswag], metric: acc_norm}}
      - {lm_eval: {tasks: [my_task], folder: tasks, metric: exact_match, filter: strict-match, shots: 4}}

A group (`mmlu`) is all items of its tasks. Nothing is fetched: data must lie in the cache of `datasets`, or a task of
`folder` names files (`dataset_path: json`); `network: true` lets the harness fetch. The files of `folder` are part of
the stage's id, and so is the harness' version; data that a task takes from elsewhere is not. `items` is the harness'
limit: the first items of the task, not a ranked subset. Tasks that run code which the model wrote are refused: there is
no sandbox around them (see `humaneval`, `mbpp`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from cuvee import protocols
from cuvee.errors import StageFailed, did_you_mean
from cuvee.protocols import Grade

VERSION = 1
REQUEST_VERSION = 1
ANSWERS: Literal["harness"] = "harness"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
ABILITY = "general"

ACCURACIES = frozenset(
    {"acc", "acc_norm", "acc_bytes", "exact_match", "prompt_level_strict_acc", "prompt_level_loose_acc"}
)
"""Metrics of 0 and 1, which are shown as accuracy."""


class Params(protocols.EvaluatorParams):
    """Args:
    tasks: names of tasks, groups or tags.
    folder: a folder with tasks of your own in YAML, relative to the recipe.
    shots: worked examples; the task's own number when absent.
    metric: which of a task's metrics is the score.
    filter: which of its filters; its first when absent.
    chat: whether the model's chat template is used.
    seed: of shots that are drawn.
    batch_size: rows of one forward pass.
    network: whether the harness may fetch data.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    folder: str | None = None
    shots: Annotated[int, Field(ge=0)] | None = None
    metric: str = "acc"
    filter: str | None = None
    chat: bool = False
    seed: int = 1234
    batch_size: Annotated[int, Field(ge=1)] = 8
    network: bool = False


def request_params(params: Params) -> Mapping[str, Any]:
    """Return what decides the answers and their metrics."""
    return {"shots": params.shots, "chat": params.chat, "seed": params.seed, "limit": params.items}


def grade_params(params: Params) -> Mapping[str, Any]:
    """Return what decides which of the metrics is the score."""
    return {"metric": params.metric, "filter": params.filter}


def metric_of(params: Params) -> str:
    """Return the metric's name in tables."""
    return METRIC if params.metric in ACCURACIES else params.metric


def grade_all(rows: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> list[tuple[str, str, Grade]]:
    """Return item, task and score of the rows with the metric and the filter.

    Args:
        rows: item, task, filter, metric, value.
        params: of the grading.

    Raises:
        StageFailed: the task has no such metric or filter.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    if params["metric"] not in metrics:
        raise StageFailed(
            f"the task gives no '{params['metric']}' for single items.{did_you_mean(params['metric'], metrics)}"
        )
    of_metric = [row for row in rows if row["metric"] == params["metric"]]
    filters = list(dict.fromkeys(row["filter"] for row in of_metric))
    chosen = params["filter"] or filters[0]
    if chosen not in filters:
        raise StageFailed(f"the task has no filter '{chosen}'.{did_you_mean(chosen, filters)}")
    found = [row for row in of_metric if row["filter"] == chosen]
    return [(row["item"], row["task"], Grade(row["value"], extra={"filter": chosen})) for row in found]
