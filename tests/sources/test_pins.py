"""A remembered hash is used for the file it was computed of, and for no other."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from cuvee import pins
from cuvee.errors import DataError
from cuvee.pins import Pins
from cuvee.sources import local


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "1?", "answer": "2"}\n')
    return path


def made(tmp_path: Path) -> Pins:
    """Return what the next plan has."""
    return Pins(tmp_path / "pins.json", tmp_path / "recipe.lock")


def settle() -> None:
    time.sleep(2 * pins.SETTLED_NS / 1e9)


def refuse(path: Path) -> str:
    raise AssertionError(f"{path} was read again")


def change(path: Path, text: str) -> None:
    """Change a file so that its size and modification time stay as they are."""
    before = path.stat()
    assert len(text) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_file_that_lay_unchanged_is_not_read_again(tmp_path: Path, file: Path) -> None:
    settle()
    first = made(tmp_path)
    digest = first.file_hash(file)
    first.save()
    assert made(tmp_path).file_hash(file, refuse) == digest


def test_a_change_of_equal_size_and_time_is_seen(tmp_path: Path, file: Path) -> None:
    settle()
    first = made(tmp_path)
    digest = first.file_hash(file)
    first.save()
    change(file, file.read_text().replace("2", "3"))
    assert made(tmp_path).file_hash(file) == pins.sha256(file) != digest


def test_another_file_in_its_place_is_seen(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "b.jsonl"
    other.write_text(file.read_text().replace("2", "3"))
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    settle()
    first = made(tmp_path)
    first.file_hash(file)
    first.save()
    os.replace(other, file)
    assert made(tmp_path).file_hash(file) == pins.sha256(file)


def test_what_was_written_just_now_is_looked_at_once_more(tmp_path: Path, file: Path) -> None:
    # A change within one tick of the file system's clock leaves no trace in the file's times.
    status = file.stat()
    found = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    stale = {"status": found, "looked": status.st_ctime_ns + 1_000_000, "sha256": "of the moment before"}
    (tmp_path / "pins.json").write_text(json.dumps({str(file): stale}))
    settle()
    second = made(tmp_path)
    assert second.file_hash(file) == pins.sha256(file)
    second.save()
    assert made(tmp_path).file_hash(file, refuse) == pins.sha256(file)


def test_what_is_forgotten_is_read_again(tmp_path: Path, file: Path) -> None:
    settle()
    first = made(tmp_path)
    first.fact(file, "format", lambda path: "old")
    first.save()
    second = made(tmp_path)
    second.forget(tmp_path / "never seen")
    second.forget(file)
    second.save()
    assert made(tmp_path).fact(file, "format", lambda path: "new") == "new"


def test_pins_of_an_older_version_are_read_again(tmp_path: Path, file: Path) -> None:
    old = {"status": [file.stat().st_size, file.stat().st_mtime_ns], "sha256": "old"}
    (tmp_path / "pins.json").write_text(json.dumps({str(file): old}))
    assert made(tmp_path).file_hash(file) == pins.sha256(file)


def test_running_again_is_the_remedy_it_is_said_to_be(tmp_path: Path, file: Path) -> None:
    settle()
    first = made(tmp_path)
    identity, where = local.pin(local.Params(path="a.jsonl"), tmp_path, first)
    first.save()
    change(file, file.read_text().replace("2", "3"))
    with pytest.raises(DataError, match="run again to plan with the new content"):
        list(local.examples(identity, where))
    identity, where = local.pin(local.Params(path="a.jsonl"), tmp_path, made(tmp_path))
    assert len(list(local.examples(identity, where))) == 1
