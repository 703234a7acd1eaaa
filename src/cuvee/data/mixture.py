"""The mix stage's artefact: which rows of which sources are trained on.

    rows.parquet   part int16, row int64, copy int32, piece int16; rows that were lost at rendering are not in it

The order of rows in the file means nothing: `batches.plan_steps` orders by seed and content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuvee.data import parts
from cuvee.data.rendered import Rendered
from cuvee.errors import DataError
from cuvee.protocols import TokenRow

FILE = "rows.parquet"
SCHEMA = pa.schema([("part", pa.int16()), ("row", pa.int64()), ("copy", pa.int32()), ("piece", pa.int16())])


def write(
    folder: Path,
    rendereds: Sequence[Rendered],
    params: Mapping[str, Any],
    names: Sequence[str] = (),
    *,
    excluded: Sequence[parts.Excluded | None] = (),
    tags: Sequence[parts.Tags | None] = (),
) -> dict[str, Any]:
    """Choose each part's rows and write them.

    Args:
        folder: an existing folder.
        rendereds: the sources' rows, one a part.
        params: ``{"heldout": "1/50", "split_seed": 0, "seed": 0 or None, "parts": [how, ...]}``.
        names: the parts' names, for messages.
        excluded: rows to leave out of each part, by reason; None or nothing for none.
        tags: tags of each part's rows besides their own; None or nothing for none.

    Returns:
        ``{"rows", "pieces", "supervised_tokens", "total_tokens", "longest", "parts": [...]}``; rows (examples),
        pieces (rows of a training: more than examples where some were split) and tokens are those trained on, a
        part is `parts.Chosen.counts` with ``rows`` likewise and ``chosen`` before the loss.

    Raises:
        DataError: a part's amount is impossible; the message names the part.
        ValueError: the number of parts differs from the number of sources, exclusions or tags.
    """
    hows = params["parts"]
    if len(hows) != len(rendereds):
        raise ValueError(f"{len(hows)} parts for {len(rendereds)} rendered sources")
    columns: list[list[NDArray[Any]]] = [[], [], [], []]
    told = []
    longest = 0
    given = zip(rendereds, hows, _each(excluded, len(hows)), _each(tags, len(hows)), strict=True)
    for number, (rendered, how, out, labels) in enumerate(given):
        try:
            chosen = parts.choose(
                rendered, how, Fraction(params["heldout"]), params["split_seed"], params["seed"], out, labels
            )
        except DataError as error:
            name = f"source '{names[number]}'" if names else f"part {number}"
            raise DataError(f"{name} of the mixture: {error}") from None
        alive = ~rendered.dropped[chosen.rows]
        rows, copies, pieces = _pieces(rendered, chosen.rows[alive], chosen.copies[alive])
        given_rows: tuple[NDArray[Any], ...] = (np.full(len(rows), number), rows, copies, pieces)
        for column, values in zip(columns, given_rows, strict=True):
            column.append(values)
        told.append({**chosen.counts, "chosen": chosen.counts["rows"], "rows": int(alive.sum())})
        longest = max(longest, int(rendered.pieces.tokens[rendered.pieces.starts[rows] + pieces].max(initial=0)))
    if not any(part["rows"] for part in told):
        raise DataError("the mixture has no row: selections keep none of its sources; see `cuvee select`")
    table = pa.table([np.concatenate(column) for column in columns], schema=SCHEMA)
    pq.write_table(table, folder / FILE)
    sums = {key: sum(part[key] for part in told) for key in ("rows", "pieces", "supervised_tokens", "total_tokens")}
    return {**sums, "longest": longest, "parts": told}


def _each(given: Sequence[Any], parts: int) -> Sequence[Any]:
    if given and len(given) != parts:
        raise ValueError(f"{len(given)} exclusions or tags for {parts} parts")
    return given or [None] * parts


def _pieces(
    rendered: Rendered, rows: NDArray[np.int64], copies: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int16]]:
    """Return rows, copies and piece numbers with one entry a piece."""
    each = rendered.num_pieces[rows]
    ends = np.cumsum(each, dtype=np.int64)
    pieces = np.arange(each.sum()) - np.repeat(ends - each, each)
    return np.repeat(rows, each), np.repeat(copies, each), pieces.astype(np.int16)


class MixtureRows:
    """Random access to a mixture's token rows; implements `protocols.TokenRows`.

    Args:
        folder: the mix stage's folder.
        rendereds: the same sources in the same order as when it was written.

    Attributes:
        parts: source of each row, (m,) int16.
        rows: number of each row in its source, (m,).
        pieces: number of the piece of a split row, (m,) int16; 0 for all others.
        keys: example ids, (m, 16); with `copies` what `batches.plan_steps` orders by.
        copies: occurrence, copy and piece of each row in one number (`parts.numbers`), (m,).
        lengths: tokens of each row, (m,).
        supervised: supervised tokens of each row, (m,).
    """

    def __init__(self, folder: str | Path, rendereds: Sequence[Rendered]) -> None:
        table = pq.read_table(Path(folder) / FILE)
        self._rendereds = list(rendereds)
        self.parts: NDArray[np.int16] = table["part"].to_numpy()
        self.rows: NDArray[np.int64] = table["row"].to_numpy()
        self.pieces: NDArray[np.int16] = table["piece"].to_numpy()
        occurrences = self._gather([rendered.occurrences for rendered in rendereds])
        self.keys: NDArray[np.uint8] = self._gather([rendered.keys for rendered in rendereds])
        self.copies: NDArray[np.int64] = parts.numbers(occurrences, table["copy"].to_numpy(), self.pieces)
        self.lengths = self._of_pieces("tokens")
        self.supervised = self._of_pieces("supervised")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        part = int(self.parts[index])
        return self._rendereds[part].row(int(self.rows[index]), part, int(self.pieces[index]))

    def extent(self) -> tuple[int, int]:
        """Return the tokens of the longest row and the largest token id of all rows."""
        largest = [
            int(rendered.largest[self.rows[self.parts == part]].max(initial=-1))
            for part, rendered in enumerate(self._rendereds)
        ]
        return int(self.lengths.max(initial=0)), max(largest, default=-1)

    def _of_pieces(self, name: str) -> NDArray[np.int64]:
        found = np.zeros(len(self.rows), np.int64)
        for part, rendered in enumerate(self._rendereds):
            here = self.parts == part
            found[here] = getattr(rendered.pieces, name)[rendered.pieces.starts[self.rows[here]] + self.pieces[here]]
        return found

    def _gather(self, columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return one value a mixture row from one column a part."""
        found = np.zeros((len(self.rows), *columns[0].shape[1:]), columns[0].dtype)
        for part, column in enumerate(columns):
            here = self.parts == part
            found[here] = column[self.rows[here]]
        return found
