"""Whether a method's parameters fit a number of models; no torch, so that plans can ask."""

from __future__ import annotations

from typing import Any

from cuvee.errors import UsageError
from cuvee.merging.patterns import changed


def check(name: str, module: Any, params: Any, models: int) -> None:
    """Refuse a number of models, or parameters, that a method cannot work with.

    Raises:
        UsageError: says what it takes.
    """
    least, most = module.MODELS
    if models < least or (most is not None and models > most):
        wanted = f"exactly {least} model" if least == most else f"{least} or more model"
        raise UsageError(f"{name}: merges {wanted}{'' if least == most == 1 else 's'}, got {models}")
    check_values(name, params, models)
    for changes in getattr(params, "tensors", {}).values():
        check_values(name, changed(params, [changes]), models)


def check_values(name: str, params: Any, models: int) -> None:
    """Refuse values that are not one a model, and weights that leave nothing.

    Raises:
        UsageError: names the parameter.
    """
    for key in ("weights", "density"):
        values = getattr(params, key, None)
        if isinstance(values, tuple) and len(values) != models:
            raise UsageError(f"{name}: {key} has {len(values)} values for {models} models; give one for each")
    weights = getattr(params, "weights", None)
    if weights is None:
        return
    if not any(weights):
        raise UsageError(f"{name}: all weights are zero, so nothing would be left; give at least one other")
    if getattr(params, "normalize", False) and abs(sum(weights)) < 1e-8 * max(map(abs, weights)):
        remedy = "say normalize: false" if "normalize" in type(params).model_fields else "give others"
        raise UsageError(f"{name}: the weights add up to zero and are divided by their sum; {remedy}")
