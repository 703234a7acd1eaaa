"""Gather from a plan and its store what a report shows; computes nothing but the analyses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cuvee import components, planview, representing, selections, task_vectors
from cuvee.canonical import ID_LENGTH
from cuvee.errors import CuveeError, UsageError
from cuvee.plan import Plan
from cuvee.protocols import Result, Table
from cuvee.report import stamp
from cuvee.report.accounting import checks, costs, data_tables, stages
from cuvee.report.data import Curve, ReportData
from cuvee.report.lineage import lineage
from cuvee.report.naming import base_names, ingredients, part_names, run_name, training_names, training_seeds
from cuvee.report.results import finite, judged_everywhere, read_results, with_overlap
from cuvee.store import Store


def collect(plan: Plan, store: Store) -> ReportData:
    """Return the report's data from the finished stages of a plan.

    An analysis that fails, and results with scores that are no numbers, are told in the notes; the rest stands.

    Raises:
        UsageError: nothing is trained or graded, an analysis is named that there is not, the report extra is missing.
    """
    need_extra()
    if not stamp.worthwhile(plan, store):
        raise UsageError("nothing of this recipe is trained or measured yet; `cuvee run` does it")
    graded = list(read_results(plan, store))
    results, missing = finite(with_overlap(graded, plan, store), plan)
    results, left_out = judged_everywhere(results)
    manifests = {s.id: store.manifest(s.kind, s.id) for s in plan.stages if store.has(s.kind, s.id)}
    curves, by_source = _curves(plan, store, manifests)
    tables, failures = _analyses(plan, store, results)
    failed = [f"analysis {name} failed: {why}" for name, why in failures.items()]
    return ReportData(
        title=_title(plan),
        recipe_text=_without_folders(plan),
        created=time.strftime("%Y-%m-%d %H:%M", time.localtime(max(m["finished"] for m in manifests.values()))),
        tables={**tables, "data": [*data_tables(plan, manifests), *checks(plan, store)]},
        stages=stages(plan, manifests),
        costs=costs(plan, manifests),
        curves=curves,
        source_curves=by_source,
        lineage=lineage(plan, manifests),
        curve_seeds=_curve_seeds(plan),
        failures=failures,
        notes=list(dict.fromkeys([*failed, *missing, *left_out, *_notes(plan, store, manifests)])),
        versions=next(iter(manifests.values()))["versions"],
    )


def need_extra() -> None:
    """Raise UsageError unless what draws and counts for a report is installed."""
    absent = [name for name in ("scipy", "matplotlib") if find_spec(name) is None]
    if absent:
        raise UsageError(f"a report needs {' and '.join(absent)}, not installed here; pip install 'cuvee[report]'")


FILES = ("path", "prompts", "references", "against")
"""Parameters of evaluators that name files."""


def _without_folders(plan: Plan) -> str:
    """Return the recipe's text with file names in place of this machine's folders: a report is passed on."""
    text = plan.located.text
    recipe = plan.located.recipe
    paths = [base.path for base in recipe.all_bases]
    for source in recipe.sources.values():
        paths += _paths(source.path)
    paths += [path for one in recipe.preflight.benchmarks.values() for path in _paths(one.path)]
    named = [one.params.get(name) for one in recipe.evaluation for name in FILES]
    judges = [one.params["judge"] for one in recipe.evaluation if isinstance(one.params.get("judge"), Mapping)]
    paths += [path for one in (*named, *(judge.get("model") for judge in judges)) for path in _paths(one)]
    for path in sorted(paths, key=len, reverse=True):
        if Path(path).is_absolute():
            text = text.replace(path, Path(path).name)
    return text


def _paths(path: Any) -> list[str]:
    return [path] if isinstance(path, str) else [str(one) for one in path or ()]


def _title(plan: Plan) -> str:
    return f"{plan.located.name}: {len(plan.runs)} runs from {', '.join(base_names(plan).values())}"


def _analyses(plan: Plan, store: Store, results: list[Result]) -> tuple[dict[str, list[Table]], dict[str, str]]:
    """Return the tables of each analysis, and why there are none of those that failed."""
    found: dict[str, list[Table]] = {}
    failures: dict[str, str] = {}
    for number, component in enumerate(plan.located.recipe.analyses):
        try:
            module = components.find("analyses", component.name)
        except KeyError as error:
            raise plan.located.error(str(error.args[0]), "analyses", number) from None
        params = plan.located.check(module.Params, component.params, "analyses", number, component.name)
        times = sum(earlier.name == component.name for earlier in plan.located.recipe.analyses[:number])
        name = f"{component.name} {times + 1}" if times else component.name
        try:
            found[name] = list(module.table(_looked_at(module, params, plan, store, results), params))
        except (CuveeError, ValueError, ArithmeticError) as error:
            failures[name] = str(error) or type(error).__name__
        except Exception as error:
            # One faulty analysis must not cost the others' report: it is told in its place and on top.
            failures[name] = f"a fault of cuvee, to be reported ({type(error).__name__}: {error})"
    return found, failures


def _looked_at(module: Any, params: Any, plan: Plan, store: Store, results: list[Result]) -> Sequence[Any]:
    """Return what an analysis is about: most look at results, some at what was selected or at stored weights."""
    if getattr(module, "OF", "") == "selections":
        return selections.gather(plan, store)
    if getattr(module, "OF", "") == "task_vectors":
        return task_vectors.gather(plan, store, params)
    if getattr(module, "OF", "") == representing.NAME:
        return representing.gather(plan, store, params)
    return _asked(results, module)


def _asked(results: list[Result], module: Any) -> list[Result]:
    """Return what an analysis looks at: marks only where it says so."""
    return results if getattr(module, "MARKS", False) else [result for result in results if result.fraction == 1]


def _curves(
    plan: Plan, store: Store, manifests: Mapping[str, Any]
) -> tuple[dict[str, Curve], dict[str, dict[str, Curve]]]:
    curves: dict[str, Curve] = {}
    by_source: dict[str, dict[str, Curve]] = {}
    known = ingredients(plan)
    mixes = {stage.id: stage.one("data") for run in plan.runs for stage in run.trainings}
    for stage_id, name in training_names(plan).items():
        log = store.path("train", stage_id) / "log.jsonl"
        if stage_id not in manifests or not log.exists():
            continue
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        curves[name] = [(r["step"], r["loss"]) for r in records]
        by_source[name] = _source_curves(records, part_names(mixes[stage_id], known))
    return curves, by_source


def _curve_seeds(plan: Plan) -> dict[str, int]:
    seeds = training_seeds(plan)
    return {name: seeds[stage_id] for stage_id, name in training_names(plan).items()}


def _source_curves(records: list[dict[str, Any]], names: Sequence[str]) -> dict[str, Curve]:
    """Return the loss of each source over windows of steps: a source with few rows is not in every step.

    Args:
        records: of the training's log.
        names: of the mixture's parts.
    """
    window = max(1, len(records) // 60)
    found: dict[str, list[tuple[int, float]]] = {}
    for start in range(0, len(records), window):
        sums: dict[str, tuple[float, int]] = {}
        for record in records[start : start + window]:
            for part, value in record["parts"].items():
                name = names[int(part)]
                nll, tokens = sums.get(name, (0.0, 0))
                sums[name] = (nll + value["nll"], tokens + value["tokens"])
        for name, (nll, tokens) in sums.items():
            if tokens:
                found.setdefault(name, []).append(
                    (records[min(start + window, len(records)) - 1]["step"], nll / tokens)
                )
    return {name: points for name, points in sorted(found.items())}


def _notes(plan: Plan, store: Store, manifests: Mapping[str, Any]) -> Iterator[str]:
    yield from _partial(plan, manifests)
    for base in plan.located.recipe.all_bases:
        yield from _base_notes(base.path)
    sources = plan.located.recipe.sources.values()
    if any(isinstance(source.path, str) and source.path.startswith("builtin:") for source in sources):
        yield "The built-in sources are synthetic: what holds here need not hold for real data and large models."
    yield from _quarantined(plan, manifests)
    yield from planview.losses(plan, store)
    if len(plan.located.recipe.seeds) == 1:
        yield "One training seed: the intervals hold what other items would change, not what another seed would."
    resumed = [m for m in manifests.values() if m["summary"].get("resumed_from")]
    for manifest in resumed:
        steps = ", ".join(map(str, manifest["summary"]["resumed_from"]))
        yield f"{manifest['kind']}-{manifest['id'][:ID_LENGTH]} was interrupted and resumed from step {steps}."
    cut = sum(m["summary"].get("cut", 0) for m in manifests.values() if m["kind"] == "generate")
    answers = sum(m["summary"].get("items", 0) for m in manifests.values() if m["kind"] == "generate")
    if cut:
        yield f"{cut} of {answers} generated answers reached max_new_tokens before their end."
    for item in plan.evaluated:
        if (summary := manifests.get(item.grade.id, {}).get("summary", {})).get("unjudged"):
            failed = ", ".join(f"{count} {why}" for why, count in summary["verdicts"]["failed"].items())
            yield (
                f"{run_name(item.run, plan)}, {item.evaluator}: {summary['unjudged']} of {summary['replies']} replies "
                f"have no score, since their judge gave no verdict ({failed}); they are left out, not counted as 0."
            )
    accepted = {
        one["name"]
        for m in manifests.values()
        for one in m.get("preflight", {}).get("accepted", ())
        if m["kind"] == "train"
    }
    for name in sorted(accepted):
        yield f"Trained although a check spoke against it, accepted by name: {name}."


def _quarantined(plan: Plan, manifests: Mapping[str, Any]) -> Iterator[str]:
    """Yield which sources have rows that could not be read or used, with the commonest reason."""
    for stage in plan.stages:
        summary = manifests.get(stage.id, {}).get("summary", {})
        bad = summary.get("bad", 0) if stage.kind == "load" else 0
        if bad:
            name, _ = plan.sources.get(stage.id, (stage.label, ""))
            reasons = summary.get("reasons", {})
            most = f" ({max(reasons, key=lambda reason: reasons[reason])})" if reasons else ""
            yield f"{name}: {bad:,} of {summary['rows'] + bad:,} rows are quarantined{most}."


def _partial(plan: Plan, manifests: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is missing, and whose runs that concerns."""
    missing = [stage for stage in plan.stages if stage.id not in manifests]
    if missing:
        # What could have been done names the cause; what waits for it would not.
        possible = [stage for stage in missing if all(one.id in manifests for one in plan.before(stage))]
        such = (possible or missing)[0]
        some = f"{len(missing)} of {len(plan.stages)} stages {'is' if len(missing) == 1 else 'are'} missing"
        yield f"{some}, such as {such.kind} {such.label} ({such.short}): this report is partial."
    ends = [item for item in plan.evaluated if item.final and item.grade.id not in manifests]
    unmeasured = list(dict.fromkeys(run_name(item.run, plan) for item in ends))
    if unmeasured:
        more = f" and {len(unmeasured) - 4} more" if len(unmeasured) > 4 else ""
        yield (
            f"Not measured to the end: {', '.join(unmeasured[:4])}{more}. Where an analysis says that runs are to be "
            "added, it may be these that it lacks."
        )


def _base_notes(path: str) -> Iterator[str]:
    if path.startswith("fake:"):
        yield "The fake engine made these numbers: they mean nothing and only show the machinery."
    if path == "builtin:smollm2":
        yield (
            "builtin:smollm2 is SmolLM2-135M-Instruct with weights dequantised from 4 bits, and "
            "instruction-tuned before it came here: nothing follows for base models."
        )
