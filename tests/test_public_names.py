"""What `import cuvee` offers is complete, sorted, documented, and light."""

from __future__ import annotations

import subprocess
import sys

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
