"""What mergekit makes of the same models, with sums in float32 on both sides; the differences that stay are its rules'.

The Python that has mergekit is named by CUVEE_MERGEKIT_PYTHON.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.real

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "merge_speed.py"


@pytest.fixture(scope="module")
def peer() -> str:
    python = os.environ.get("CUVEE_MERGEKIT_PYTHON", "")
    if not python:
        pytest.skip("CUVEE_MERGEKIT_PYTHON names no Python with mergekit 0.1.5")
    try:
        found = subprocess.run([python, "-c", "import mergekit.merge"], capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"CUVEE_MERGEKIT_PYTHON: {python} cannot be started ({error.strerror})")
    if found.returncode:
        pytest.skip(f"CUVEE_MERGEKIT_PYTHON: {python} has no mergekit ({found.stderr.strip().splitlines()[-1]})")
    return python


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("merge_speed", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    bench.make(root, 128, 2, 500, 3)
    return root


# Sums of a few float32 products differ by their order; slerp's angle is taken in float32 there, in float64 here.
@pytest.mark.parametrize(
    ("method", "largest"),
    [("linear", 1e-7), ("task_arithmetic", 1e-7), ("slerp", 1e-6), ("ties", 1e-7), ("dare_ties", 1e-7)],
)
def test_the_results_are_equal_in_float32(
    bench: ModuleType, models: Path, peer: str, method: str, largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "dare_ties":  # nothing is dropped: mergekit's draws are its own; the rest of the method is compared
        params = {"weights": [0.4, 0.3, 0.2], "density": 1.0, "normalize": False}
        monkeypatch.setitem(bench.METHODS, method, (params, {"density": 1.0, "normalize": False}))
    mine, theirs = models / f"{method}-cuvee", models / f"{method}-mergekit"
    bench.ours(models, method, mine, "float32")
    # Its sort leaves equal magnitudes in no order; which of them TIES keeps is compared with a stable one.
    bench.theirs(peer, models, method, theirs, "float32", *(["stable"] if method == "ties" else []))
    different, total, far = bench.distance(mine, theirs)
    assert total > 100_000
    assert far <= largest, f"{different} of {total} differ"
