"""What is asked of every component that exists, so that a new one is tested the day it is added."""

from __future__ import annotations

import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import pydantic
import pytest

from cuvee import canonical, components
from cuvee.errors import RecipeError
from cuvee.protocols import EvaluatorParams, Params
from cuvee.recipe import validate

ALL = [(folder, name) for folder in components.FOLDERS for name in components.names(folder)]
VERBS = {
    "sources": ("pin", "examples", "estimate"),
    "strategies": ("plan",),
    "selectors": ("needs", "identity", "judge"),
    "mergers": ("needs_base", "merge"),
    "analyses": ("table",),
}
SMALLEST: dict[str, dict[str, Any]] = {
    "local": {"path": "x.jsonl"},
    "hub": {"path": "hf://datasets/a/b/c.jsonl"},
    "inline": {"rows": []},
    "tiny": {"name": "math"},
    "harness": {"task": "x", "harness": "0.4"},
    "instag": {"model": "builtin:tiny"},
    "stored": {"path": "scores.parquet"},
    "rds": {"target": {"path": "x.jsonl"}},
    "less": {"target": {"path": "x.jsonl"}},
    "gsm8k": {"path": "x.jsonl"},
    **{name: {"path": "x.jsonl"} for name in ("arc", "bbh", "hellaswag", "mmlu", "multiple_choice", "option_order")},
    **{name: {"path": "x.jsonl"} for name in ("piqa", "truthfulqa", "winogrande", "ifeval")},
    "lm_eval": {"tasks": ["x"]},
    "humaneval": {"path": "x.jsonl"},
    "humaneval_plus": {"path": "x.jsonl"},
    "mbpp": {"path": "x.jsonl"},
    "mbpp_plus": {"path": "x.jsonl"},
    **{name: {"path": "x", "judge": "gpt-4"} for name in ("alpaca_eval", "mt_bench", "mt_bench_pairs", "vicuna_bench")},
    "sequential": {"order": ["a", "b"]},
    "mixed_sequential": {"general": "a"},
    "phased": {"difficulty": "length"},
    "dmt": {"general": "a", "k": "1/4"},
    "single": {"source": "a"},
    "ratio": {"general": "a"},
}


@pytest.fixture(params=ALL, ids=lambda pair: "/".join(pair))
def component(request: pytest.FixtureRequest) -> tuple[str, str, Any]:
    folder, name = request.param
    return folder, name, components.find(folder, name)


def test_it_has_a_version_and_frozen_parameters(component: tuple[str, str, Any]) -> None:
    _, name, module = component
    assert isinstance(module.VERSION, int)
    assert issubclass(module.Params, Params)
    params = module.Params(**SMALLEST.get(name, {}))
    field = next(iter(module.Params.model_fields), None)
    if field:
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(params, field, None)


def test_an_unknown_parameter_is_refused_with_the_near_name(component: tuple[str, str, Any]) -> None:
    _, name, module = component
    given = SMALLEST.get(name, {})
    known = next(iter(module.Params.model_fields), None)
    wrong = f"{known}x" if known else "anything"
    with pytest.raises(RecipeError, match=f"unknown key '{wrong}'") as caught:
        validate(module.Params, {**given, wrong: 1})
    assert known is None or f"Did you mean '{known}'?" in str(caught.value)


def test_its_parameters_have_a_stable_id_in_two_processes(component: tuple[str, str, Any]) -> None:
    folder, name, module = component
    params = module.Params(**SMALLEST.get(name, {}))
    here = canonical.digest(params.model_dump())
    code = (
        "from cuvee import canonical, components; "
        f"m = components.find({folder!r}, {name!r}); "
        f"print(canonical.digest(m.Params(**{SMALLEST.get(name, {})!r}).model_dump()))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_its_docstring_says_what_it_is_and_names_a_paper_or_says_why_not(component: tuple[str, str, Any]) -> None:
    _, _, module = component
    text = module.__doc__ or ""
    assert len(text.splitlines()[0]) > 20
    assert re.search(r"arXiv|[Nn]o paper|paper", text), "names no paper and does not say why not"


def test_it_offers_the_verbs_of_its_folder(component: tuple[str, str, Any]) -> None:
    folder, _, module = component
    if folder == "evaluators":
        assert module.ANSWERS in ("score", "generate", "choose", "harness", "judge")
        assert issubclass(module.Params, EvaluatorParams)
        assert isinstance(module.METRIC, str)
        assert isinstance(module.HIGHER_IS_BETTER, bool)
        wanted: tuple[str, ...] = ("grade_many",) if hasattr(module, "grade_many") else ("grade",)
        if module.ANSWERS == "generate":
            wanted = (*wanted, "request", "request_params", "grade_params")
        if module.ANSWERS == "judge":
            wanted = ("request", "request_params", "grade_params", "with_files", "judge_params", "judge_files")
            wanted = (*wanted, "questions", "read", "combine")
        if module.ANSWERS == "harness":
            wanted = ("grade_all", "request_params", "grade_params", "metric_of")
        if module.ANSWERS == "choose":
            wanted = (*wanted, "ask", "request_params", "grade_params")
    elif folder == "taggers":
        asks = hasattr(module, "request")
        wanted = ("request", "parse", "generation", "identity", "is_cut") if asks else ("tags",)
    elif getattr(module, "OF", "") == "adapters":
        wanted = ("needs_base", "combine")
    else:
        wanted = VERBS[folder]
    assert [verb for verb in wanted if not callable(getattr(module, verb, None))] == []


def test_a_parameter_added_later_leaves_old_ids_alone_at_its_old_behaviour() -> None:
    module = ModuleType("later")
    module.ABSENT_WHEN = {"new": False}  # type: ignore[attr-defined]
    assert components.without_absent(module, {"old": 1, "new": False}) == {"old": 1}
    assert components.without_absent(module, {"old": 1, "new": True}) == {"old": 1, "new": True}


def test_an_unknown_component_suggests_the_near_one() -> None:
    with pytest.raises(KeyError, match="Did you mean 'multi_task'"):
        components.find("strategies", "multitask")


def test_a_helper_file_is_no_component() -> None:
    with pytest.raises(KeyError):
        components.find("strategies", "_steps")
