"""Scores of the rows of one pool, keyed by example: what the stage `score` writes of training rows.

    scores.parquet   row, id, occurrence, and the scores: nll and tokens (and entropy) of a model, or value of a file

`row` is the place in load order; a row that was split has the sums over its pieces. Lines stand in the order of `row`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuvee.data.mixture import MixtureRows
from cuvee.errors import DataError
from cuvee.protocols import Likelihood, TokenRow

FILE = "scores.parquet"
SHOWN = 3
"""Ids that an error names."""


class Alone:
    """The answers of rows without what stands before them; implements `protocols.TokenRows`.

    Each supervised span becomes a row of its own behind the first token of its row (where a tokenizer has one, the
    token that begins a text), so that the same tokens are scored with and without the prompt.

    Args:
        rows: the rows with their prompts.

    Attributes:
        owners: number of the row that each answer is of, (m,).
        lengths: tokens of each answer, (m,).
    """

    def __init__(self, rows: MixtureRows) -> None:
        self._rows = rows
        spans = [rows[i].spans for i in range(len(rows))]
        self.owners = np.repeat(np.arange(len(rows)), [len(each) for each in spans])
        self._spans = [span for each in spans for span in each]
        self.lengths = np.array([end - max(start, 1) + 1 for start, end in self._spans], np.int64)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> TokenRow:
        row, (start, end) = self._rows[int(self.owners[index])], self._spans[index]
        ids = np.concatenate([row.ids[:1], row.ids[max(start, 1) : end]])
        return TokenRow(ids, [(1, len(ids))], row.part)  # type: ignore[arg-type]


def write(
    folder: Path, rows: MixtureRows, found: Sequence[Likelihood], owners: NDArray[np.int64] | None = None
) -> dict[str, int]:
    """Write what a model scored.

    Args:
        folder: an existing folder.
        rows: the pool.
        found: one a row of it, or one a text that `owners` gives the row of.
        owners: see above.

    Returns:
        ``{"rows", "supervised_tokens", "total_tokens", "unscored", "not_finite"}``: rows in the table, tokens scored,
        rows without a supervised token, rows whose loss is no number.
    """
    places, of_piece = np.unique(rows.rows, return_inverse=True)
    of_text = of_piece if owners is None else of_piece[owners]
    sums: dict[str, NDArray[Any]] = {
        "nll": np.bincount(of_text, [one.nll for one in found], len(places)),
        "tokens": np.bincount(of_text, [one.tokens for one in found], len(places)).astype(np.int32),
    }
    if found and found[0].entropy is not None:
        sums["entropy"] = np.bincount(of_text, [one.entropy or 0.0 for one in found], len(places))
    _write(folder, rows, places, sums)
    return {
        "rows": len(places),
        "supervised_tokens": int(sums["tokens"].sum()),
        "total_tokens": int(rows.lengths.sum()),
        "unscored": int((sums["tokens"] == 0).sum()),
        "not_finite": int((~np.isfinite(sums["nll"])).sum()),
    }


def _write(folder: Path, rows: MixtureRows, places: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> None:
    first = np.unique(rows.rows, return_index=True)[1]
    ids = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(places), [None, pa.py_buffer(np.ascontiguousarray(rows.keys[first]).tobytes())]
    )
    occurrences = (rows.copies[first] & 0xFFFFFFFF).astype(np.int32)
    pq.write_table(pa.table({"row": places, "id": ids, "occurrence": occurrences, **columns}), folder / FILE)


def read(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the columns ``row`` and the scores; ids are those of the pool."""
    table = pq.read_table(folder / FILE)
    return {name: table[name].to_numpy() for name in table.column_names if name not in ("id", "occurrence")}


def write_stored(folder: Path, rows: MixtureRows, path: Path, column: str, missing: str) -> dict[str, int]:
    """Write scores that a file holds: its column ``id`` (32 hex digits) names the example, `column` its score.

    Args:
        folder: an existing folder.
        rows: the pool.
        path: Parquet, JSONL or CSV.
        column: the column of the scores.
        missing: ``error``, or ``drop`` for rows without a score that is a number.

    Returns:
        ``{"rows", "missing", "unused"}``: rows of the pool with a score, without one, and lines of other rows.

    Raises:
        DataError: the file cannot be read, lacks a column, gives one example two scores, or misses rows.
    """
    given = _scores_of(path, column)
    places, first = np.unique(rows.rows, return_index=True)
    ids = [key.tobytes().hex() for key in rows.keys[first]]
    if given and given.keys().isdisjoint(ids):
        raise DataError(
            f"has no score of any of the {len(ids):,} rows: its ids are those of other rows, such as "
            f"{next(iter(given))}; these rows have ids such as {ids[0]} (cuvee select --out FOLDER writes them). A "
            "file of some sources is for these alone: say sources: [...] beside by",
            path=str(path),
        )
    values = np.array([given.get(one, np.nan) for one in ids], np.float64)
    absent = ~np.isfinite(values)
    if absent.any() and missing == "error":
        shown = ", ".join(ids[i] for i in np.flatnonzero(absent)[:SHOWN])
        raise DataError(
            f"has no number in '{column}' for {int(absent.sum()):,} of {len(ids):,} rows, such as {shown}; complete "
            "it, or say missing: drop to leave these rows out",
            path=str(path),
        )
    kept = ~absent
    inside = np.isin(rows.rows, places[kept])
    if not inside.any():
        raise DataError(
            f"has no number in '{column}' for any of the {len(ids):,} rows; name another column", path=str(path)
        )
    _write(folder, _Subset(rows, inside), places[kept], {"value": values[kept]})  # type: ignore[arg-type]
    unused = len(given.keys() - set(ids))
    return {"rows": int(kept.sum()), "missing": int(absent.sum()), "unused": unused}


class _Subset:
    """Some rows of a pool."""

    def __init__(self, rows: MixtureRows, inside: NDArray[np.bool_]) -> None:
        self.rows, self.keys, self.copies = rows.rows[inside], rows.keys[inside], rows.copies[inside]


def _scores_of(path: Path, column: str) -> dict[str | None, float]:
    """Return the numbers of a file's column by example id."""
    table = _table(path)
    for needed in ("id", column):
        if needed not in table.column_names:
            raise DataError(f"has no column '{needed}'; it has {', '.join(table.column_names)}", path=str(path))
    ids = table["id"]
    names: list[str | None]
    if pa.types.is_binary(ids.type) or pa.types.is_fixed_size_binary(ids.type):
        names = [None if one is None else one.hex() for one in ids.to_pylist()]
    else:
        names = [None if one is None else str(one).strip().lower() for one in ids.to_pylist()]
    found: dict[str | None, float] = {}
    first = _first_line(path)
    for line, (name, value) in enumerate(zip(names, _numbers(table[column], path, column), strict=True), first):
        if name is None:
            raise DataError("has no id here", path=str(path), line=line)
        if found.setdefault(name, value) != value and not (np.isnan(found[name]) and np.isnan(value)):
            raise DataError(
                f"gives the example {name} a second score, {value} after {found[name]}; leave one of them",
                path=str(path),
                line=line,
            )
    return found


def _first_line(path: Path) -> int:
    """Return the line of a file's first row; of a Parquet file rows are counted."""
    return 2 if path.suffix == ".csv" else 1


def _numbers(column: Any, path: Path, name: str) -> list[float]:
    """Return a column as numbers; texts such as ``"4\\n"`` are read as what they mean."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    try:
        values: list[float] = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False).tolist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        line, text = _no_number(column, _first_line(path))
        raise DataError(
            f"column '{name}' holds {text!r}, which is no number; write numbers, or name another column",
            path=str(path),
            line=line,
        ) from None
    return values


def _no_number(column: Any, first: int) -> tuple[int, str]:
    """Return the line and the text of the first entry that is no number."""
    for line, one in enumerate(column, first):
        try:
            pc.cast(one, pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return line, str(one.as_py())
    return first, str(column.type)


def _table(path: Path) -> pa.Table:
    from pyarrow import csv
    from pyarrow import json as arrow_json

    readers = {".parquet": pq.read_table, ".jsonl": arrow_json.read_json, ".csv": csv.read_csv}
    if path.suffix not in readers:
        raise DataError(f"is none of {', '.join(readers)}", path=str(path))
    try:
        return readers[path.suffix](path)
    except (OSError, pa.ArrowInvalid) as error:
        line = _broken_line(path) if path.suffix == ".jsonl" else 0
        why = "is no JSON object" if line else f"{error}; write each column as one kind of value"
        raise DataError(f"cannot be read as scores: {why}", path=str(path), line=line) from None


def _broken_line(path: Path) -> int:
    """Return the first line of a JSONL file that is no JSON object; 0 where all are."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip() and not isinstance(json.loads(line), dict):
                    return number
            except ValueError:
                return number
    return 0
