"""One model judged by one evaluator, without a recipe of one's own: a recipe with the run `untrained` behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cuvee import components, planner
from cuvee.errors import UsageError
from cuvee.pins import Pins
from cuvee.plan import Evaluated, Plan
from cuvee.recipe import Located, Recipe, override, validate
from cuvee.runner import Outcome
from cuvee.store import Store

SCHEMA = "cuvee.evaluation/1"


def plan(
    model: str,
    evaluator: str,
    settings: Iterable[str],
    store: Path,
    template: str,
    *,
    sandbox: bool = True,
    endpoint: Mapping[str, Any] | None = None,
) -> tuple[Plan, Store]:
    """Return the plan of judging a model.

    Args:
        model: a base as a recipe names it, or a trained stage of the store.
        evaluator: its name.
        settings: its parameters as ``key=value``.
        store: where stages lie.
        template: chat template of the requests.
        sandbox: whether code that the model writes is isolated.
        endpoint: url and further settings of the server where `model` is a name; none for a model of this machine.

    Raises:
        UsageError: no such model, evaluator or parameter; says what is possible.
    """
    opened = Store(store)
    params = override({}, settings)
    if endpoint and template != "tokenizer":
        raise UsageError(f"template {template}: a server applies its own template; leave --template out")
    _check(evaluator, params, sandbox)
    if not sandbox:
        params["sandbox"] = False
    data = {
        "base": {"endpoint": {**endpoint, "model": model}} if endpoint else model,
        "runs": [{"strategy": "untrained"}],
        "training": {"template": template},
        "evaluation": [{evaluator: params}],
    }
    located = Located(validate(Recipe, data), Path.cwd())
    return planner.make(located, Pins(opened.pins, Path.cwd() / "recipe.lock")), opened


def _check(evaluator: str, params: dict[str, Any], sandbox: bool) -> None:
    try:
        module = components.find("evaluators", evaluator)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None
    if not sandbox and "sandbox" not in module.Params.model_fields:
        raise UsageError(f"{evaluator} runs no code, so there is no sandbox to leave; leave --unsafe-no-sandbox out")
    if module.ANSWERS == "score":
        raise UsageError(f"{evaluator} measures held-out rows of a recipe's sources: `cuvee run` with a recipe")
    if "path" in module.Params.model_fields and "path" not in params:
        raise UsageError(f"{evaluator} needs the file it judges by: path=FILE; held-out rows belong to a recipe")
    validate(module.Params, params)


def view(plan: Plan, store: Store, outcome: Outcome) -> dict[str, Any]:
    """Return the scores with their standard errors as plain data."""
    scores = []
    for item in plan.evaluated:
        if not store.has("grade", item.grade.id):
            continue
        summary = store.manifest("grade", item.grade.id)["summary"]
        found = {"evaluator": item.evaluator, "ability": item.ability, **summary, "stage": item.grade.short}
        found |= _noise(item, store)
        scores.append(found)
    return {"schema": SCHEMA, "scores": scores, "failed": dict(outcome.failed)}


def _noise(item: Evaluated, store: Store) -> dict[str, Any]:
    """Return standard error and 95 % interval as the report has them; nothing where scipy is not installed."""
    from cuvee.analyses import _stats
    from cuvee.report import results

    result = results.read_result(item, store)
    try:
        of = _stats.estimate(_stats.sample([result]))
    except UsageError as error:
        return {"standard_error": None, "interval": None, "note": str(error)}
    return {"standard_error": of.se, "interval": None if of.low is None else [of.low, of.high]}
