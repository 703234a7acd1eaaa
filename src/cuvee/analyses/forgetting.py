"""Forgetting: what each training of a run does to every ability, from the base to the final model.

Dong et al., arXiv 2310.05492, section 3.5: sequential training forgets what earlier stages taught (their 7B
falls from 49.1 to 31.4 on GSM8K). They print final scores only; here every step is compared with the one
before on the same items.

    analyses: [forgetting]          # evaluators with `stages: all`; heldout_loss is one

Runs that share a stage share its test, which enters the Holm correction once.

Of 0/1 scores each step also counts items: learned (wrong before, right now), kept (right twice), lost (right before,
wrong now) and relearned (learned now, and right once before). The net change hides a loss behind an equal gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee.analyses import _results
from cuvee.analyses._chance import draws_for
from cuvee.analyses._resampled import Resampled
from cuvee.analyses._results import LEVEL, Measure
from cuvee.analyses._stats import Comparison, Estimate, Sample, compare_all, estimate, holm
from cuvee.errors import UsageError
from cuvee.protocols import Figure, Result, Table

VERSION = 3

SEEDS = "seeds disagree"
SIGNS = {"lost": "▼", "gained": "▲", "no change seen": "·", SEEDS: "≠"}


class Params(Resampled):
    """Of the resampling alone."""


@dataclass(frozen=True, eq=False)
class Step:
    """One run's model after one stage, on one measure. `key` names the model, whatever run it is met in."""

    run: str
    measure: Measure
    stage: int
    label: str
    sample: Sample
    key: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What a stage did: compared with the last stage that was measured before it."""

    since: int
    comparison: Comparison
    p: float
    smallest: float
    flag: str


@dataclass(frozen=True)
class Moves:
    """Items of 0/1 scores that a stage moved, averaged over seeds.

    Args:
        learned: wrong before, right now.
        kept: right before and now.
        lost: right before, wrong now.
        relearned: of the learned, those that were right at an earlier stage.
    """

    learned: float
    kept: float
    lost: float
    relearned: float


def moves(path: Sequence[Sample]) -> list[Moves | None]:
    """Return what each stage of a path moved against the one before; None where scores are not 0/1 or items differ."""
    found: list[Moves | None] = []
    for place, (old, new) in enumerate(pairwise(path)):
        earlier = path[:place]
        same = all(each.items == new.items and each.zero_one for each in (*earlier, old, new))
        found.append(_moved(earlier, old, new) if same else None)
    return found


def _moved(earlier: Sequence[Sample], old: Sample, new: Sample) -> Moves | None:
    """A model with one seed (the base) stands against every seed of the other; other seeds go by name."""
    seeds = [seed for seed in new.seeds if all(len(s.seeds) == 1 or seed in s.seeds for s in (*earlier, old))]
    if not seeds:
        return None
    counts = np.zeros(4)
    for seed in seeds:
        right, before = (_right(each, seed) for each in (new, old))
        once = np.any([_right(each, seed) for each in earlier], axis=0) if earlier else np.zeros_like(right)
        learned = right & ~before
        counts += [learned.sum(), (right & before).sum(), (before & ~right).sum(), (learned & once).sum()]
    return Moves(*(counts / len(seeds)).tolist())


def _right(of: Sample, seed: int) -> NDArray[np.bool_]:
    row = of.by_seed[0] if len(of.seeds) == 1 else of.by_seed[of.seeds.index(seed)]
    return np.asarray(row == 1, dtype=np.bool_)


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model an overview (run by ability) and every step with its test."""
    names = _results.bases(results)
    tables: list[Table] = []
    for base in names:
        own = [result for result in results if result.run.base == base]
        where = f", base model {base}" if len(names) > 1 else ""
        tables += _of_base(own, params, where)
    return tables or [Table("Forgetting by stage", ["run"], [], ["Nothing to compare: there are no results."])]


def _of_base(own: Sequence[Result], params: Params, where: str) -> list[Table]:
    paths, refused = _paths(own)
    pairs = [(old, new) for path in paths for old, new in pairwise(path)]
    changes, more = _changes(pairs, params)
    notes = [*refused, *more]
    if not changes:
        why = (
            "Nothing to compare: no run was measured at two stages or more. Ask for `stages: all` "
            "in an evaluator (heldout_loss has it unless told otherwise)."
        )
        return [Table(f"Forgetting by stage{where}", ["run"], [], [why, *notes])]
    # What one training taught cannot be forgotten: a sweep of single trainings would cover the lines that bend.
    staged = [path for path in paths if path[-1].stage > 1]
    figures = [_figure(m, [p for p in staged if p[0].measure == m], where) for m in _measures(staged)]
    summary = [*_losses(paths, changes), *notes]
    return [
        *(_overview(panel, paths, changes, where, summary) for panel in _panels(paths)),
        Table(f"Forgetting by stage{where}", *_rows(paths, changes), _notes(changes), figures),
    ]


def _panels(paths: Sequence[Sequence[Step]]) -> list[list[Measure]]:
    """Measures by evaluator: one overview each, so that it fits a page."""
    by_evaluator: dict[str, list[Measure]] = {}
    for measure in _measures(paths):
        by_evaluator.setdefault(measure.evaluator, []).append(measure)
    return list(by_evaluator.values())


def _measures(paths: Sequence[Sequence[Step]]) -> list[Measure]:
    return list(dict.fromkeys(path[0].measure for path in paths))


def _paths(own: Sequence[Result]) -> tuple[list[list[Step]], list[str]]:
    """Each run's stages in order, one path a measure, starting at the base where it was measured."""
    # A run with another template has a base of its own: the same model, asked otherwise.
    base: dict[tuple[str, Measure], Result] = {}
    first: dict[Measure, Result] = {}
    for result in own:
        if result.stage == 0:
            base.setdefault((result.run.name, _results.measure_of(result)), result)
            first.setdefault(_results.measure_of(result), result)
    grouped: dict[tuple[str, Measure], dict[int, list[Result]]] = {}
    for result in own:
        if result.stage:
            key = (result.run.name, _results.measure_of(result))
            grouped.setdefault(key, {}).setdefault(result.stage, []).append(result)
    paths, refused = [], []
    for (run, measure), by_stage in grouped.items():
        start = base.get((run, measure), first.get(measure))
        stages = {**({0: [start]} if start else {}), **by_stage}
        try:
            path = [_step(run, measure, stages[stage]) for stage in sorted(stages)]
        except UsageError as error:
            refused.append(f"{run} is left out for {measure.evaluator} on {measure.ability}: {error}.")
            continue
        if len(path) > 1:
            paths.append(path)
    return paths, refused


def _step(run: str, measure: Measure, members: Sequence[Result]) -> Step:
    first = members[0]
    key = tuple(sorted(r.stage_id or f"{r.run.name} {r.run.seed} {r.stage}" for r in members))
    return Step(run, measure, first.stage, first.stage_label, _results.seeds_joined(members), key)


Key = tuple[Measure, tuple[str, ...], tuple[str, ...]]


def _key(old: Step, new: Step) -> Key:
    return old.measure, old.key, new.key


def _changes(pairs: Sequence[tuple[Step, Step]], params: Params) -> tuple[dict[Key, Change], list[str]]:
    """Compare each different pair of models once and correct over all of them."""
    different = {_key(old, new): (old, new) for old, new in pairs}
    kept, refused = {}, []
    for key, (old, new) in different.items():
        if old.sample.items == new.sample.items and (old.sample.weights == new.sample.weights).all():
            kept[key] = (old, new)
        else:
            refused.append(
                f"{new.run}, {new.measure.evaluator} on {new.measure.ability}: stages {old.stage} and "
                f"{new.stage} were measured on different items and are not compared."
            )
    asked = [(new.sample, old.sample) for old, new in kept.values()]
    compared = compare_all(asked, resamples=draws_for(len(asked), params.resamples), seed=params.seed)
    corrected = holm([each.p for each in compared])
    alpha = LEVEL / max(1, len(asked))
    return {
        key: Change(old.stage, each, p, each.smallest(alpha), _flag(each, p, new.measure))
        for (key, (old, new)), each, p in zip(kept.items(), compared, corrected, strict=True)
    }, refused


def _flag(both: Comparison, p: float, measure: Measure) -> str:
    if p >= LEVEL:
        return "no change seen"
    if not both.one_direction:
        return SEEDS
    return "gained" if measure.scale.better(both.difference) else "lost"


def _stage(step: Step) -> str:
    return "0: base" if step.stage == 0 else f"{step.stage}: {step.label}"


def _nothing(panel: Sequence[Measure], paths: Sequence[Sequence[Step]]) -> str:
    """Name the abilities of which no model has solved an item: there was nothing to lose."""
    solved: dict[str, bool] = {}
    for step in (step for path in paths for step in path if step.measure in panel):
        counted = step.measure.higher_is_better and step.sample.zero_one
        solved[step.measure.ability] = solved.get(step.measure.ability, False) or not counted or step.sample.value > 0
    never = [ability for ability, any_one in solved.items() if not any_one]
    return f"; of {_results.listed(never)} no model solved an item, so there was nothing to lose" if never else ""


def _overview(
    panel: Sequence[Measure],
    paths: Sequence[Sequence[Step]],
    changes: Mapping[Key, Change],
    where: str,
    summary: Sequence[str],
) -> Table:
    """One row a run, one column an ability: the scores along the stages with a sign for each change."""
    header = {m: m.ability for m in panel}
    rows: dict[str, dict[str, Any]] = {}
    for path in paths:
        if path[0].measure in header:
            run = path[0].run
            row = rows.setdefault(run, {"run": run, "stages": "", **dict.fromkeys(header.values())})
            row["stages"] = max(row["stages"], " → ".join(_stage(step) for step in path), key=len)
            row[header[path[0].measure]] = _line(path, changes)
    own = [sentence for sentence in summary if sentence.startswith(f"{panel[0].evaluator}: ")]
    verdict = own or [f"{panel[0].evaluator}: no loss was found at any stage{_nothing(panel, paths)}."]
    rest = [sentence for sentence in summary if "is left out" in sentence or "not compared" in sentence]
    notes = [
        *verdict,
        "▲ gained, ▼ lost (Holm-corrected p < 0.05), ≠ seeds disagree on the sign, · no change seen. "
        f"Unit: {panel[0].scale.label}.",
        *rest,
    ]
    title = f"Forgetting: an overview by {panel[0].evaluator}, {panel[0].scale.short}{where}"
    return Table(title, ["run", "stages", *header.values()], list(rows.values()), notes, answers=len(verdict))


def _losses(paths: Sequence[Sequence[Step]], changes: Mapping[Key, Change]) -> list[str]:
    """One sentence for each ability and stage that lost, with the runs it happened to."""
    lost: dict[tuple[str, str, str], list[str]] = {}
    for path in paths:
        for old, new in pairwise(path):
            change = changes.get(_key(old, new))
            if change and change.flag == "lost":
                where = (new.measure.evaluator, new.measure.ability, f"stage {new.stage}")
                lost.setdefault(where, []).append(new.run)
    return [
        f"{evaluator}: {ability} lost at {stage} in {_results.listed(runs)}."
        for (evaluator, ability, stage), runs in sorted(lost.items())
    ]


def _line(path: Sequence[Step], changes: Mapping[Key, Change]) -> str:
    to = path[0].measure.scale
    words = [to.text(path[0].sample.value)]
    for old, new in pairwise(path):
        change = changes.get(_key(old, new))
        words.append(f"{SIGNS[change.flag] if change else '?'} {to.text(new.sample.value)}")
    return " ".join(words)


def _rows(paths: Sequence[Sequence[Step]], changes: Mapping[Key, Change]) -> tuple[list[str], list[dict[str, Any]]]:
    rows = []
    for path in paths:
        moved = [None, *moves([step.sample for step in path])]
        for (old, step), items in zip([(None, path[0]), *pairwise(path)], moved, strict=True):
            change = changes.get(_key(old, step)) if old else None
            rows.append({**_row(step, estimate(step.sample), change), **_moves_row(items)})
    optional = ("SD between seeds", *_moves_row(None))
    columns = [name for name in rows[0] if name not in optional or any(row[name] is not None for row in rows)]
    return columns, [{name: row[name] for name in columns} for row in rows]


def _moves_row(items: Moves | None) -> dict[str, Any]:
    names = ("learned", "kept", "lost", "relearned")
    return {name: None if items is None else f"{getattr(items, name):.3g}" for name in names}


def _row(step: Step, found: Estimate, change: Change | None) -> dict[str, Any]:
    to = step.measure.scale
    both = change.comparison if change else None
    return {
        "run": step.run,
        "ability": step.measure.ability,
        "evaluator": step.measure.evaluator,
        "stage": _stage(step),
        "unit": to.short,
        "score": _results.cell(found, to),
        "SD between seeds": None if found.seed_sd is None else to.text(found.seed_sd),
        "change": both and to.signed(both.difference),
        "95 % interval": both and f"{to.signed(both.low)}..{to.signed(both.high)}",
        "p (Holm)": change and change.p,
        "smallest visible": change and to.text(change.smallest),
        "since stage": change and change.since,
        "flag": change.flag if change else "start",
    }


def _notes(changes: Mapping[Key, Change]) -> list[str]:
    return [
        "Change is this stage minus the last one measured before it, on the same items; exact McNemar test "
        "for 0/1 scores of one seed, paired permutation test otherwise. Intervals are 95 % each, uncorrected.",
        "Learned, kept, lost and relearned count items of 0/1 scores, averaged over seeds; relearned are those of the "
        "learned that an earlier stage already had right.",
        f"p is Holm-corrected over the {len(changes)} different steps of this table (a stage that several "
        "runs share counts once); a true change below the smallest visible one would be missed more than one "
        "time in five.",
    ]


def _figure(measure: Measure, paths: Sequence[Sequence[Step]], where: str) -> Figure:
    to = measure.scale
    series = {path[0].run: [_results.point(step.stage, estimate(step.sample), to) for step in path] for path in paths}
    title = f"{measure.ability} along the stages ({measure.evaluator}){where}"
    y_label = f"{measure.metric} ({to.label})"
    return Figure("points", title, "stage (0 is the base model)", y_label, series, "linear")
