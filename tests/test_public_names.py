"""What `import cuvee` offers is complete, sorted, documented, and light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cuvee


def test_public_names_are_sorted_and_exist() -> None:
    assert cuvee.__all__ == sorted(cuvee.__all__)
    assert all(hasattr(cuvee, name) for name in cuvee.__all__)


def test_public_names_are_documented() -> None:
    assert [name for name in cuvee.__all__ if not getattr(cuvee, name).__doc__] == []


def test_importing_cuvee_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, cuvee, cuvee.cli; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_planning_on_a_real_base_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "examples" / "demo.yaml"
    code = (
        "import sys; from cuvee.cli import app\n"
        f"app(['plan', {str(recipe)!r}, '--store', {str(tmp_path / 's')!r}], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"
