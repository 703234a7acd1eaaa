"""cuvee blends supervised fine-tuning data on purpose.

import cuvee

recipe = cuvee.load_recipe("examples/demo.yaml")   # or the same keys as a dict
plan = cuvee.plan(recipe)                          # runs nothing
outcome = cuvee.run(recipe)                        # does what is missing
cuvee.write_report(recipe, "reports/demo")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cuvee.api import Recipe, Runtime, load_recipe, plan, run, write_report
    from cuvee.errors import CuveeError, UsageError, WorkFailed

__version__ = "0.1.0"

__all__ = [
    "CuveeError",
    "Recipe",
    "Runtime",
    "UsageError",
    "WorkFailed",
    "load_recipe",
    "plan",
    "run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Imported when first used, so that `cuvee --help` starts at once.
    if name not in __all__:
        raise AttributeError(f"module 'cuvee' has no attribute '{name}'")
    from cuvee import api, errors

    return getattr(errors if name in vars(errors) else api, name)
