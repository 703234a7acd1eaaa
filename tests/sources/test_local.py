from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from cuvee import canonical
from cuvee.data import files, formats
from cuvee.errors import DataError
from cuvee.pins import Pins
from cuvee.protocols import Source
from cuvee.sources import local
from cuvee.values import BadRow, Example

ROWS = [{"question": f"{n} + 1?", "answer": f"{n + 1}", "topic": ["sum"]} for n in range(20)]


def write(path: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def everything(identity: Any, where: Any) -> list[Example | BadRow]:
    return list(local.examples(identity, where))


def test_the_module_is_a_source() -> None:
    source: Source = local
    assert source.VERSION >= 1
    with pytest.raises(ValidationError):
        local.Params(path="x", pth="y")  # type: ignore[call-arg]


def test_rows_come_with_file_line_and_tags(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "x.jsonl", ROWS, tail="{broken\n")
    identity, where = local.pin(local.Params(path="x.jsonl", tags="topic"), tmp_path, cache)
    rows = everything(identity, where)
    assert identity["format"] == "question_answer"
    assert isinstance(rows[0], Example)
    assert (rows[0].path, rows[0].line, rows[0].tags) == (str(tmp_path / "x.jsonl"), 1, ("sum",))
    assert isinstance(rows[-1], BadRow)
    assert rows[-1].line == 21


def test_identity_is_the_content_and_not_names_places_or_order(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "one" / "a.jsonl", ROWS[:9])
    write(tmp_path / "one" / "b.jsonl", ROWS[9:])
    write(tmp_path / "two" / "z.jsonl", ROWS[:9])
    write(tmp_path / "two" / "c.jsonl", ROWS[9:])
    first, there = local.pin(local.Params(path=["b.jsonl", "a.jsonl"]), tmp_path / "one", cache)
    second, here = local.pin(local.Params(path="*.jsonl"), tmp_path / "two", cache)
    assert canonical.text(first) == canonical.text(second)
    assert first["files"] == sorted(first["files"])
    ids = [row.id for row in everything(first, there) if isinstance(row, Example)]
    assert ids == [row.id for row in everything(second, here) if isinstance(row, Example)]


def test_a_file_named_twice_counts_once(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    identity, _ = local.pin(local.Params(path=["a.jsonl", "*.jsonl"]), tmp_path, cache)
    assert len(identity["files"]) == 1


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path: Path, cache: Any) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    identity, where = local.pin(local.Params(path="a.jsonl"), tmp_path, cache)
    write(path, ROWS[1:])
    with pytest.raises(DataError, match="changed since it was planned"):
        everything(identity, where)


def test_files_of_two_formats_are_refused(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.jsonl", [{"instruction": "Add", "input": "", "output": "2"}])
    with pytest.raises(DataError, match=r"a\.jsonl is question_answer, b\.jsonl is alpaca"):
        local.pin(local.Params(path=["a.jsonl", "b.jsonl"]), tmp_path, cache)


def test_what_is_not_there_is_named(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(files.Absent, match=r"Did you mean 'train\.jsonl'"):
        local.pin(local.Params(path="trian.jsonl"), tmp_path, cache)
    with pytest.raises(files.Absent, match="no file matches"):
        local.pin(local.Params(path="*.csv"), tmp_path, cache)
    with pytest.raises(DataError, match="possible: auto, messages"):
        local.pin(local.Params(path="train.jsonl", format="sharegtp"), tmp_path, cache)
    with pytest.raises(DataError, match="names no file"):
        local.pin(local.Params(path=[]), tmp_path, cache)


def test_unknown_keys_name_the_file_and_columns_help(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", [{"task": "1 + 1?", "target": "2"}])
    with pytest.raises(DataError, match=r"a\.jsonl: no format fits: the rows have the keys target, task"):
        local.pin(local.Params(path="a.jsonl"), tmp_path, cache)
    columns = {"question": "task", "answer": "target"}
    identity, where = local.pin(local.Params(path="a.jsonl", columns=columns), tmp_path, cache)
    (row,) = everything(identity, where)
    assert isinstance(row, Example)
    assert row.messages[1].content == "2"


TABLE = "question,x\tanswer\n1,1?\t2\n"


def test_equal_bytes_that_are_read_differently_are_different_sources(tmp_path: Path, cache: Any) -> None:
    for name in ("a.csv", "a.tsv", "b.tsv"):
        (tmp_path / name).write_text(TABLE)
    columns = {"question": "question,x"}
    tsv, where = local.pin(local.Params(path="a.tsv", format="question_answer", columns=columns), tmp_path, cache)
    csv, _ = local.pin(local.Params(path="a.csv", format="question_answer", columns=columns), tmp_path, cache)
    renamed, _ = local.pin(local.Params(path="b.tsv", format="question_answer", columns=columns), tmp_path, cache)
    assert tsv["files"] == csv["files"]
    assert canonical.text(tsv) != canonical.text(csv)
    assert canonical.text(tsv) == canonical.text(renamed)
    assert tsv["delimiter"] == ["\t"]
    (row,) = everything(tsv, where)
    assert isinstance(row, Example)
    assert row.messages[1].content == "2"


def test_a_delimiter_is_part_of_no_other_identity(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.tsv", ROWS)
    (tmp_path / "c.csv").write_text("question,answer\n1?,2\n")
    for name in ("a.jsonl", "b.tsv", "c.csv"):
        identity, _ = local.pin(local.Params(path=name), tmp_path, cache)
        assert sorted(identity) == ["columns", "files", "format", "tags"]
    (tmp_path / "d.tsv").write_text("question\tanswer\n1?\t2\n")
    identity, where = local.pin(local.Params(path=["a.jsonl", "c.csv", "d.tsv"]), tmp_path, cache)
    delimiters = dict(zip((Path(path).name for path in where["paths"]), identity["delimiter"], strict=True))
    assert delimiters == {"a.jsonl": "", "c.csv": "", "d.tsv": "\t"}


def test_a_link_is_read_by_its_own_name(tmp_path: Path, cache: Any) -> None:
    (tmp_path / "blob").write_text("question,answer\n1?,2\n")
    (tmp_path / "a.csv").symlink_to(tmp_path / "blob")
    identity, where = local.pin(local.Params(path="a.csv"), tmp_path, cache)
    assert len(everything(identity, where)) == 1
    both, _ = local.pin(local.Params(path=["a.csv", "blob"]), tmp_path, cache)
    assert both == identity


def test_an_estimate_counts_all_files_and_samples_each(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    more = (tmp_path / "a.jsonl").read_bytes() + b'{"question": "x?", "answer": "y"}\n'
    (tmp_path / "b.gz").write_bytes(gzip.compress(more))
    identity, where = local.pin(local.Params(path=["a.jsonl", "b.gz"]), tmp_path, cache)
    found = local.estimate(identity, where)
    assert (found.rows, found.exact) == (41, True)
    assert {Path(row.path).name for row in found.sample} == {"a.jsonl", "b.gz"}


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path, cache: Any) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    table = pa.Table.from_pylist(ROWS)
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for number, name in enumerate(names):
        with pa.OSFile(str(saved / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(10 * number, 10))
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    identity, where = local.pin(local.Params(path="saved"), tmp_path, cache)
    assert len(everything(identity, where)) == len(ROWS)
    by_pattern, _ = local.pin(local.Params(path="saved/*.arrow"), tmp_path, cache)
    assert by_pattern == identity


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("dataset_dict.json", '{"splits": ["train", "test"]}', r"several splits; give one of them: .*saved/train, "),
        ("state.json", "{}", r"list of files is damaged; give a pattern: .*saved/\*\.arrow"),
        ("readme.md", "", r"this is a folder; give a file in it or a pattern"),
    ],
)
def test_another_folder_says_what_to_give(tmp_path: Path, cache: Any, name: str, text: str, reason: str) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        local.pin(local.Params(path="saved"), tmp_path, cache)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, cache: Any) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    identity, where = local.pin(local.Params(path="a.jsonl"), tmp_path, cache)
    rows = local.examples(identity, where)
    next(rows)
    with path.open("a") as stream:
        stream.write(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(DataError, match="changed while it was read; run again"):
        list(rows)


TREE = [
    {"message_id": "a", "parent_id": None, "role": "prompter", "text": "2 + 2?"},
    {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "4", "rank": 1},
    {"message_id": "c", "parent_id": "a", "role": "assistant", "text": "Four.", "rank": 0},
]


def test_trees_are_counted_by_conversations(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", TREE)
    identity, where = local.pin(local.Params(path="a.jsonl"), tmp_path, cache)
    assert identity["format"] == "oasst_best"
    assert local.estimate(identity, where).rows == 1
    identity, where = local.pin(local.Params(path="a.jsonl", format="oasst"), tmp_path, cache)
    assert local.estimate(identity, where).rows == 2
    rows = everything(identity, where)
    assert [row.messages[-1].content for row in rows if isinstance(row, Example)] == ["4", "Four."]


SVAMP = {"Body": "Anna has 2 pens", "Question": "How many?", "Answer": 2.0, "Type": "sum"}


def test_several_columns_may_be_one_field(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", [SVAMP, {"Question": "How many?", "Answer": 2.0}])
    columns = {"question": ["Body", "Question"], "answer": "Answer"}
    identity, where = local.pin(local.Params(path="a.jsonl", columns=columns), tmp_path, cache)
    assert (identity["format"], identity["columns"]) == ("question_answer", columns)
    good, bad = everything(identity, where)
    assert isinstance(good, formats.Repaired)
    assert [message.content for message in good.messages] == ["Anna has 2 pens How many?", "2.0"]
    assert isinstance(bad, BadRow)
    assert bad.reason == "no column 'Body'"
    assert len(local.estimate(identity, where).sample) == 1
    with pytest.raises(ValidationError):
        local.Params(path="a.jsonl", columns={"question": []})


def test_a_list_of_one_column_and_its_name_are_written_apart(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    plain, _ = local.pin(local.Params(path="a.jsonl", columns={"question": "question"}), tmp_path, cache)
    assert plain["columns"] == {"question": "question"}
    listed, _ = local.pin(local.Params(path="a.jsonl", columns={"question": ["question"]}), tmp_path, cache)
    assert listed["columns"] == {"question": ["question"]}
    assert canonical.text(json.loads(canonical.text(listed))) == canonical.text(listed)


def test_questions_without_answers_are_read_where_they_are_asked_for(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", [{"prompt": "def add(a, b):", "test": "assert True"}])
    identity, where = local.pin(local.Params(path="a.jsonl", questions=True), tmp_path, cache)
    (row,) = everything(identity, where)
    assert isinstance(row, Example)
    assert [message.role for message in row.messages] == ["user"]
    again, _ = local.pin(local.Params(path="a.jsonl", questions=True, format="question"), tmp_path, cache)
    assert again == identity
    with pytest.raises(DataError, match="no format fits"):
        local.pin(local.Params(path="a.jsonl"), tmp_path, cache)
    with pytest.raises(DataError, match="no answers to train on"):
        local.pin(local.Params(path="a.jsonl", format="question"), tmp_path, cache)


def test_rows_with_answers_are_the_same_source_with_questions_or_without(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    with_questions, _ = local.pin(local.Params(path="a.jsonl", questions=True), tmp_path, cache)
    without, _ = local.pin(local.Params(path="a.jsonl"), tmp_path, cache)
    assert canonical.text(with_questions) == canonical.text(without)
    assert sorted(without) == ["columns", "files", "format", "tags"]


def test_what_a_file_was_found_to_be_is_remembered_apart_for_questions(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"prompt": "2 + 2?"}, {"prompt": "3 + 3?"}, {"prompt": "4 + 4?", "completion": "8"}])
    pins = Pins(tmp_path / "pins.json", tmp_path / "recipe.lock")
    found = [
        local.pin(local.Params(path="a.jsonl", questions=questions), tmp_path, pins)[0]["format"]
        for questions in (False, True, False)
    ]
    assert found == ["prompt_completion", "question", "prompt_completion"]


def test_columns_are_kept_and_are_part_of_the_identity(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", [*ROWS, {"question": "1?", "answer": "1"}])
    identity, where = local.pin(local.Params(path="a.jsonl", kept=["topic", "answer", "topic"]), tmp_path, cache)
    assert identity["kept"] == ["answer", "topic"]
    rows = everything(identity, where)
    assert isinstance(rows[0], Example)
    assert rows[0].extra == {"answer": "1", "topic": ["sum"]}
    assert isinstance(rows[-1], BadRow)
    assert rows[-1].reason == "no column 'topic' to keep"
    assert all(row.extra for row in local.estimate(identity, where).sample)


def test_trees_keep_no_columns(tmp_path: Path, cache: Any) -> None:
    write(tmp_path / "a.jsonl", TREE)
    with pytest.raises(DataError, match="oasst_best is made of many rows, and can keep no columns"):
        local.pin(local.Params(path="a.jsonl", kept=["rank"]), tmp_path, cache)


def test_rows_of_another_format_in_a_file_say_so(tmp_path: Path, cache: Any) -> None:
    other = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
    write(tmp_path / "a.jsonl", [*ROWS, other])
    identity, where = local.pin(local.Params(path="a.jsonl"), tmp_path, cache)
    bad = everything(identity, where)[-1]
    assert isinstance(bad, BadRow)
    shown = "read in the format question_answer and looks like messages (name one with `format`, or make a source of"
    assert bad.reason.startswith(shown)
    assert bad.reason.partition(":")[0].endswith("each)")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "rows", "bad", "repaired"),
    [
        ("math/gsm8k_train", 7473, 0, 0),
        ("code/code_alpaca_20k", 20016, 6, 0),
        ("chat/sharegpt_sample_tagged", 723, 11, 241),
        ("chat/human_llm_multiturn", 2239, 7, 27),
    ],
)
def test_real_sources_load_with_every_row_accounted_for(
    shared: Path, cache: Any, name: str, rows: int, bad: int, repaired: int
) -> None:
    identity, where = local.pin(local.Params(path=f"data/{name}.jsonl.gz"), shared, cache)
    found = everything(identity, where)
    assert sum(isinstance(row, Example) for row in found) == rows
    assert sum(isinstance(row, BadRow) for row in found) == bad
    assert sum(isinstance(row, formats.Repaired) for row in found) == repaired
    assert local.estimate(identity, where).rows == rows + bad
