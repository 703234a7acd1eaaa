"""The shared programs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest


def shared_folder() -> Path:
    return Path(os.environ.get("CUVEE_SHARED", Path(__file__).parents[2].parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    return shared_folder()


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("real") and not shared_folder().is_dir():
            item.add_marker(pytest.mark.skip(reason=f"{shared_folder()} is absent"))
