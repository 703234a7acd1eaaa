"""The JSON schema of ``cuvee plan --json``."""

from __future__ import annotations

from typing import Any

from cuvee.stage import KIND_VERSIONS

SCHEMA = "cuvee.plan/1"

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
IDS: Schema = {"type": "array", "items": TEXT}
MAYBE: Schema = {"type": ["number", "null"]}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


STAGE: Schema = {
    "id": TEXT | {"description": "64 hex digits: hash of kind, versions, component, params, input ids"},
    "short": TEXT | {"description": "kind and first digits of the id; the folder in the store"},
    "kind": {"enum": sorted(KIND_VERSIONS)},
    "component": TEXT,
    "label": TEXT | {"description": "for people; no part of the id"},
    "params": {"type": "object"},
    "inputs": {"type": "object", "additionalProperties": IDS, "description": "input ids by role"},
    "cached": FLAG | {"description": "finished in the store, or not needed"},
    "why": TEXT | {"description": "why it must run; empty when cached"},
    "rows": WHOLE | {"description": "rows, times epochs for a training; items for score and generate"},
    "rows_exact": FLAG,
    "supervised_tokens": WHOLE,
    "total_tokens": WHOLE,
    "tokens_exact": FLAG | {"description": "false: estimated from a sample or declared"},
    "steps": WHOLE | {"description": "optimiser steps"},
    "seconds": NUMBER | {"description": "expected seconds of one worker; 0 when cached"},
    "runs": IDS | {"description": "names of the runs it belongs to"},
}
RUN: Schema = {
    "name": TEXT,
    "strategy": TEXT,
    "params": {"type": "object"},
    "base": TEXT,
    "seed": WHOLE,
    "models": IDS
    | {"description": "ids of its models in order (LoRA: the folds; a merge: the merged one), the final one last"},
    "marks": {
        "type": "array",
        "items": _object({"training": WHOLE, "fraction": TEXT, "model": TEXT}),
        "description": "models at parts of its trainings: position of the training from 1, share of its steps, id",
    },
}
MEMORY: Schema = {"name": TEXT, "bytes": WHOLE, "how": TEXT | {"description": "the arithmetic"}}
TOTALS: Schema = {
    "stages": WHOLE,
    "cached": WHOLE,
    "trainings": WHOLE | {"description": "stage trainings of the graph"},
    "trainings_alone": WHOLE | {"description": "stage trainings if every run trained by itself"},
    "trainings_to_do": WHOLE,
    "trained_tokens": WHOLE | {"description": "tokens of all trainings of the graph, every epoch"},
    "trained_tokens_alone": WHOLE | {"description": "the same if every run trained by itself"},
    "seconds": NUMBER | {"description": "expected wall-clock seconds of what is missing"},
    "training_seconds_alone": NUMBER,
    "training_seconds_shared": NUMBER,
    "memory_bytes": WHOLE | {"description": "expected peak of one process of the largest training"},
    "disk_bytes": WHOLE | {"description": "expected growth of the store"},
    "disk_peak_bytes": WHOLE | {"description": "expected growth meanwhile: models not yet given up, checkpoints"},
}
JUDGE: Schema = {
    "judge": TEXT | {"description": "who is asked about replies"},
    "requests": WHOLE | {"description": "still to be asked, if the store has none of them"},
    "requests_exact": FLAG,
    "prompt_tokens": WHOLE | {"description": "estimated"},
    "new_tokens": WHOLE | {"description": "estimated"},
}
MEASURE: Schema = {
    "evaluator": TEXT,
    "ability": TEXT,
    "metric": TEXT,
    "items": {"type": ["integer", "null"], "description": "null where nothing tells yet how many a task has"},
    "variance": MAYBE | {"description": "of an item's difference between two models; null where unknown"},
    "basis": TEXT | {"description": "where the variance comes from"},
    "seed_sd": MAYBE | {"description": "between seeds of one run; null where unknown"},
    "smallest": MAYBE | {"description": "difference found with this power by one comparison, metric's own unit"},
    "smallest_corrected": MAYBE | {"description": "the same, corrected for all pairs of runs"},
    "needed_items": {"type": ["integer", "null"], "description": "for `detect`"},
    "needed_seeds": {"type": ["integer", "null"], "description": "for `detect`"},
}
POWER: Schema = {
    "level": NUMBER,
    "power": NUMBER,
    "comparisons": WHOLE | {"description": "pairs of runs"},
    "seeds": WHOLE,
    "detect": MAYBE | {"description": "the wished difference, from --detect"},
    "measures": {"type": "array", "items": _object(MEASURE)},
}


def schema() -> Schema:
    """Return the JSON schema (draft 2020-12) of `planview.describe`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        **_object(
            {
                "schema": {"const": SCHEMA},
                "recipe": TEXT,
                "runs": {"type": "array", "items": _object(RUN)},
                "stages": {"type": "array", "items": _object(STAGE)},
                "totals": _object(TOTALS),
                "judges": {"type": "array", "items": _object(JUDGE)},
                "memory": _object({"stage": TEXT, "items": {"type": "array", "items": _object(MEMORY)}}),
                "power": _object(POWER),
                "assumptions": IDS,
            }
        ),
    }
