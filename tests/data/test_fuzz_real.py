"""Damaged files: nothing but a DataError comes up, and every row is kept or kept aside with a reason."""

from __future__ import annotations

import bz2
import contextlib
import copy
import gzip
import json
import lzma
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.data import files, formats
from cuvee.errors import DataError
from cuvee.values import BadRow, Example

Raw = dict[str, Any]

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": lambda data: bytes(pa.Codec("zstd").compress(data, asbytes=True)),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
}


def packed_as_table(rows: list[Raw], write: Callable[[Any, Any], None]) -> bytes:
    sink = pa.BufferOutputStream()
    write(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def _ipc(table: Any, sink: Any, new: Callable[..., Any]) -> None:
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)


CONTAINERS: dict[str, Callable[[list[Raw]], bytes]] = {
    "jsonl": lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    "array": lambda rows: json.dumps(rows).encode(),
    "parquet": lambda rows: packed_as_table(rows, lambda table, sink: pq.write_table(table, sink, row_group_size=16)),
    "arrow": lambda rows: packed_as_table(rows, lambda table, sink: _ipc(table, sink, pa.ipc.new_file)),
    "stream": lambda rows: packed_as_table(rows, lambda table, sink: _ipc(table, sink, pa.ipc.new_stream)),
}


def read(path: Path, format: str = "auto") -> list[Example | BadRow]:
    """Read a file as a source does; the sample and the count must not fail otherwise."""
    found = list(files.rows(path))
    assert files.count(path) == len(found)
    assert len(files.sample(path, 5)) <= 5
    name = formats.detect(row for _, row in found if isinstance(row, dict)) if format == "auto" else format
    return check(list(formats.examples(found, name, path=str(path))), name)


def check(rows: list[Example | BadRow], format: str) -> list[Example | BadRow]:
    for row in rows:
        if isinstance(row, BadRow):
            assert row.reason
            assert len(row.text) <= files.TEXT_KEPT
        else:
            assert any(message.role == "assistant" for message in row.messages) == (format != formats.QUESTION)
            assert len(row.key) == 16
    return rows


# ------------------------------------------------------------------------------------------------- mutations


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def cut_off(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


def cut_out(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice([1, 50, 5000]) :]


def move_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(5):
        at = rng.randrange(len(lines))
        lines[at : at + 1] = rng.choice(
            [[], [lines[at]] * 2, [b""], [lines[at], b"\r"], [lines[at][:40]], [b"\xff\xfe"]]
        )
        lines = lines or [b"{}"]
    return b"\n".join(lines)


BYTES = [flip_bits, cut_off, cut_out, move_lines]

ODD: list[Any] = [
    None,
    "",
    " ",
    [],
    {},
    0,
    -1.5,
    True,
    10**30,
    [None],
    [[]],
    {"": None},
    "\ud83d",
    "\x00",
    "NaN",
    "a" * 99,
]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) in a row."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def spoil(row: Raw, rng: random.Random) -> Raw:
    """Return a row with one value lost, of another type, or swapped with another one."""
    found = copy.deepcopy(row)
    there = list(places(found))
    (box, key), (other, at) = rng.choice(there), rng.choice(there)
    match rng.randrange(4):
        case 0 if isinstance(box, dict):
            del box[key]
        case 1 if isinstance(box, dict):
            box[f"{key} "] = box.pop(key)
        case 2:
            box[key] = copy.deepcopy(other[at])
        case _:
            box[key] = rng.choice(ODD)
    return found


# ---------------------------------------------------------------------------------------------------- real files

REAL = [
    "math/gsm8k_train",
    "math/gsm8k_screl_train_use",
    "chat/lima",
    "chat/mtbench101",
    "chat/sharegpt_sample_tagged",
    "chat/human_llm_multiturn",
    "chat/glaive_toolcall_en_300",
    "chat/oasst1_en_validation_messages",
    "chat/oasst_en_100_trees",
]
ROUNDS = 5


def first_rows(shared: Path, name: str) -> list[Raw]:
    with gzip.open(shared / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8", newline="\n") as stream:
        return [json.loads(line) for line, _ in zip(stream, range(40), strict=False)]


@pytest.mark.real
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", REAL)
def test_damaged_bytes_give_rows_or_a_data_error(shared: Path, tmp_path: Path, name: str, container: str) -> None:
    data = CONTAINERS[container](first_rows(shared, name))
    rng = random.Random(f"{name} {container}")
    whole = tmp_path / "whole"
    whole.write_bytes(data)
    intact = len(read(whole))
    for number in range(ROUNDS * len(BYTES)):
        packer = rng.choice([*PACKERS])
        mutate = BYTES[number % len(BYTES)]
        before = rng.random() < 0.7
        packed = PACKERS[packer](mutate(data, rng)) if before else mutate(PACKERS[packer](data), rng)
        path = tmp_path / f"{number}"
        path.write_bytes(packed)
        with contextlib.suppress(DataError):
            assert len(read(path)) <= 3 * intact or container in ("jsonl", "array")


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name in REAL if "oasst" not in name])
def test_every_line_of_a_damaged_file_is_accounted_for(shared: Path, tmp_path: Path, name: str) -> None:
    data = CONTAINERS["jsonl"](first_rows(shared, name))
    rng = random.Random(name)
    told = 0
    for _ in range(10 * ROUNDS):
        broken = rng.choice(BYTES)(data, rng)
        path = tmp_path / "x.jsonl"
        path.write_bytes(PACKERS[rng.choice([*PACKERS])](broken))
        try:
            rows = read(path)
        except DataError:  # nothing but a piece of a row is left
            continue
        if files.kind(path) == "jsonl":
            told += 1
            assert len(rows) == sum(1 for line in broken.split(b"\n") if line.strip())
    assert told > 5 * ROUNDS


@pytest.mark.real
@pytest.mark.parametrize("container", ["jsonl", "array"])
@pytest.mark.parametrize("name", REAL)
def test_spoiled_values_cost_their_own_row(shared: Path, tmp_path: Path, name: str, container: str) -> None:
    rows = first_rows(shared, name)
    format = formats.detect(rows)
    rng = random.Random(f"{name} {container}")
    good = {row.line for row in formats.examples(enumerate(rows, start=1), format) if isinstance(row, Example)}
    for number in range(5 * ROUNDS):
        spoiled = set(rng.sample(range(1, len(rows) + 1), 8))
        given = [spoil(row, rng) if line in spoiled else row for line, row in enumerate(rows, start=1)]
        text = "\n".join(map(json.dumps, given)) if container == "jsonl" else json.dumps(given, indent=number % 2)
        path = tmp_path / "x"
        path.write_bytes(PACKERS[rng.choice([*PACKERS])](text.encode()))
        found = read(path, format)
        if format not in formats.TREES:
            assert [row.line for row in found] == list(range(1, len(rows) + 1))
            assert {row.line for row in found if isinstance(row, Example)} >= good - spoiled


# ------------------------------------------------------------------------------------------- the same, hermetic

USER, ASSISTANT = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
SEEDS: list[Raw] = [
    {
        "messages": [USER, {**ASSISTANT, "weight": 1, "tool_calls": [{"function": {"name": "f"}}]}],
        "tools": [{"name": "f"}],
    },
    {
        "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}],
        "system": "Hi",
        "tools": "[]",
    },
    {"history": [{"user": "2 + 2?", "bot": "4"}]},
    {"instruction": "2 + 2?", "input": "", "output": "4", "history": [["1 + 1?", "2"]]},
    {"prompt": [USER], "completion": [ASSISTANT]},
    {"question": "2 + 2?", "answer": "4", "topic": ["sum"]},
    {"question": "2 + 2?", "answer": 4, "topic": "sum"},
    {"turns": ["2 + 2?", "And 3 + 3?"], "topic": "sum"},
    {"message_id": "a", "parent_id": None, "role": "prompter", "text": "2 + 2?", "deleted": False, "rank": 0},
    {"prompt": {"role": "prompter", "text": "a", "replies": [{"role": "assistant", "text": "b", "replies": []}]}},
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=6), st.randoms(use_true_random=False), st.integers(0, 3))
def test_spoiled_rows_are_kept_or_kept_aside(rows: list[Raw], rng: random.Random, times: int) -> None:
    for _ in range(times):
        rows = [spoil(row, rng) if row else row for row in rows]
    for format in formats.FORMATS:
        tags, columns = rng.choice([None, "topic"]), rng.choice([None, {"question": ["question", "topic"]}])
        kept = rng.choice([(), ("answer",)])
        rows_as_they_come = formats.examples(enumerate(rows), format, tags=tags, columns=columns, kept=kept)
        found = check(list(rows_as_they_come), format)
        if format not in formats.TREES:
            assert [row.line for row in found] == list(range(len(rows)))


@settings(deadline=None)
@given(st.sampled_from(SEEDS), st.integers(1, 5), st.randoms(use_true_random=False), st.sampled_from([*PACKERS]))
def test_damaged_lines_are_all_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, row: Raw, copies: int, rng: random.Random, packer: str
) -> None:
    data = CONTAINERS["jsonl"]([row] * copies)
    broken = rng.choice(BYTES)(data, rng)
    path = tmp_path_factory.mktemp("fuzz") / "x.jsonl"
    path.write_bytes(PACKERS[packer](broken))
    with contextlib.suppress(DataError):
        found = list(files.rows(path))
        assert files.kind(path) != "jsonl" or len(found) == sum(1 for line in broken.split(b"\n") if line.strip())
        read(path)


@settings(deadline=None)
@given(st.sampled_from(["array", "parquet", "arrow", "stream"]), st.randoms(use_true_random=False))
def test_damaged_containers_give_rows_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, container: str, rng: random.Random
) -> None:
    rows = [{"question": f"{n} + 1?", "answer": str(n), "topic": [str(n)] * (n % 3)} for n in range(40)]
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_bytes(rng.choice(BYTES)(CONTAINERS[container](rows), rng))
    with contextlib.suppress(DataError):
        read(path)
