"""The ledger of findings of a report that is there, as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PATTERN = "findings-of-the-papers*.parquet"
"""The ledger's tables in a report's folder, one a base model."""


def lines(folder: Path) -> Iterator[str]:
    """Yield one line a finding that was tested; nothing where the recipe did not ask for claims.

    With several base models, each one's lines stand below its name.
    """
    import pyarrow.parquet as pq

    for file in sorted((folder / "tables").glob(PATTERN)):
        table = pq.read_table(file)
        title = (table.schema.metadata or {}).get(b"title", b"").decode("utf-8")
        _, _, base = title.partition(", base model ")
        if base:
            yield f"base model {base}"
        rows = table.to_pylist()
        untested = sum(row["verdict"] == "not tested" for row in rows)
        for row in rows:
            if row["verdict"] != "not tested":
                effect = f": {row['effect (+ is better)']} ({row['95 % interval']})"
                yield f"{row['verdict']:12}  {row['finding']} [{row['on']}{effect}]"
        if untested:
            findings = "1 finding" if untested == 1 else f"{untested} findings"
            yield f"not tested    {findings} whose runs the recipe does not have; the report says which to add"
