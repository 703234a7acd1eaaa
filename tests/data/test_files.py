from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee.data import files
from cuvee.errors import DataError
from cuvee.values import BadRow

ROWS = [{"question": f"{n} + 1?", "answer": f"{n + 1} é\u2028"} for n in range(50)]


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def forms(folder: Path) -> dict[str, Path]:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, folder / "p.bin", row_group_size=7)
    with pa.OSFile(str(folder / "a.bin"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    pretty = json.dumps({"version": 1, "data": ROWS}, indent=2).encode()
    return {
        "jsonl": write(folder / "rows.txt", jsonl(ROWS)),
        "jsonl without last newline": write(folder / "rows2.jsonl", jsonl(ROWS)[:-1]),
        "jsonl with blank lines": write(folder / "rows3", b"\n" + jsonl(ROWS).replace(b"\n", b"\n\n")),
        "jsonl with byte order mark": write(folder / "rows4.jsonl", b"\xef\xbb\xbf" + jsonl(ROWS)),
        "array": write(folder / "array.json", json.dumps(ROWS).encode()),
        "pretty array": write(folder / "array2.json", json.dumps(ROWS, indent=1).encode()),
        "object": write(folder / "object.json", pretty),
        "object on one line": write(folder / "object2.json", json.dumps({"data": ROWS}).encode()),
        "long object on one line": write(folder / "object3", json.dumps({"x": "y" * 70_000, "data": ROWS}).encode()),
        "parquet": folder / "p.bin",
        "arrow": folder / "a.bin",
        "csv": write(
            folder / "rows.csv",
            ("question,answer\n" + "".join(f'"{row["question"]}","{row["answer"]}"\n' for row in ROWS)).encode(),
        ),
    }


def test_every_type_gives_the_same_rows_whatever_its_name(tmp_path: Path) -> None:
    for name, path in forms(tmp_path).items():
        assert [row for _, row in files.rows(path)] == ROWS, name
        assert files.count(path) == len(ROWS), name


def test_gzip_is_seen_by_its_bytes(tmp_path: Path) -> None:
    for name, path in forms(tmp_path).items():
        packed = write(tmp_path / f"packed-{path.name}", gzip.compress(path.read_bytes()))
        assert [row for _, row in files.rows(packed)] == ROWS, name


@pytest.mark.parametrize("jump_from", [0, 1 << 20])
def test_a_sample_comes_from_all_over_the_file_and_is_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_from: int
) -> None:
    monkeypatch.setattr(files, "JUMP_FROM", jump_from)
    for name, path in forms(tmp_path).items():
        found = [row for _, row in files.sample(path, 5)]
        numbers = [ROWS.index(row) for row in found if isinstance(row, dict)]
        assert len(numbers) == 5, name
        assert numbers[0] < 15, name
        assert numbers[-1] > 30, name
        assert found == [row for _, row in files.sample(path, 5)], name


def test_a_sample_larger_than_the_file_is_the_file(tmp_path: Path) -> None:
    for name, path in forms(tmp_path).items():
        assert len(files.sample(path, 500)) == len(ROWS), name


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", b'\n{"a": 1}\n\n{"a": 2}\n')
    assert [line for line, _ in files.rows(path)] == [2, 4]


def test_bad_lines_are_kept_with_line_and_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": \n[1]\n"text"\n{"a": "\xff"}\n{"a": 6}\n')
    rows = dict(files.rows(path))
    reasons = {line: row.reason for line, row in rows.items() if isinstance(row, BadRow)}
    assert sorted(reasons) == [2, 3, 4, 5]
    assert "broken JSON" in reasons[2]
    assert reasons[3] == "the row is a list, not an object"
    assert "invalid UTF-8 at byte 7" in reasons[5]
    assert rows[6] == {"a": 6}


def test_a_broken_first_line_does_not_hide_the_type(tmp_path: Path) -> None:
    path = write(tmp_path / "x", b'{"a": \n{"a": 2}\n')
    assert [type(row) for _, row in files.rows(path)] == [BadRow, dict]
    path = write(tmp_path / "y", b'oops\n{"a": 2}\n')
    assert [type(row) for _, row in files.rows(path)] == [BadRow, dict]


def test_one_conversation_in_a_file_is_a_row_and_not_a_wrapper(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Hi"}]}
    assert list(files.rows(write(tmp_path / "x.jsonl", json.dumps(row).encode()))) == [(1, row)]


def test_array_elements_longer_than_the_window_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 5)
    path = write(tmp_path / "x.json", json.dumps([{"a": "b" * 400}, 3, {"c": [1, {"d": "]"}]}]).encode())
    rows = [row for _, row in files.rows(path)]
    assert rows[0] == {"a": "b" * 400}
    assert isinstance(rows[1], BadRow)
    assert rows[2] == {"c": [1, {"d": "]"}]}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.jsonl", b"", "empty"),
        ("blank.jsonl", b" \n\n", "empty"),
        ("x.bin", b"\x00\x01\x02", "unknown"),
        ("cut.json", b'[{"a": 1}, {"a": 2}', "no end"),
        ("broken.json", b'[{"a": 1}, {"a" 2}]', "row 2"),
        ("cut.gz", gzip.compress(jsonl(ROWS))[:-60], "damaged"),
        ("cut.parquet", b"PAR1 and nothing", "damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_a_reason(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(DataError, match=message) as caught:
        list(files.rows(path))
    assert caught.value.path == str(path)


def test_an_absent_file_suggests_a_near_name(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k_train.jsonl", jsonl(ROWS))
    with pytest.raises(DataError, match=r"Did you mean 'gsm8k_train\.jsonl'"):
        files.rows(tmp_path / "gsm8k_trian.jsonl")
    with pytest.raises(DataError, match="this is a folder"):
        files.rows(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        files.rows(tmp_path / "no" / "x.jsonl")


def test_the_hash_is_that_of_the_bytes_on_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "x", b"abc")
    assert files.content_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.real
def test_every_real_file_has_the_rows_its_note_says(shared: Path) -> None:
    lines = (shared / "data" / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if ".jsonl.gz |" in line]
    assert len(cells) >= 50
    for _, name, _, _, rows, *_ in cells:
        assert files.count(shared / "data" / name) == int(rows), name


def test_what_is_not_there_is_told_apart_from_what_is_broken(tmp_path: Path) -> None:
    for absent in (tmp_path / "x.jsonl", tmp_path / "nowhere" / "x.jsonl"):
        with pytest.raises(files.Absent):
            files.content_hash(absent)
        with pytest.raises(files.Absent):
            files.kind(absent)
    for broken in (tmp_path, write(tmp_path / "empty.jsonl", b""), write(tmp_path / "x.bin", b"zz")):
        with pytest.raises(DataError) as found:
            files.kind(broken)
        assert not isinstance(found.value, files.Absent)


def test_the_delimiter_is_the_names_for_csv_alone(tmp_path: Path) -> None:
    table = b"question\tanswer\n1?\t2\n"
    assert files.delimiter(write(tmp_path / "x.tsv", table)) == "\t"
    assert files.delimiter(write(tmp_path / "x.tsv.gz", gzip.compress(table))) == "\t"
    assert files.delimiter(write(tmp_path / "x.csv", table)) == ","
    assert files.delimiter(write(tmp_path / "y.tsv", jsonl(ROWS))) == ""
