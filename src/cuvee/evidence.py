"""What a selector goes by, gathered from finished stages, and its choice written down.

Evidence comes from stages of the pool's own rows, or of the same source rendered otherwise, which may have lost other
rows: it is joined by the row's place in its source, and NaN stands where a stage has no such row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuvee import components
from cuvee.bases import MODEL
from cuvee.data import row_scores, selection, vectors
from cuvee.data.mixture import MixtureRows
from cuvee.data.rendered import Rendered
from cuvee.data.selection import Kept
from cuvee.errors import DataError, StageFailed
from cuvee.job import Input, Job
from cuvee.protocols import Candidates, Judged, Progress, TokenRow
from cuvee.runtime import Runtime
from cuvee.store import Store

JOURNAL = "scored.jsonl"


def pool_rows(pool: str, store: Store) -> MixtureRows:
    """Return the rows of a pool, a mix stage."""
    parts = store.manifest("mix", pool)["identity"]["inputs"]["parts"]
    return MixtureRows(store.path("mix", pool), [Rendered(store.path("render", part)) for part in parts])


# ----------------------------------------------------------------------------------------------- row scores


def score(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Score the rows of a pool by a model, with their prompts or without; finished batches survive a kill."""
    from cuvee import engine

    rows = pool_rows(job.one("data").id, store)
    alone = row_scores.Alone(rows) if job.params.get("prompt") is False else None
    model = job.one("model")
    folder = Path(model.locate["path"]) if "path" in model.locate else model.folder / MODEL
    found = engine.for_model(folder).score(
        folder,
        rows if alone is None else alone,
        runtime,
        progress,
        job.params["precision"],
        part_names=[ability for _, ability in job.one("data").locate["parts"]],
        entropy=bool(job.params.get("entropy")),
        journal=work / JOURNAL,
    )
    summary = row_scores.write(work, rows, found, None if alone is None else alone.owners)
    (work / JOURNAL).unlink(missing_ok=True)
    return summary


class _Firsts:
    """The first piece of each row of a pool, or what of it is prompt or answer; implements `protocols.TokenRows`."""

    def __init__(self, rows: MixtureRows, of: str | None = None) -> None:
        self._rows, self._of = rows, of
        self.places, self._first = np.unique(rows.rows, return_index=True)
        self.lengths = rows.lengths[self._first]
        if of is not None:
            answers = rows.supervised[self._first]
            self.lengths = answers if of == "answer" else self.lengths - answers

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> TokenRow:
        row = self._rows[int(self._first[index])]
        return row if self._of is None else _only(row, answer=self._of == "answer")


def _only(row: TokenRow, *, answer: bool) -> TokenRow:
    """Return the tokens of a row that the loss counts, or the others, as a row without a loss."""
    inside = np.zeros(len(row.ids), np.bool_)
    for start, end in row.spans:
        inside[start:end] = True
    return TokenRow(np.asarray(row.ids)[inside == answer].tolist(), (), row.part)


def embed(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Write a vector for each row of a pool, of a split row for its first piece; finished batches survive a kill."""
    from cuvee import engine

    of = job.params.get("of")
    rows, model = _Firsts(pool_rows(job.one("data").id, store), of), job.one("model")
    if job.component == "gradients":
        return _gradients(job, rows, work, store, runtime, progress)
    folder = Path(model.locate["path"]) if "path" in model.locate else model.folder / MODEL
    given = {name: value for name, value in job.params.items() if name not in ("precision", "of")}
    width = engine.for_model(folder).embed(
        folder,
        rows,
        work / vectors.FILE,
        runtime,
        progress,
        job.params["precision"],
        journal=work / JOURNAL,
        part_names=[ability for _, ability in job.one("data").locate["parts"]],
        **given,
    )
    vectors.write_rows(work, rows.places)
    (work / JOURNAL).unlink(missing_ok=True)
    return {"rows": len(rows), "width": width, "total_tokens": int(rows.lengths.sum())}


def _gradients(
    job: Job, rows: _Firsts, work: Path, store: Store, runtime: Runtime, progress: Progress
) -> dict[str, Any]:
    """Write LESS features, with the mean learning rate of the epoch."""
    from cuvee import engine

    model, training = job.one("model"), job.one("training")
    asked = store.manifest("train", training.id)["identity"]["params"]
    folder = Path(model.locate["path"]) if "path" in model.locate else model.folder / MODEL
    state = training.folder / "states" / f"epoch-{job.params['epoch']}.safetensors"
    dims = engine.for_model(folder).features(
        folder,
        state,
        rows,
        work / vectors.FILE,
        runtime,
        progress,
        job.params["precision"],
        settings=asked["lora"],
        betas=asked["betas"],
        adam=job.params["adam"],
        dims=job.params["dims"],
        seed=job.params["seed"],
        journal=work / JOURNAL,
    )
    vectors.write_rows(work, rows.places, _mean_rate(training.folder / "log.jsonl", job.params["epoch"]))
    (work / JOURNAL).unlink(missing_ok=True)
    return {"rows": len(rows), "width": dims, "total_tokens": int(rows.lengths.sum())}


def _mean_rate(log: Path, epoch: int) -> float:
    """Return the mean learning rate of an epoch of a training."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    rates = [float(record["lr"]) for record in records if record["epoch"] == epoch]
    return sum(rates) / len(rates)


def stored(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Look up the scores of a pool's rows in a file.

    Raises:
        StageFailed: the file is another one than was planned with.
    """
    from cuvee.pins import sha256

    path = Path(job.locate["path"])
    if not path.is_file() or sha256(path) != job.params["sha256"]:
        raise StageFailed(f"{path} changed since it was planned; plan again", stage=job.short)
    rows = pool_rows(job.one("data").id, store)
    return row_scores.write_stored(work, rows, path, job.params["column"], job.params["missing"])


# ------------------------------------------------------------------------------------------------ selection


def select(job: Job, work: Path, store: Store, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Ask the selector about every row of the pools, and keep what the rule says.

    Raises:
        StageFailed: the rule keeps no row, or more than there are.
    """
    pools = [pool_rows(item.id, store) for item in job.inputs["pools"]]
    candidates = _candidates(pools)
    roles = {role.removeprefix("rows."): items for role, items in job.inputs.items() if role.startswith("rows.")}
    evidence = {role: _joined(items, candidates, store) for role, items in roles.items()}
    targets = {
        role.removeprefix("targets."): _columns(items, store)
        for role, items in job.inputs.items()
        if role.startswith("targets.")
    }
    candidates = replace(candidates, evidence=evidence, targets=targets)
    try:
        judged, kept = _in_groups(job, candidates)
    except DataError as error:
        raise StageFailed(f"{job.label}: {error}", stage=job.short) from None
    available = [len(_rendered(item.id, store)) for item in job.inputs["pools"]]
    summary = selection.write(work, candidates, judged, kept, available)
    return {
        **summary,
        "pools": [{**pool, "source": name} for pool, name in zip(summary["pools"], _names(job), strict=True)],
    }


def _names(job: Job) -> list[str]:
    return [name for name, _ in job.locate["pools"]]


def _rendered(pool: str, store: Store) -> Rendered:
    (part,) = store.manifest("mix", pool)["identity"]["inputs"]["parts"]
    return Rendered(store.path("render", part))


def _candidates(pools: Sequence[MixtureRows]) -> Candidates:
    """Return the rows of all pools; a row that was split is one, with the tokens of its pieces."""
    names = ("sources", "rows", "keys", "occurrences", "tokens", "supervised")
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for number, pool in enumerate(pools):
        rows, first, of_piece = np.unique(pool.rows, return_index=True, return_inverse=True)
        found: tuple[NDArray[Any], ...] = (
            np.full(len(rows), number, np.int16),
            rows,
            pool.keys[first],
            (pool.copies[first] & 0xFFFFFFFF).astype(np.int32),
            np.bincount(of_piece, pool.lengths, len(rows)).astype(np.int32),
            np.bincount(of_piece, pool.supervised, len(rows)).astype(np.int32),
        )
        for name, values in zip(names, found, strict=True):
            columns[name].append(values)
    return Candidates(**{name: np.concatenate(parts) for name, parts in columns.items()})  # type: ignore[arg-type]


def _joined(items: Sequence[Input], candidates: Candidates, store: Store) -> dict[str, NDArray[Any]]:
    """Return a role's columns in the order of the candidates, from one stage a pool."""
    parts = []
    for number, item in enumerate(items):
        columns = _read(item, store)
        asked, there = candidates.rows[candidates.sources == number], columns.pop("row")
        parts.append({name: _aligned(values, there, asked) for name, values in columns.items()})
    return {name: _stacked([part[name] for part in parts]) for name in parts[0]}


def _stacked(parts: Sequence[NDArray[Any]]) -> Any:
    """Return the parts one under another; vectors stay on disk."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts[0].ndim == 1 else vectors.Stacked(parts)


def _aligned(values: NDArray[Any], there: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[Any]:
    """Return the values of the rows asked for, NaN where there is none; `there` ascends."""
    if np.array_equal(there, asked):
        return values
    if not len(there):
        return np.full((len(asked), *values.shape[1:]), np.nan, np.result_type(values.dtype, np.float32))
    place = np.minimum(np.searchsorted(there, asked), len(there) - 1)
    found = np.asarray(values[place], np.result_type(values.dtype, np.float32))
    found[there[place] != asked] = np.nan
    return found


def _columns(items: Sequence[Input], store: Store) -> dict[str, NDArray[Any]]:
    """Return a role's columns of other rows, with the number of the stage that each comes from."""
    read = [_read(item, store) for item in items]
    found = {name: np.concatenate([columns[name] for columns in read]) for name in read[0]}
    found["stage"] = np.repeat(np.arange(len(read)), [len(columns["row"]) for columns in read])
    return found


def _read(item: Input, store: Store) -> dict[str, NDArray[Any]]:
    """Return the columns of one stage: ``row``, ascending, and what it knows of each row."""
    if item.kind == "tag":
        return _counted(item)
    if item.kind == "embed":
        return vectors.read(item.folder)
    return row_scores.read(item.folder)


def _counted(item: Input) -> dict[str, NDArray[Any]]:
    from cuvee.data import tags

    labels, read = tags.read(item.folder), tags.readable(item.folder)
    count = np.array([len(some) for some in labels], np.float64)
    return {"row": np.arange(len(count)), "count": np.where(read, count, np.nan)}


def _in_groups(job: Job, candidates: Candidates) -> tuple[Judged, Kept]:
    """Judge and choose within each group of sources by itself, and put the groups together."""
    module, rule = components.find("selectors", job.component), job.params["rule"]
    groups = job.params.get("groups") or [0] * len(job.inputs["pools"])
    of_row = np.asarray(groups)[candidates.sources]
    found = []
    for group in sorted(set(groups)):
        places = np.flatnonzero(of_row == group)
        wanted = selection.wanted(rule, len(places))
        whole = len(places) == len(candidates)
        part = replace(candidates, wanted=wanted) if whole else candidates.take(places, wanted)
        judged = module.judge(part, job.params["by"])
        try:
            found.append((places, judged, selection.keep(part, judged, rule)))
        except DataError as error:
            names = [name for name, one in zip(_names(job), groups, strict=True) if one == group]
            raise DataError(f"{' + '.join(names)}: {error}" if len(set(groups)) > 1 else str(error)) from None
    return _together(found, len(candidates))


def _together(found: Sequence[tuple[NDArray[np.int64], Judged, Kept]], rows: int) -> tuple[Judged, Kept]:
    if len(found) == 1:
        return found[0][1:]
    scores, kept, why = np.empty(rows), np.empty(rows, np.bool_), np.empty(rows, np.int8)
    columns = {name: np.empty(rows, values.dtype) for name, values in found[0][1].columns.items()}
    reasons: list[str] = []
    for places, judged, chosen in found:
        numbers = [_number(reasons, text) for text in chosen.reasons]
        scores[places], kept[places] = judged.scores, chosen.kept
        why[places] = np.asarray(numbers, np.int8)[chosen.why]
        for name, values in judged.columns.items():
            columns[name][places] = values
    return Judged(scores, columns=columns), Kept(kept, None, tuple(reasons), why)


def _number(reasons: list[str], text: str) -> int:
    if text not in reasons:
        reasons.append(text)
    return reasons.index(text)
