from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cuvee.data.pool import AHEAD, Pool
from cuvee.errors import DataError, WorkFailed

SCRIPT = """
import os, sys, time
from pathlib import Path
from cuvee.data.pool import Pool
from tests.data.test_pool import noting

if __name__ == "__main__":
    with Pool(2, noting, sys.argv[1]) as pool:
        list(pool.map([0.2] * 1000))
"""


def adding(number: int) -> Callable[[int], int]:
    def add(other: int) -> int:
        time.sleep(0.02 if other % 3 == 0 else 0)
        return number + other

    return add


def failing(how: str) -> Callable[[int], int]:
    def fail(task: int) -> int:
        if task == 3:
            if how == "data":
                raise DataError("the row is odd", path="a.jsonl", line=7)
            if how == "bug":
                raise KeyError("missing")
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    return fail


def noting(folder: str) -> Callable[[float], None]:
    (Path(folder) / str(os.getpid())).touch()
    return time.sleep


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_results_come_in_the_order_of_the_tasks_whichever_child_is_faster() -> None:
    with Pool(2, adding, 10) as pool:
        assert list(pool.map(range(60))) == list(range(10, 70))
        assert list(pool.map([])) == []


def test_tasks_are_taken_no_further_ahead_than_results_are_wanted() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with Pool(2, adding, 0) as pool:
        results = pool.map(tasks())
        next(results)
        time.sleep(0.3)
        assert len(taken) <= 1 + 2 * AHEAD


def test_a_user_fault_keeps_its_file_and_line() -> None:
    with pytest.raises(DataError, match=r"^a\.jsonl:7: the row is odd$") as caught, Pool(2, failing, "data") as pool:
        list(pool.map(range(9)))
    assert (caught.value.path, caught.value.line) == ("a.jsonl", 7)


def test_another_error_comes_with_its_trace() -> None:
    with pytest.raises(WorkFailed, match=r"(?s)in fail.*KeyError: 'missing'"), Pool(2, failing, "bug") as pool:
        list(pool.map(range(9)))


def test_a_child_that_is_killed_is_told() -> None:
    with pytest.raises(WorkFailed, match=r"died \(code -9\); when memory is short"), Pool(2, failing, "die") as pool:
        list(pool.map(range(9)))


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py", tmp_path / "notes"], env=environment)
    deadline = time.monotonic() + 60
    while len(children := list((tmp_path / "notes").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) == 2
    parent.kill()
    parent.wait()
    while any(alive(int(child.name)) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(int(child.name)) for child in children)
