"""The selector that docs/selection.md shows, installed as a package of its own."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import pytest

from cuvee import components, selections
from cuvee.data import selection
from cuvee.errors import UsageError

from .test_selecting import POOL, done, recipe

DOCUMENT = Path(__file__).parents[2] / "docs" / "selection.md"


def block(language: str, holding: str) -> str:
    """Return the code block of the document that holds a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (one for one in blocks if holding in one)
    return str(found)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    (site / "my_package").mkdir(parents=True)
    (site / "my_package" / "__init__.py").touch()
    (site / "my_package" / "gap.py").write_text(block("python", "SEEDED"), encoding="utf-8")
    name, target = re.findall(r'^(\w+) = "(.*)"$', block("toml", "cuvee.selectors"), re.MULTILINE)[0]
    about = site / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[cuvee.selectors]\n{name} = {target}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))  # for workers
    importlib.invalidate_caches()


@pytest.mark.usefixtures("installed")
def test_a_selector_of_another_package_is_named_checked_and_executed_like_our_own(tmp_path: Path) -> None:
    assert components.names("selectors")["gap"] == "my_package.gap"
    asked = {"by": {"gap": {"small": "fake:small"}}, "count": 50, "pool": POOL}
    with pytest.raises(UsageError, match=r"unknown key 'flor'\. Did you mean 'floor'"):
        recipe(tmp_path, {"select": {**asked, "by": {"gap": {"small": "fake:small", "flor": 1}}}})
    plan = recipe(tmp_path, {"select": asked})
    store = done(plan, tmp_path)
    (stage,) = selections.stages(plan)
    found = selection.read(store.path("select", stage.id))
    assert stage.component == "gap"
    assert found["kept"].to_pylist().count(True) == 50
    scores = dict(zip(found["kept"].to_pylist(), found["score"].to_pylist(), strict=True))
    assert min(scores.values()) > 0
