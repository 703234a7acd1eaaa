"""What a user writes, from YAML or from Python: base models, sources, runs, evaluation, analyses.

    recipe = load(Path("examples/demo.yaml"), ["training.epochs=1"])
    recipe = validate(Recipe, {"base": "builtin:tiny", "sources": {...}, "runs": [{"strategy": "multi_task"}]})

Every fault names the key and its line, what is possible and the nearest known name. A recipe is a frozen
value: nothing rewrites it, overrides make another one.
"""

from __future__ import annotations

from cuvee.recipe.components import Component, Merger
from cuvee.recipe.fields import Columns, Number, Share
from cuvee.recipe.models import BaseModelRef, DeclaredBase
from cuvee.recipe.reading import COMMAND_LINE, AnyModel, Lines, Located, load, override, parse, parse_value, validate
from cuvee.recipe.rows import Amount, Rule
from cuvee.recipe.selection import Selection
from cuvee.recipe.sources import Across, Benchmark, Choice, Declared, Duplicates, Nearness, Preflight, Source
from cuvee.recipe.training import EWC, KL, L2SP, WSD_DECAY, Lora, Marks, Optimisation, Regulariser, Replay, Training
from cuvee.recipe.whole import Recipe, Run

__all__ = [
    "COMMAND_LINE",
    "EWC",
    "KL",
    "L2SP",
    "WSD_DECAY",
    "Across",
    "Amount",
    "AnyModel",
    "BaseModelRef",
    "Benchmark",
    "Choice",
    "Columns",
    "Component",
    "Declared",
    "DeclaredBase",
    "Duplicates",
    "Lines",
    "Located",
    "Lora",
    "Marks",
    "Merger",
    "Nearness",
    "Number",
    "Optimisation",
    "Preflight",
    "Recipe",
    "Regulariser",
    "Replay",
    "Rule",
    "Run",
    "Selection",
    "Share",
    "Source",
    "Training",
    "load",
    "override",
    "parse",
    "parse_value",
    "validate",
]
