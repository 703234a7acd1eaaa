"""Examples from local files, pinned by the hashes of their contents.

Reads JSON, JSONL, Parquet, Arrow and CSV, compressed or not, in the formats of `data.formats`; no paper. Several
files count as the sorted list of their hashes: a renamed or moved file is the same source. Only where the name says
how to read a file, as .tsv does, the name's part of it counts too.

    math: {path: gsm8k_train.jsonl.gz, ability: math}
    code: {path: "code/*.jsonl", format: alpaca, ability: code}
    mine: {path: pairs.csv, columns: {question: problem, answer: solution}, tags: topic, ability: math}
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from cuvee import canonical
from cuvee.data import files, formats
from cuvee.errors import DataError
from cuvee.protocols import Estimate
from cuvee.protocols import Params as Base
from cuvee.values import BadRow, Example

VERSION = 1
SAMPLE = 200
"""Rows that `estimate` converts."""


class Params(Base):
    """Where the rows lie and how to read them.

    Args:
        path: a file, a pattern such as ``data/*.jsonl``, or a list of these; relative to the recipe.
        format: a name of `formats.FORMATS`, or ``auto`` to find it by looking.
        columns: the format's field to the file's column, such as ``{question: problem}``.
        tags: the column with tags, a text or a list of texts.
    """

    path: str | list[str]
    format: str = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    tags: str | None = None


def pin(params: Params, folder: Path, cache: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (identity: format, columns, tags, sorted file hashes; place: absolute paths in the same order).

    Where a file is parted by something else than commas, ``delimiter`` lists what parts each file, in the same order;
    empty for files that are no CSV.

    Args:
        params: the source's parameters.
        folder: what relative paths are relative to.
        cache: has ``file_hash(path, compute)`` and ``fact(path, name, compute)``, which may know a file already.

    Raises:
        Absent: a file is absent, or a pattern matches nothing.
        DataError: a file is unreadable, no format fits, or two files differ in format.
    """
    return pin_files(_expand(params.path, Path(folder)), params.format, params.columns, params.tags, cache)


def pin_files(
    paths: Sequence[Path], format: str, columns: Mapping[str, str], tags: str | None, cache: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return identity and place of files that are already on this machine; see `pin`."""
    hashed = sorted(
        (str(cache.file_hash(path, files.content_hash)), _delimiter(path, cache), str(_lying(path))) for path in paths
    )
    identity: dict[str, Any] = {
        "format": _resolve(paths, format, columns, cache),
        "columns": dict(columns),
        "tags": tags,
        "files": [digest for digest, _, _ in hashed],
    }
    if any(delimiter for _, delimiter, _ in hashed):
        identity["delimiter"] = [delimiter for _, delimiter, _ in hashed]
    return identity, {"paths": [path for _, _, path in hashed]}


def _delimiter(path: Path, cache: Any) -> str:
    """Return what parts a file's columns where it is not the comma of CSV, else nothing: ids of those stay as old."""
    return str(cache.fact(path, "delimiter", files.delimiter)) if files.is_tsv(path) else ""


def _lying(path: Path) -> Path:
    """Return the absolute path; a link keeps its own name, which may say how to read the file."""
    return path.parent.resolve() / path.name


def examples(params: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Example | BadRow]:
    """Yield the files' rows, file by file in the order of their hashes.

    Args:
        params: the identity that `pin` returned.
        where: the place that `pin` returned.

    Raises:
        DataError: a file is gone, or not the one that was planned.
    """
    for path, digest in zip(where["paths"], params["files"], strict=True):
        if files.content_hash(path) != digest:
            raise DataError(
                "the file changed since it was planned; run again to plan with the new content (`touch` it first if "
                "that has been tried)",
                path=path,
            )
        for line, raw in files.rows(path):
            yield _example(params, path, line, raw)


def estimate(params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
    """Count the rows and convert a sample from all over the files."""
    counts = [files.count(path) for path in where["paths"]]
    total = max(1, sum(counts))
    found = []
    for path, rows in zip(where["paths"], counts, strict=True):
        for line, raw in files.sample(path, max(1, SAMPLE * rows // total)):
            row = _example(params, path, line, raw)
            if isinstance(row, Example):
                found.append(row)
    return Estimate(sum(counts), True, tuple(found))


def _example(params: Mapping[str, Any], path: str, line: int, raw: Any) -> Example | BadRow:
    if isinstance(raw, BadRow):
        return raw
    try:
        return formats.example(
            raw, params["format"], columns=params["columns"], tags=params["tags"], path=path, line=line
        )
    except ValueError as error:
        return BadRow(path, line, str(error), str(raw)[: files.TEXT_KEPT])


def _expand(given: str | list[str], folder: Path) -> list[Path]:
    found: list[Path] = []
    for item in [given] if isinstance(given, str) else given:
        path = folder / Path(item).expanduser()
        if path.exists() or not glob.has_magic(item):
            found.append(path)
            continue
        matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        found += [match for match in matches if match.is_file()]
        if not matches:
            raise files.Absent("no file matches the pattern", path=str(path))
    if not found:
        raise DataError("`path` names no file; give one, or a pattern such as data/*.jsonl")
    # A file that is named twice, by a link perhaps, counts once.
    files_by_target: dict[Path, Path] = {}
    for path in found:
        files_by_target.setdefault(path.resolve(), _lying(path))
    return list(files_by_target.values())


def _resolve(paths: Sequence[Path], format: str, columns: Mapping[str, str], cache: Any) -> str:
    if format != "auto":
        return formats.known(format)
    fact = f"format {canonical.text(columns)}"
    found = {path: str(cache.fact(path, fact, lambda path: _look(path, columns))) for path in paths}
    names = sorted(set(found.values()))
    if len(names) > 1:
        shown = ", ".join(f"{path.name} is {name}" for path, name in found.items())
        raise DataError(f"the files have different formats ({shown}); make a source of each")
    return names[0]


def _look(path: Path, columns: Mapping[str, str]) -> str:
    try:
        return formats.detect(_named(path, columns))
    except DataError as error:
        raise error if error.path else DataError(error.message, path=str(path)) from None


def _named(path: Path, columns: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """Yield the first rows that are objects, with columns renamed where they are there."""
    for number, (_, raw) in enumerate(files.rows(path)):
        if number >= formats.LOOK_AT:
            return
        if isinstance(raw, BadRow):
            continue
        there = {field: column for field, column in columns.items() if column in raw}
        yield formats.renamed(raw, there)
