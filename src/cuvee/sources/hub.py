"""Examples from a data set on the Hugging Face hub, or from one file of it, pinned by revision.

The revision is resolved once and kept in the recipe's lock; without one in the path it is the newest. A file is
then read like a local one. A data set as a whole is fetched by the package ``datasets``, which runs no code of the
repository, and its rows are read from the Arrow files that this leaves in the cache. No paper. Needs the package
``huggingface_hub``, for whole data sets ``datasets`` too, and, the first time, a network.

    general: {path: "hf://datasets/GAIR/lima@main/train.jsonl", ability: general}
    math:    {path: "hf://datasets/openai/gsm8k", subset: main, split: train, ability: math}
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from cuvee.data.files import Absent
from cuvee.errors import DataError
from cuvee.protocols import Estimate
from cuvee.sources import local
from cuvee.values import BadRow, Example

VERSION = 2

_PATH = re.compile(r"hf://datasets/(?P<repo>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^/\s]+))?(?:/(?P<file>\S.*))?")
_FILE_NAME = re.compile(r"\.(jsonl?|parquet|arrow|[ct]sv|gz|zst|bz2|xz)$")


class Params(local.Reading):
    """Which rows of which data set, and how to read them.

    Args:
        path: ``hf://datasets/OWNER/NAME[@REVISION]`` or ``hf://datasets/OWNER/NAME[@REVISION]/FILE``.
        subset: the configuration of a whole data set; may be absent where there is only one.
        split: the split of a whole data set; ``train`` when absent. Parts of it are the business of `amount`.
        format, columns, tags, questions, kept: as in `local.Params`.
    """

    path: str
    subset: str | None = None
    split: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = None

    @field_validator("path")
    @classmethod
    def _is_hub_path(cls, path: str) -> str:
        found = _PATH.fullmatch(path)
        # hf://datasets/lima/train.jsonl: the owner is missing, not the file.
        if not found or (not found["file"] and _FILE_NAME.search(found["repo"])):
            raise ValueError(f"{path!r} is not hf://datasets/OWNER/NAME[@REVISION], with or without /FILE")
        return path

    @model_validator(mode="after")
    def _files_have_no_splits(self) -> Params:
        found = _PATH.fullmatch(self.path)
        if found and found["file"] and (self.subset or self.split):
            raise ValueError("a file has no subset and no split; name them with hf://datasets/OWNER/NAME alone")
        return self


def pin(params: Params, folder: Path, cache: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (identity, place), the place being files on this machine.

    The identity of a file holds repository, revision, file, and what `local.pin` returns; that of a whole data set
    repository, revision, subset, split, format, columns, tags, and the columns kept.

    Args:
        params: the source's parameters.
        folder: unused; hub data are relative to nothing.
        cache: has ``revision(name, requested, compute)``, which keeps a revision once it was resolved, and what
            `local.pin` asks of it. The name is ``datasets/OWNER/NAME``: a model may be called OWNER/NAME as well.

    Raises:
        Absent: a package is absent, the hub cannot be reached, or it has no such file.
        DataError: as `local.pin`; or the data set has several subsets and none is named, or has not the one named.
    """
    found = _PATH.fullmatch(params.path)
    assert found, "Params has checked it"
    repo, asked, file = found["repo"], found["revision"] or "main", found["file"]
    revision = str(cache.revision(f"datasets/{repo}", asked, lambda: _revision(repo, asked)))
    if file:
        path = _download(repo, revision, file)
        identity, where = local.pin_files([path], params, cache)
        return {"repo": repo, "revision": revision, "file": file, **identity}, where
    split = params.split or "train"
    subset, paths = _fetch(repo, revision, params.subset, split)
    how = local.how_to_read(paths, params, cache)
    identity = {"repo": repo, "revision": revision, "subset": subset, "split": split, **how}
    return identity, {"paths": [str(path) for path in paths]}


def examples(params: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Example | BadRow]:
    """Yield the rows in the hub's order; those of a file as `local.examples` does."""
    if "file" in params:
        yield from local.examples(params, where)
        return
    for path in where["paths"]:
        yield from local.read(params, path)


def estimate(params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
    """Look at the files; see `local.estimate`."""
    return local.estimate(params, where)


def _fetch(repo: str, revision: str, subset: str | None, split: str) -> tuple[str, list[Path]]:
    """Return the subset's name and the Arrow files that hold the split, in order."""
    datasets = _package("datasets", repo)
    try:
        subset = subset or _only_subset(repo, datasets.get_dataset_config_names(repo, revision=revision))
        found = datasets.load_dataset(repo, subset, split=split, revision=revision)
    except (Absent, DataError):
        raise
    except ValueError as error:  # an unknown subset or split, with the known ones
        raise DataError(f"{_first_line(error)} (data set {repo} at revision {revision})") from None
    except Exception as error:  # the library raises its own, its client's and the system's errors
        raise _unreachable(repo, f"split {split} at revision {revision}", error) from None
    if not found.cache_files:
        raise DataError(f"split {split} of the data set {repo} is empty, or was loaded into memory and left no file")
    return subset, [Path(file["filename"]) for file in found.cache_files]


def _only_subset(repo: str, names: list[str]) -> str:
    if len(names) != 1:
        raise DataError(f"the data set {repo} has several subsets; name one with subset: {', '.join(names)}")
    return names[0]


def _revision(repo: str, asked: str) -> str:
    try:
        return str(_package("huggingface_hub", repo).HfApi().dataset_info(repo, revision=asked).sha)
    except Absent:
        raise
    except Exception as error:  # the library raises its own, its client's and the system's errors
        raise _unreachable(repo, f"revision {asked}", error) from None


def _download(repo: str, revision: str, file: str) -> Path:
    try:
        return Path(
            _package("huggingface_hub", repo).hf_hub_download(repo, file, repo_type="dataset", revision=revision)
        )
    except Absent:
        raise
    except Exception as error:
        raise _unreachable(repo, f"file {file} at revision {revision}", error) from None


def _package(name: str, repo: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Absent(
            f"the data set {repo} needs the package {name}; install it (pip install 'cuvee[hub]'), or {_REMEDY}"
        ) from None


def _unreachable(repo: str, what: str, error: Exception) -> Absent:
    return Absent(f"{what} of the data set {repo} cannot be had from the hub: {_first_line(error)}; {_REMEDY}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_REMEDY = (
    "use a copy on this machine with sources.NAME.path=FILE, or plan without it by declaring its size with "
    "sources.NAME.declared={rows: N, tokens: N}"
)
