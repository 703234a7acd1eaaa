"""CPU seconds of what should cost nothing: help, plan and run of a finished recipe, planning 10,000 stages.

    python benchmarks/overhead.py

Each command runs in a process of its own, five times; minimum and median of user + system time are printed.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = """\
base: fake:bench
sources:
  math:    {path: "builtin:math",    ability: math,    amount: {count: 400}}
  code:    {path: "builtin:code",    ability: code,    amount: {count: 400}}
  general: {path: "builtin:general", ability: general, amount: {count: 400}}
training: {epochs: 1, max_length: 256}
runs:
  - {strategy: multi_task}
  - {strategy: sequential, order: [code, math, general]}
  - {strategy: mixed_sequential, general: general}
  - {strategy: dmt, general: general, k: [1/256, 1/64, 1/16, 1/4, 1]}
evaluation: [{heldout_loss: {items: 50}}]
"""


def large(runs: int) -> str:
    """Return a recipe whose graph holds about ten stages a run."""
    shares = ", ".join(f"{i + 1}/{runs}" for i in range(runs))
    head, _, _ = SMALL.replace("{count: 400}", "{count: 5000}").partition("runs:")
    return head + f"runs:\n  - {{strategy: dmt, general: general, k: [{shares}]}}\nevaluation: [heldout_loss]\n"


def cpu_seconds(command: list[str], folder: Path) -> float:
    """Return user and system seconds of one run of a command, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    cuvee = [sys.executable, "-m", "cuvee"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
        (folder / "large.yaml").write_text(large(1250), encoding="utf-8")
        subprocess.run([*cuvee, "run", "small.yaml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*cuvee, "plan", "large.yaml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; CPU seconds, minimum and median of 5")
        for title, command in (
            ("cuvee --help", [*cuvee, "--help"]),
            ("cuvee plan, all cached", [*cuvee, "plan", "small.yaml"]),
            ("cuvee run, all cached", [*cuvee, "run", "small.yaml"]),
            ("cuvee plan, 1,250 runs", [*cuvee, "plan", "large.yaml"]),
        ):
            times = [cpu_seconds(command, folder) for _ in range(5)]
            print(f"{title:28} {min(times):6.2f} {statistics.median(times):6.2f}")
        stages = 'import json, sys; print("stages:", json.load(sys.stdin)["totals"]["stages"])'
        plan = subprocess.run([*cuvee, "plan", "large.yaml", "--json"], cwd=folder, check=True, capture_output=True)
        subprocess.run([sys.executable, "-c", stages], input=plan.stdout, check=True)


if __name__ == "__main__":
    main()
