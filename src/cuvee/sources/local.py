"""Examples from local files, pinned by the hashes of their contents.

Reads JSON, JSONL, Parquet, Arrow and CSV, compressed or not, in the formats of `data.formats`; no paper. Several
files count as the sorted list of their hashes: a renamed or moved file is the same source. Only where the name says
how to read a file, as .tsv does, the name's part of it counts too.

    math: {path: gsm8k_train.jsonl.gz, ability: math}
    code: {path: "code/*.jsonl", format: alpaca, ability: code}
    mine: {path: pairs.csv, columns: {question: problem, answer: solution}, tags: topic, ability: math}
    word: {path: svamp.jsonl, columns: {question: [Body, Question], answer: Answer}, ability: math}
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cuvee import canonical
from cuvee.data import files, formats
from cuvee.errors import DataError
from cuvee.protocols import Estimate
from cuvee.protocols import Params as Base
from cuvee.values import BadRow, Example

VERSION = 2
SAMPLE = 200
"""Rows that `estimate` converts."""


Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Reading(Base):
    """How the rows of files become examples; see `Params`."""

    format: str = "auto"
    columns: dict[str, str | Names] = Field(default_factory=dict)
    tags: str | None = None
    questions: bool = False
    kept: tuple[str, ...] = ()


class Params(Reading):
    """Where the rows lie and how to read them.

    Args:
        path: a file, a pattern such as ``data/*.jsonl``, a folder that `datasets` saved (`save_to_disk`), or a list
            of these; relative to the recipe.
        format: a name of `formats.FORMATS`, or ``auto`` to find it by looking.
        columns: the format's field to the file's column, such as ``{question: problem}``, or to several, whose texts
            are joined by one space: ``{question: [Body, Question]}``.
        tags: the column with tags, a text or a list of texts.
        questions: rows may have questions without answers, as benchmarks do; of no use for training.
        kept: columns that are kept beside the conversation as they are, for judges that ask for them.
    """

    path: str | list[str]


def pin(params: Params, folder: Path, cache: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (identity: format, columns, tags, sorted file hashes; place: absolute paths in the same order).

    Where columns are kept, ``kept`` lists them in alphabetical order. Where a file is parted by something else than
    commas, ``delimiter`` lists what parts each file, in the order of the hashes; empty for files that are no CSV.
    ``questions`` is no part of it: it decides which format is found, and that one is.

    Args:
        params: the source's parameters.
        folder: what relative paths are relative to.
        cache: has ``file_hash(path, compute)`` and ``fact(path, name, compute)``, which may know a file already.

    Raises:
        Absent: a file is absent, or a pattern matches nothing.
        DataError: a file is unreadable, no format fits, two files differ in format, or columns of trees are kept.
    """
    return pin_files(_expand(params.path, Path(folder)), params, cache)


def pin_files(paths: Sequence[Path], how: Reading, cache: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return identity and place of files that are already on this machine; see `pin`."""
    hashed = sorted(
        (str(cache.file_hash(path, files.content_hash)), _delimiter(path, cache), str(_lying(path))) for path in paths
    )
    identity = how_to_read(paths, how, cache)
    identity["files"] = [digest for digest, _, _ in hashed]
    if any(delimiter for _, delimiter, _ in hashed):
        identity["delimiter"] = [delimiter for _, delimiter, _ in hashed]
    return identity, {"paths": [path for _, _, path in hashed]}


def how_to_read(paths: Sequence[Path], how: Reading, cache: Any) -> dict[str, Any]:
    """Return the part of the identity that says how rows are read: format, columns, tags, and what is kept."""
    format = _resolve(paths, how, cache)
    columns = {field: name if isinstance(name, str) else list(name) for field, name in how.columns.items()}
    identity: dict[str, Any] = {"format": format, "columns": columns, "tags": how.tags}
    if format in formats.READINGS:
        identity["reading"] = formats.READINGS[format]
    if not how.kept:
        return identity
    if format in formats.TREES:
        raise DataError(f"a conversation of the format {format} is made of many rows, and can keep no columns of one")
    return {**identity, "kept": sorted(set(how.kept))}


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
        DataError: a file is gone, is not the one that was planned, or changes while it is read.
    """
    for path, digest in zip(where["paths"], params["files"], strict=True):
        with files.steady(path):
            if files.content_hash(path) != digest:
                raise DataError(
                    "the file changed since it was planned; run again to plan with the new content (`touch` it first "
                    "if that has been tried)",
                    path=path,
                )
            yield from read(params, path)


def read(params: Mapping[str, Any], path: str) -> Iterator[Example | BadRow]:
    """Yield one file's rows as the source's parameters say."""
    return _converted(files.rows(path), params, path)


def _converted(rows: Iterable[files.RawRow], params: Mapping[str, Any], path: str) -> Iterator[Example | BadRow]:
    return formats.examples(
        rows,
        params["format"],
        columns=params["columns"],
        tags=params["tags"],
        kept=params.get("kept", ()),
        path=path,
    )


def estimate(params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
    """Count the rows and convert a sample from all over the files; trees are read whole."""
    if params["format"] in formats.TREES:
        rows = [row for path in where["paths"] for row in read(params, path) if isinstance(row, Example)]
        return Estimate(len(rows), True, tuple(files.spread(rows, SAMPLE)))
    counts = [files.count(path) for path in where["paths"]]
    total = max(1, sum(counts))
    found: list[Example] = []
    for path, number in zip(where["paths"], counts, strict=True):
        some = files.sample(path, max(1, SAMPLE * number // total))
        found += [row for row in _converted(some, params, path) if isinstance(row, Example)]
    return Estimate(sum(counts), True, tuple(found))


def _expand(given: str | list[str], folder: Path) -> list[Path]:
    found: list[Path] = []
    for item in [given] if isinstance(given, str) else given:
        path = folder / Path(item).expanduser()
        if path.is_dir():
            found += _saved(path)
            continue
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


def _saved(folder: Path) -> list[Path]:
    """Return the files of a data set that the `datasets` package saved to a folder (`save_to_disk`)."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"]
            known = ", ".join(str(folder / str(split)) for split in splits)
            raise DataError(f"the folder holds several splits; give one of them: {known}", path=str(folder))
        state = json.loads((folder / "state.json").read_text("utf-8"))
        return [folder / str(file["filename"]) for file in state["_data_files"]]
    except FileNotFoundError:
        reason = f"this is a folder; give a file in it or a pattern such as {folder}/*.jsonl"
    except (OSError, ValueError, KeyError, TypeError):
        reason = f"the folder's list of files is damaged; give a pattern: {folder}/*.arrow"
    raise DataError(reason, path=str(folder))


def _resolve(paths: Sequence[Path], how: Reading, cache: Any) -> str:
    if how.format != "auto":
        return formats.known(how.format, how.questions)
    fact = f"{'questions' if how.questions else 'format'} {canonical.text(how.columns)}"
    found = {path: str(cache.fact(path, fact, lambda path: _look(path, how))) for path in paths}
    names = sorted(set(found.values()))
    if len(names) > 1:
        shown = ", ".join(f"{path.name} is {name}" for path, name in found.items())
        raise DataError(f"the files have different formats ({shown}); make a source of each")
    return names[0]


def _look(path: Path, how: Reading) -> str:
    detect = formats.detect_questions if how.questions else formats.detect
    try:
        return detect(_named(path, how.columns))
    except DataError as error:
        raise error if error.path else DataError(error.message, path=str(path)) from None


def _named(path: Path, columns: formats.Columns) -> Iterator[Mapping[str, Any]]:
    """Yield the first rows that are objects, with columns renamed where they are there."""
    for number, (_, raw) in enumerate(files.rows(path)):
        if number >= formats.LOOK_AT:
            return
        if not isinstance(raw, BadRow):
            yield formats.renamed_where_there(raw, columns)
