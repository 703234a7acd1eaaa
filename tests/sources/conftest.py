from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


class Cache:
    """What a plan offers sources: hashes and revisions, and how often they were computed."""

    def __init__(self) -> None:
        self.revisions: dict[tuple[str, str], str] = {}
        self.hashed: list[Path] = []

    def file_hash(self, path: Path, compute: Callable[[Path], str]) -> str:
        self.hashed.append(path)
        return compute(path)

    def fact(self, path: Path, name: str, compute: Callable[[Path], str]) -> str:
        return compute(path)

    def revision(self, repo: str, requested: str, compute: Callable[[], str]) -> str:
        if (repo, requested) not in self.revisions:
            self.revisions[repo, requested] = compute()
        return self.revisions[repo, requested]


@pytest.fixture
def cache() -> Cache:
    return Cache()


def shared_folder() -> Path:
    return Path(os.environ.get("CUVEE_SHARED", Path(__file__).parents[2].parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    return shared_folder()


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("real") and not shared_folder().is_dir():
            item.add_marker(pytest.mark.skip(reason=f"{shared_folder()} is absent"))
