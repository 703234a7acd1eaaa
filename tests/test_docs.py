"""The documents say what is there: the tree is whole, links lead somewhere, recipes in them parse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cuvee.recipe import Recipe, parse, validate

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_readme_names_every_file_of_the_package() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files = [str(p.relative_to(ROOT / "src" / "cuvee")) for p in (ROOT / "src" / "cuvee").rglob("*.py")]
    assert [name for name in sorted(files) if f"  {name} " not in text] == []


def test_the_readme_names_no_file_that_is_gone() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.partition("## The tree")[2]
    named = re.findall(r"^  ([\w/]+\.py) ", tree, flags=re.MULTILINE)
    assert named
    assert [name for name in named if not (ROOT / "src" / "cuvee" / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_whole_recipes_in_the_documents_are_valid(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        if re.search(r"^base", block, flags=re.MULTILINE) and "runs:" in block:
            data, lines = parse(block, page.name)
            validate(Recipe, data, lines=lines, file=page.name)
