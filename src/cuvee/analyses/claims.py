"""Claims: findings of the papers, each tested on your own runs: supported, contradicted or undecided.

Dong et al., arXiv 2310.05492 (DMT). Each finding is one file of `_claims` with its statement, its source, the runs it
needs and its test. A finding is about your model, your data and your items, and is decided at 95 % each by itself; what
is undecided says how many items would decide it. A finding whose runs the recipe does not have says which to add.

    analyses: [claims]
    analyses: [{claims: {margin: 0.02}}]      # an improvement below two points does not matter
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from cuvee.analyses import _results
from cuvee.analyses._claims._evidence import UNTESTED, Evidence, Outcome
from cuvee.analyses._resampled import Resampled
from cuvee.errors import UsageError, did_you_mean
from cuvee.protocols import Result, Table

VERSION = 1


class Params(Resampled):
    """Args:
    margin: the least improvement that matters, in the metric's own unit: 0.01 is one point of accuracy.
    general: name of the general source; taken from the runs' own parameters when absent.
    """

    margin: Annotated[float, Field(gt=0)] = 0.01
    general: str | None = None


def findings() -> dict[str, ModuleType]:
    """Return the findings by name, in the order of their files."""
    here = Path(__file__).parent / "_claims"
    names = sorted(path.stem for path in here.glob("*.py") if not path.stem.startswith("_"))
    return {name: importlib.import_module(f"cuvee.analyses._claims.{name}") for name in names}


def table(results: Sequence[Result], params: Params) -> list[Table]:
    """Return for each base model the ledger: every finding with what the runs say.

    Raises:
        UsageError: no training has seen the source that is called general.
    """
    known = {portion.source for result in results for training in result.run.trainings for portion in training.portions}
    if params.general is not None and known and params.general not in known:
        raise UsageError(f"there is no source '{params.general}'.{did_you_mean(params.general, known)}")
    names = _results.bases(results)
    tables = [
        _ledger(
            [result for result in results if result.run.base == base],
            params,
            _results.titled("Findings of the papers on these runs", base, len(names) > 1),
        )
        for base in names
    ]
    return tables or [Table("Findings of the papers on these runs", ["finding"], [], ["Nothing is measured."])]


def _ledger(own: Sequence[Result], params: Params, title: str) -> Table:
    evidence = Evidence(own, params.margin, params.general, params.resamples, params.seed)
    rows: list[dict[str, Any]] = []
    for module in findings().values():
        found: list[Outcome] = module.outcomes(evidence) or [Outcome("", UNTESTED, needed=f"add {module.NEEDS}")]
        rows += [_row(module, each) for each in found]
    rows.sort(key=lambda row: row["verdict"] == UNTESTED)
    return Table(title, list(rows[0]), rows, _notes(rows, evidence), answers=1)


def _row(module: ModuleType, each: Outcome) -> dict[str, Any]:
    return {
        "finding": module.FINDING,
        "on": each.about or None,
        "verdict": each.verdict,
        "effect (+ is better)": each.effect or None,
        "95 % interval": each.interval or None,
        "items": each.items,
        "what would decide it": each.needed or None,
        "source": module.SOURCE,
    }


def _notes(rows: Sequence[dict[str, Any]], evidence: Evidence) -> list[str]:
    counts = Counter(row["verdict"] for row in rows)
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    seeds = {len(of.seeds) for by in evidence.samples.values() for of in by.values()}
    notes = [
        f"{total}.",
        f"An improvement below {evidence.margin:g} (in the metric's own unit) counts as none that matters. Each "
        "finding is tested by itself at 95 %, uncorrected for the others; of several parts all have to be supported, "
        "and one that is contradicted is enough against it.",
        "Supported and contradicted are about this model, this data and these items.",
    ]
    if seeds and max(seeds) == 1:
        notes.append("One seed: verdicts are about these trained models; another training could turn those near 0.")
    elif seeds:
        notes.append(
            f"{max(seeds)} seeds: scores are their means, intervals hold what other items would have given, and a "
            "difference has to keep its sign in every seed to be seen."
        )
    if evidence.general_source is None:
        notes.append("No run names a general source, so all abilities count as special; set general.")
    return notes
