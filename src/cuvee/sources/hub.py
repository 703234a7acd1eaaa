"""Examples from a file of a data set on the Hugging Face hub, pinned by revision.

The revision is resolved once and kept in the recipe's lock; without one in the path it is the newest. The file is
then read like a local one; no paper. Needs the package ``huggingface_hub`` and, the first time, a network.

    general: {path: "hf://datasets/GAIR/lima@main/train.jsonl", ability: general}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from cuvee.data.files import Absent
from cuvee.protocols import Estimate
from cuvee.protocols import Params as Base
from cuvee.sources import local
from cuvee.values import BadRow, Example

VERSION = 1

_PATH = re.compile(r"hf://datasets/(?P<repo>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^/\s]+))?/(?P<file>\S.*)")


class Params(Base):
    """Which file of which data set, and how to read it.

    Args:
        path: ``hf://datasets/OWNER/NAME[@REVISION]/FILE``.
        format: as in `local.Params`.
        columns: as in `local.Params`.
        tags: as in `local.Params`.
    """

    path: str
    format: str = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    tags: str | None = None

    @field_validator("path")
    @classmethod
    def _is_hub_path(cls, path: str) -> str:
        if not _PATH.fullmatch(path):
            raise ValueError(f"{path!r} is not hf://datasets/OWNER/NAME[@REVISION]/FILE")
        return path


def pin(params: Params, folder: Path, cache: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (identity: repository, revision, file, and what `local.pin` returns; place: the downloaded file).

    Args:
        params: the source's parameters.
        folder: unused; hub files are relative to nothing.
        cache: has ``revision(name, requested, compute)``, which keeps a revision once it was resolved, and what
            `local.pin` asks of it. The name is ``datasets/OWNER/NAME``: a model may be called OWNER/NAME as well.

    Raises:
        Absent: the package is absent, the hub cannot be reached, or it has no such file.
        DataError: as `local.pin`.
    """
    found = _PATH.fullmatch(params.path)
    assert found, "Params has checked it"
    repo, asked, file = found["repo"], found["revision"] or "main", found["file"]
    revision = str(cache.revision(f"datasets/{repo}", asked, lambda: _revision(repo, asked)))
    path = _download(repo, revision, file)
    identity, where = local.pin_files([path], params.format, params.columns, params.tags, cache)
    return {"repo": repo, "revision": revision, "file": file, **identity}, where


def examples(params: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Example | BadRow]:
    """Yield the file's rows; see `local.examples`."""
    return local.examples(params, where)


def estimate(params: Mapping[str, Any], where: Mapping[str, Any]) -> Estimate:
    """Look at the file; see `local.estimate`."""
    return local.estimate(params, where)


def _revision(repo: str, asked: str) -> str:
    try:
        return str(_hub(repo).HfApi().dataset_info(repo, revision=asked).sha)
    except Absent:
        raise
    except Exception as error:  # the library raises its own, its client's and the system's errors
        raise _unreachable(repo, f"revision {asked}", error) from None


def _download(repo: str, revision: str, file: str) -> Path:
    try:
        return Path(_hub(repo).hf_hub_download(repo, file, repo_type="dataset", revision=revision))
    except Absent:
        raise
    except Exception as error:
        raise _unreachable(repo, f"file {file} at revision {revision}", error) from None


def _hub(repo: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise Absent(
            f"the data set {repo} needs the package huggingface_hub; install it (pip install 'cuvee[hub]'), or "
            f"{_REMEDY}"
        ) from None
    return huggingface_hub


def _unreachable(repo: str, what: str, error: Exception) -> Absent:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Absent(f"{what} of the data set {repo} cannot be had from the hub: {reason}; {_REMEDY}")


_REMEDY = (
    "use a copy on this machine with sources.NAME.path=FILE, or plan without it by declaring its size with "
    "sources.NAME.declared={rows: N, tokens: N}"
)
