"""The mix stage's artefact: which rows of which sources are trained on.

    rows.parquet   part int16, row int64, copy int32; rows that were lost at rendering are not in it

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


def write(
    folder: Path, rendereds: Sequence[Rendered], params: Mapping[str, Any], names: Sequence[str] = ()
) -> dict[str, Any]:
    """Choose each part's rows and write them.

    Args:
        folder: an existing folder.
        rendereds: the sources' rows, one a part.
        params: ``{"heldout": "1/50", "split_seed": 0, "seed": 0 or None, "parts": [how, ...]}``.
        names: the parts' names, for messages.

    Returns:
        ``{"rows", "supervised_tokens", "total_tokens", "longest", "parts": [...]}``; rows and tokens are those
        trained on, a part is `parts.Chosen.counts` with ``rows`` likewise and ``chosen`` before the loss.

    Raises:
        DataError: a part's amount is impossible; the message names the part.
        ValueError: the number of parts differs from the number of sources.
    """
    hows = params["parts"]
    if len(hows) != len(rendereds):
        raise ValueError(f"{len(hows)} parts for {len(rendereds)} rendered sources")
    columns: list[list[NDArray[Any]]] = [[], [], []]
    told = []
    longest = 0
    for number, (rendered, how) in enumerate(zip(rendereds, hows, strict=True)):
        try:
            chosen = parts.choose(rendered, how, Fraction(params["heldout"]), params["split_seed"], params["seed"])
        except DataError as error:
            name = f"source '{names[number]}'" if names else f"part {number}"
            raise DataError(f"{name} of the mixture: {error}") from None
        alive = ~rendered.dropped[chosen.rows]
        rows, copies = chosen.rows[alive], chosen.copies[alive]
        columns[0].append(np.full(len(rows), number, np.int16))
        columns[1].append(rows)
        columns[2].append(copies)
        told.append({**chosen.counts, "chosen": chosen.counts["rows"], "rows": len(rows)})
        longest = max(longest, int(rendered.num_tokens[rows].max()))
    table = pa.table(dict(zip(("part", "row", "copy"), map(np.concatenate, columns), strict=True)))
    pq.write_table(table, folder / FILE)
    sums = {key: sum(part[key] for part in told) for key in ("rows", "supervised_tokens", "total_tokens")}
    return {**sums, "longest": longest, "parts": told}


class MixtureRows:
    """Random access to a mixture's token rows; implements `protocols.TokenRows`.

    Args:
        folder: the mix stage's folder.
        rendereds: the same sources in the same order as when it was written.

    Attributes:
        parts: source of each row, (m,) int16.
        keys: example ids, (m, 16); with `copies` what `batches.plan_steps` orders by.
        copies: occurrence and copy of each row in one number (`parts.numbers`), (m,).
        lengths: tokens of each row, (m,).
        supervised: supervised tokens of each row, (m,).
    """

    def __init__(self, folder: str | Path, rendereds: Sequence[Rendered]) -> None:
        table = pq.read_table(Path(folder) / FILE)
        self._rendereds = list(rendereds)
        self.parts: NDArray[np.int16] = table["part"].to_numpy()
        self._rows: NDArray[np.int64] = table["row"].to_numpy()
        occurrences = self._gather([rendered.occurrences for rendered in rendereds])
        self.keys: NDArray[np.uint8] = self._gather([rendered.keys for rendered in rendereds])
        self.copies: NDArray[np.int64] = parts.numbers(occurrences, table["copy"].to_numpy())
        self.lengths: NDArray[np.int64] = self._gather([rendered.num_tokens for rendered in rendereds])
        self.supervised: NDArray[np.int64] = self._gather([rendered.num_supervised for rendered in rendereds])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenRow:
        part = int(self.parts[index])
        return self._rendereds[part].row(int(self._rows[index]), part)

    def _gather(self, columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return one value a mixture row from one column a part."""
        found = np.zeros((len(self._rows), *columns[0].shape[1:]), columns[0].dtype)
        for part, column in enumerate(columns):
            here = self.parts == part
            found[here] = column[self._rows[here]]
        return found
