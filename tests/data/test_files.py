from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee.data import files, formats
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
    with pa.OSFile(str(folder / "s.bin"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
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
        "arrow stream": folder / "s.bin",
        "csv": write(
            folder / "rows.csv",
            ("question,answer\n" + "".join(f'"{row["question"]}","{row["answer"]}"\n' for row in ROWS)).encode(),
        ),
    }


def test_every_type_gives_the_same_rows_whatever_its_name(tmp_path: Path) -> None:
    for name, path in forms(tmp_path).items():
        assert [row for _, row in files.rows(path)] == ROWS, name
        assert files.count(path) == len(ROWS), name


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


PACKERS = {"gzip": gzip.compress, "zstd": zstd, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("packer", PACKERS)
def test_compression_is_seen_by_its_bytes(tmp_path: Path, packer: str) -> None:
    for name, path in forms(tmp_path).items():
        packed = write(tmp_path / f"packed-{path.name}", PACKERS[packer](path.read_bytes()))
        assert [row for _, row in files.rows(packed)] == ROWS, name
        assert files.count(packed) == len(ROWS), name
        assert len(files.sample(packed, 5)) == 5, name


@pytest.mark.parametrize("packer", PACKERS)
def test_files_packed_one_after_another_are_one_file(tmp_path: Path, packer: str) -> None:
    parts = [PACKERS[packer](jsonl(ROWS[:20])), PACKERS[packer](jsonl(ROWS[20:]))]
    assert [row for _, row in files.rows(write(tmp_path / "x", b"".join(parts)))] == ROWS


@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_file_that_is_cut_off_or_broken_is_refused(tmp_path: Path, packer: str) -> None:
    packed = PACKERS[packer](jsonl([{"a": str(n * n * n)} for n in range(3000)]))
    middle = len(packed) // 2
    noise = bytes(byte ^ 0x5A for byte in packed[middle : middle + 40])
    broken = [packed[:middle] + noise + packed[middle + 40 :]]
    # Arrow writes Zstandard without a checksum; such a file's rows show what was broken.
    for data in (packed[:-9], packed[:middle], packed[:20], *(broken if packer != "zstd" else ())):
        with pytest.raises(DataError, match=r"compressed file is damaged.*fetch it again"):
            list(files.rows(write(tmp_path / "x.jsonl", data)))


@pytest.mark.parametrize("packer", PACKERS)
def test_an_empty_packed_file_is_empty(tmp_path: Path, packer: str) -> None:
    with pytest.raises(DataError, match="empty"):
        files.kind(write(tmp_path / "x", PACKERS[packer](b"")))


def test_a_parquet_file_with_a_broken_column_name_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"question", b"\xe5uestion"))
    with pytest.raises(DataError, match="the file is damaged after row 0"):
        list(files.rows(path))


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
        ("cut.arrow", b"ARROW1 and nothing", "damaged"),
        ("cut.stream", b"\xff\xff\xff\xff\x10\x00", "damaged"),
        ("two.json", b'[\n{"a": 1}]\n \n[\n{"a": 2}]', "more after the end of the JSON array of 1 rows"),
        ("two.json", b'{"a":\n 1}\n{"a":\n 2}', "one object a line"),
        ("deep.json", b'[{"a": ' + b"[" * 100_000, "row 1 .* is broken"),
        ("deep2.json", b'{"a":\n' + b"[" * 100_000, "broken JSON"),
        ("wide.jsonl", '{"a": 1}\n'.encode("utf-16"), "UTF-16, not in UTF-8; rewrite it with `iconv -f UTF-16 -t"),
        ("wide.json", '[{"a": 1}]'.encode("utf-16-le"), "UTF-16LE, not in UTF-8"),
        ("wider.jsonl", '{"a": 1}\n'.encode("utf-32"), "UTF-32, not in UTF-8"),
        ("twice.csv", b"a,b,a\n1,2,3\n", "two columns have one name"),
        ("quote.csv", b'"a,b\n1,2\n', "header cannot be used"),
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


# -------------------------------------------------------------------------------------------------- bad input


def reasons(path: Path) -> dict[int, str]:
    return {line: row.reason for line, row in files.rows(path) if isinstance(row, BadRow)}


def test_latin1_bytes_spoil_their_own_row_only(tmp_path: Path) -> None:
    lines = [f'{{"question": "{text}", "answer": "b"}}' for text in ("naïve", "plain", "été")]
    data = "\n".join(lines).encode("latin-1").replace(b"\xef", "ï".encode())
    assert list(reasons(write(tmp_path / "x.jsonl", data))) == [3]
    array = b"[" + data.replace(b"\n", b",") + b"]"
    rows = list(formats.examples(files.rows(write(tmp_path / "x.json", array)), "question_answer"))
    assert [row.reason for row in rows if isinstance(row, BadRow)] == ["broken Unicode in a user turn"]
    assert len(rows) == 3


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_spoil_their_own_row(tmp_path: Path, constant: str) -> None:
    rows = ['{"a": 1}', f'{{"a": [{constant}]}}', '{"a": 3}']
    for path in (
        write(tmp_path / "x.jsonl", "\n".join(rows).encode()),
        write(tmp_path / "x.json", f"[{', '.join(rows)}]".encode()),
    ):
        assert reasons(path) == {2: f"broken JSON: {constant} is no JSON value; write null"}
        assert files.count(path) == 3


def test_of_a_key_that_is_there_twice_the_last_value_counts(tmp_path: Path) -> None:
    assert list(files.rows(write(tmp_path / "x.jsonl", b'{"a": 1, "a": 2}\n'))) == [(1, {"a": 2})]


def test_a_row_that_is_nested_too_deeply_spoils_itself_only(tmp_path: Path) -> None:
    data = b'{"a": 1}\n{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    assert reasons(write(tmp_path / "x.jsonl", data)) == {2: "broken JSON: nested too deeply"}


def test_numbers_at_the_edge_of_the_window_are_not_cut_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.json", b"[123456, 7, 89]")
    for chunk in range(1, 16):
        monkeypatch.setattr(files, "CHUNK", chunk)
        assert [row.text for _, row in files.rows(path) if isinstance(row, BadRow)] == ["123456", "7", "89"]


def test_a_broken_row_of_an_array_does_not_draw_the_whole_file_into_memory(tmp_path: Path) -> None:
    data = b'[{"a": oops}' + b', {"a": "bcd"}' * 1_000_000 + b"]"
    path = write(tmp_path / "x.json", data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="row 1 of the JSON array is broken"):
            list(files.rows(path))
        assert tracemalloc.get_traced_memory()[1] < len(data) / 2
    finally:
        tracemalloc.stop()


TABLE = [["question", "answer"], ['a "b"\r\nc, d', "1"], ["", "x" * 200_000], ["e\x00f", "2"]]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_csv_fields_hold_line_ends_quotes_and_any_number_of_characters(tmp_path: Path, line_end: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=line_end).writerows(TABLE)
    rows = list(files.rows(write(tmp_path / "x.csv", out.getvalue().encode())))
    assert [row for _, row in rows] == [dict(zip(TABLE[0], cells, strict=True)) for cells in TABLE[1:]]
    assert [line for line, _ in rows] == [2, 4, 5]


def test_csv_rows_with_broken_quotes_or_columns_are_kept_aside(tmp_path: Path) -> None:
    data = b'question,answer\na,b\n"a"b,c\na\na,b,c\n\na,b\n"never closed,b\na,b\n'
    path = write(tmp_path / "x.csv", data)
    assert reasons(path) == {
        3: "broken CSV: ',' expected after '\"' (lines 3 to 3)",
        4: "the row has 1 columns, the header 2",
        5: "the row has 3 columns, the header 2",
        8: "broken CSV: unexpected end of data (lines 8 to 9)",
    }
    assert files.count(path) == 6


def test_carriage_returns_before_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", jsonl(ROWS).replace(b"\n", b"\r\n"))
    assert [row for _, row in files.rows(path)] == ROWS


def test_broken_text_in_a_column_spoils_its_own_row(tmp_path: Path) -> None:
    values = pa.array([b"a", b"\xff\xfe", b"c"], pa.binary())
    table = pa.table({"question": pa.Array.from_buffers(pa.string(), 3, values.buffers())})
    pq.write_table(table, tmp_path / "x.parquet")
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("x.parquet", "x.arrow"):
        found = reasons(tmp_path / name)
        assert list(found) == [2], name
        assert found[2].startswith("a value cannot be read: "), name


def test_a_file_that_shrinks_while_it_is_read_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", b"[" + b'{"a": "bcdefgh"}, ' * 200_000 + b"{}]")
    with pytest.raises(DataError, match="changed while it was read"), files.steady(path):  # noqa: PT012
        rows = files.rows(path)
        next(rows)
        os.truncate(path, 100)
        list(rows)


def test_a_quiet_file_is_steady(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", b'{"a": 1}\n')
    with files.steady(path):
        assert len(list(files.rows(path))) == 1
    with pytest.raises(DataError, match="damaged"), files.steady(write(tmp_path / "y", b"PAR1")):
        list(files.rows(tmp_path / "y"))


def peak(path: Path) -> tuple[int, int]:
    """Return how many rows a file has, and the bytes in use while they were read."""
    tracemalloc.start()
    try:
        return sum(1 for _ in files.rows(path)), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_with_the_longest_row_and_not_with_the_file(tmp_path: Path) -> None:
    row = json.dumps({"question": "a" * 5_000_000, "answer": "b"})
    for name, text in (("x.jsonl", "\n".join([row] * 20)), ("x.json", "[" + ",\n".join([row] * 20) + "]")):
        rows, used = peak(write(tmp_path / name, text.encode()))
        assert rows == 20
        assert used < 8 * len(row), name
