"""Which rows of a pool are kept by their scores, and the table that says so of every row.

    selection.parquet   source, row, id, occurrence, supervised, score, kept, reason, and the selector's own columns

`source` numbers the pools of the stage; `row` is the place in load order; `supervised` counts tokens. Larger scores
come first. Ties at the border go by hash(example), so that no order of files or rows decides. A row without a score
(NaN, infinite, or refused by the selector) is never kept, and its reason says why.

    rule = {"share": "1/4"}             of the rows of the group
         | {"count": 500}               rows
         | {"threshold": 0.1}           rows with at least this score
         | {"between": ["1/4", "3/4"]}  rows from the lowest score up, by their share: the middle half

Beside ``between``, ``values: true`` makes the ends scores (null: none; the upper one is excluded), ``shuffled: SEED``
takes as many rows by hash, ``refused: true`` counts rows that the selector refuses by the score they have, and
``unscored: true`` adds the rows without a score.

``lowest: true`` beside a share, a count or a threshold takes from the other end.

A share of n rows is floor(share * n) of all rows of the group, those without a score included.

A selector that takes rows in an order of its own needs a share or a count: `takes_some`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuvee.data import ranks
from cuvee.data.ranks import Ints, Keys
from cuvee.errors import DataError
from cuvee.protocols import IN_ORDER, Candidates, Judged, takes_some

FILE = "selection.parquet"
PURPOSE = "selection ties"
ROW_GROUP = 1 << 17
NO_SCORE = "no score"

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Kept:
    """What a rule keeps.

    Args:
        kept: which rows, (n,).
        border: the lowest score that is kept; None where none is, or where scores do not decide.
        reasons: texts that `why` counts through.
        why: number of each row's reason, (n,) int8.
    """

    kept: NDArray[np.bool_]
    border: float | None
    reasons: tuple[str, ...]
    why: NDArray[np.int8]


def keep(candidates: Candidates, judged: Judged, rule: Mapping[str, Any]) -> Kept:
    """Return which rows of one group are kept.

    Args:
        candidates: the rows.
        judged: what the selector says of them.
        rule: as in the head of this file.

    Raises:
        DataError: the rule keeps no row, or no row can be kept, with the counts by reason; it asks for more rows than
            have a score; it is no share or count of the first rows
            where the selector has an order of its own.
    """
    if judged.order is not None and not takes_some(rule):
        raise DataError(IN_ORDER)
    allowed, reasons, why = _allowed(judged, refused=bool(rule.get("refused")))
    if not allowed.any() and not rule.get("unscored"):
        raise DataError(f"none of {len(why):,} rows can be kept: {_counted(reasons, why)}")
    order, sign = judged.order, -1.0 if rule.get("lowest") else 1.0
    if order is None:
        kept = _by_score(candidates, sign * judged.scores, allowed, rule, sign)
    else:
        kept = np.zeros(len(judged.scores), np.bool_)
        kept[order[: _wanted(rule, len(kept), len(order))]] = True
    if not kept.any():
        raise DataError(_nothing(rule, judged.scores[allowed]))
    inside = judged.scores[kept & allowed]
    border = sign * float((sign * inside).min()) if len(inside) and order is None else None
    reasons = (*reasons, *_told(rule, ordered=order is not None))
    why[allowed] = len(reasons) - 1
    why[kept] = len(reasons) - 2
    return Kept(kept, border, reasons, why)


def wanted(rule: Mapping[str, Any], rows: int) -> int | None:
    """Return how many rows of a group a rule asks for; None where scores alone decide."""
    if "share" in rule:
        share = Fraction(rule["share"])
        return share.numerator * rows // share.denominator
    return int(rule["count"]) if "count" in rule else None


def _wanted(rule: Mapping[str, Any], rows: int, possible: int) -> int:
    """Return how many of `possible` rows are kept of a group of `rows`.

    Raises:
        DataError: none, or more than there are.
    """
    asked = wanted(rule, rows)
    if asked is None:
        return possible
    text = _asked(rule)
    if asked < 1:
        raise DataError(f"{text} of {rows:,} rows is no row; the smallest share that keeps one is 1/{rows}")
    if asked > possible:
        raise DataError(
            f"{text} asks for {asked:,} rows, and {possible:,} of {rows:,} can be kept; say count: {possible} or less"
        )
    return asked


def _allowed(judged: Judged, *, refused: bool) -> tuple[NDArray[np.bool_], tuple[str, ...], NDArray[np.int8]]:
    """Return which rows can be kept, those `refused` with a score among them, and the reasons of the others."""
    why, scored = np.full(len(judged.scores), -1, np.int8), np.isfinite(judged.scores)
    for number, (_, which) in enumerate(judged.refused):
        why[(why < 0) & which & ~(refused & scored)] = number
    why[(why < 0) & ~scored] = len(judged.refused)
    return why < 0, (*(text for text, _ in judged.refused), NO_SCORE), why


def _told(rule: Mapping[str, Any], *, ordered: bool) -> tuple[str, str]:
    if ordered:
        return "kept", "not reached"
    if "between" in rule:
        return "kept", "outside the band"
    return "kept", "above the border" if rule.get("lowest") else "below the border"


def _asked(rule: Mapping[str, Any]) -> str:
    if "between" in rule and rule.get("values"):
        low, high = rule["between"]
        ends = [f"from {low}" if low is not None else "", f"below {high}" if high is not None else ""]
        return f"the scores {' and '.join(filter(None, ends))}"
    return ", ".join(
        f"{name}: {_text(rule[name])}" for name in ("share", "count", "threshold", "between") if name in rule
    )


def _text(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _counted(reasons: Sequence[str], why: NDArray[np.int8]) -> str:
    """Return the reasons with their rows, the most frequent first."""
    counts = sorted(
        zip(np.bincount(why, minlength=len(reasons)).tolist(), reasons, strict=True), key=lambda one: -one[0]
    )
    return ", ".join(f"{text} ({rows:,})" for rows, text in counts if rows)


def _nothing(rule: Mapping[str, Any], scores: Floats) -> str:
    if not len(scores):
        return "no row can be kept: none has a score"
    ends = f"scores go from {scores.min():.4g} to {scores.max():.4g}"
    if "between" in rule:
        return f"{_asked(rule)} hold no row of {len(scores):,}; {ends}"
    return f"{_asked(rule)} keeps no row of {len(scores):,}; {ends}"


# ----------------------------------------------------------------------------------------------- by score


def _by_score(
    candidates: Candidates, scores: Floats, allowed: NDArray[np.bool_], rule: Mapping[str, Any], sign: float
) -> NDArray[np.bool_]:
    kept = np.zeros(len(scores), np.bool_)
    places = np.flatnonzero(allowed)
    if "threshold" in rule:
        kept[places] = scores[places] >= sign * float(rule["threshold"])
    elif "between" in rule:
        kept[_band(candidates, scores, places, rule)] = True
        kept |= ~allowed & bool(rule.get("unscored"))
    elif len(places):
        kept[_top(candidates, scores, places, _wanted(rule, len(scores), len(places)))] = True
    return kept


def _top(candidates: Candidates, scores: Floats, places: Places, count: int) -> Places:
    """Return the places of the `count` largest scores; ties at the border by hash."""
    found = scores[places]
    if count >= len(places):
        return places
    border = np.partition(found, len(found) - count)[len(found) - count]
    above, tied = places[found > border], places[found == border]
    more = count - len(above)
    if more < len(tied):
        tied = tied[_by_hash(candidates.keys[tied], candidates.occurrences[tied])[:more]]
    return np.concatenate([above, tied])


def _by_hash(keys: Keys, occurrences: Ints) -> Places:
    return ranks.order(ranks.ranks(0, PURPOSE, keys, occurrences), keys, occurrences)


def _band(candidates: Candidates, scores: Floats, places: Places, rule: Mapping[str, Any]) -> Places:
    """Return the places between two shares of the rows in the order of their scores, the lowest first."""
    low, high = rule["between"]
    n = len(places)
    if rule.get("values"):
        found = scores[places]
        first = 0 if low is None else int((found < float(low)).sum())
        last = n if high is None else int((found < float(high)).sum())
    else:
        first, last = (Fraction(end).numerator * n // Fraction(end).denominator for end in (low, high))
    return _ordered(candidates, scores, places, rule.get("shuffled"))[first:last]


def _ordered(candidates: Candidates, scores: Floats, places: Places, shuffled: int | None) -> Places:
    keys, occurrences = candidates.keys[places], candidates.occurrences[places]
    if shuffled is not None:
        return places[ranks.order(ranks.ranks(shuffled, "phases", keys, occurrences), keys, occurrences)]
    tied = _by_hash(keys, occurrences)
    return places[tied[np.argsort(scores[places][tied], kind="stable")]]


# -------------------------------------------------------------------------------------------- the artefact


def write(folder: Path, candidates: Candidates, judged: Judged, kept: Kept, available: Sequence[int]) -> dict[str, Any]:
    """Write the table.

    Args:
        folder: an existing folder.
        candidates: all rows of all pools.
        judged: what the selector says of them.
        kept: which are kept.
        available: rows of each source, the pool's and the others.

    Returns:
        ``{"rows", "kept", "border", "reasons", "available", "pools": [{"rows", "kept", "supervised_tokens"}]}``.
    """
    schema = pa.schema(
        [
            ("source", pa.int16()),
            ("row", pa.int64()),
            ("id", pa.binary(16)),
            ("occurrence", pa.int32()),
            ("supervised", pa.int32()),
            ("score", pa.float64()),
            ("kept", pa.bool_()),
            ("reason", pa.dictionary(pa.int8(), pa.string())),
            *((name, pa.from_numpy_dtype(values.dtype)) for name, values in judged.columns.items()),
        ]
    )
    # Ids are random bytes: compressing them costs time and saves nothing.
    packed = [name for name in schema.names if name not in ("id", "score", *judged.columns)]
    with pq.ParquetWriter(folder / FILE, schema, compression={name: "zstd" for name in packed}) as writer:
        for start in range(0, len(candidates), ROW_GROUP):
            part = slice(start, start + ROW_GROUP)
            writer.write_table(pa.Table.from_arrays(_arrays(candidates, judged, kept, part), schema=schema))
    counts = np.bincount(kept.why, minlength=len(kept.reasons))
    return {
        "rows": len(candidates),
        "kept": int(kept.kept.sum()),
        "border": kept.border,
        "reasons": {text: int(n) for text, n in zip(kept.reasons, counts, strict=True) if n},
        "available": list(available),
        "pools": [_pool(candidates, kept, number) for number in range(len(available))],
    }


def _arrays(candidates: Candidates, judged: Judged, kept: Kept, part: slice) -> list[Any]:
    keys = np.ascontiguousarray(candidates.keys[part])
    return [
        pa.array(candidates.sources[part]),
        pa.array(candidates.rows[part]),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(keys.tobytes())]),
        pa.array(candidates.occurrences[part], pa.int32()),
        pa.array(candidates.supervised[part], pa.int32()),
        pa.array(judged.scores[part]),
        pa.array(kept.kept[part]),
        pa.DictionaryArray.from_arrays(pa.array(kept.why[part]), pa.array(kept.reasons, pa.string())),
        *(pa.array(values[part]) for values in judged.columns.values()),
    ]


def _pool(candidates: Candidates, kept: Kept, number: int) -> dict[str, int]:
    inside = candidates.sources == number
    chosen = inside & kept.kept
    tokens = int(candidates.supervised[chosen].sum())
    return {"rows": int(inside.sum()), "kept": int(chosen.sum()), "supervised_tokens": tokens}


def left_out(folder: Path, number: int, available: int) -> Places:
    """Return the rows of a source that are not kept, whether or not they were in its pool.

    Args:
        folder: the stage's folder.
        number: of the source among the stage's pools.
        available: how many rows the source has.
    """
    out = np.ones(available, np.bool_)
    for batch in _batches(folder, ["source", "row", "kept"]):
        chosen = (batch["source"] == number) & batch["kept"]
        out[batch["row"][chosen]] = False
    return np.flatnonzero(out)


def _batches(folder: Path, columns: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
    with pq.ParquetFile(folder / FILE) as file:
        for batch in file.iter_batches(ROW_GROUP, columns=columns):
            yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}


def read(folder: Path, columns: Sequence[str] | None = None) -> Any:
    """Return the table."""
    return pq.read_table(folder / FILE, columns=list(columns) if columns else None)
