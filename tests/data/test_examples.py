from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee.data import examples
from cuvee.data.formats import Repaired
from cuvee.errors import DataError
from cuvee.values import BadRow, Example, Message

Talk = Callable[..., Example]


def test_what_is_written_is_read_again_in_order(tmp_path: Path, talk: Talk) -> None:
    call = Message("assistant", "", {"tool_calls": [{"type": "function", "function": {"name": "f"}}]})
    rows = [
        talk("Hi \U0001f600", "Hello\x00\n", path="a.jsonl", line=3),
        Example((Message("user", "Call f"), call), ("math", "code|x")),
        Repaired(talk("Again", "Yes").messages, (), "b", 2, repair="cut"),
    ]
    summary = examples.write(tmp_path, rows, Fraction(0))
    assert [example for example, _ in examples.read(tmp_path)] == rows
    assert [example.id for example, _ in examples.read(tmp_path)] == [row.id for row in rows]
    assert summary == {
        "rows": 3,
        "bad": 0,
        "repaired": 1,
        "bytes": 7 + 7 + 6 + 5 + 3,
        "left_out": 0,
        "reasons": {"cut": 1},
    }


def test_equal_rows_are_counted_in_stream_order_across_row_groups(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "ROW_GROUP", 2)
    a, b = talk("a", "1"), talk("b", "2")
    examples.write(tmp_path, [a, b, a, a, b], Fraction(0))
    assert [occurrence for _, occurrence in examples.read(tmp_path)] == [0, 0, 1, 2, 1]
    with pq.ParquetFile(tmp_path / examples.FILE) as file:
        assert file.num_row_groups == 3


def test_rows_are_found_by_their_number_in_any_order(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "ROW_GROUP", 3)
    examples.write(tmp_path, [talk(str(number), "x") for number in range(10)], Fraction(0))
    found = examples.read_rows(tmp_path, [9, 0, 4, 0])
    assert [example.messages[0].content for example, _ in found] == ["9", "0", "4", "0"]
    with pytest.raises(IndexError, match="rows 0 to 9 exist, asked for 10 to 10"):
        examples.read_rows(tmp_path, [10])
    assert examples.read_rows(tmp_path, []) == []


def test_bad_rows_up_to_the_limit_are_kept_with_place_and_reason(tmp_path: Path, talk: Talk) -> None:
    rows = [talk("a", "1"), BadRow("x.jsonl", 7, "broken JSON: char 3", "\ud83d" + "y" * 900), talk("b", "2")]
    summary = examples.write(tmp_path, rows, Fraction(1, 3))
    (kept,) = pq.read_table(tmp_path / examples.QUARANTINE).to_pylist()
    assert (kept["path"], kept["line"], kept["reason"]) == ("x.jsonl", 7, "broken JSON: char 3")
    assert len(kept["text"]) <= 510
    assert summary["reasons"] == {"broken JSON": 1}


def test_too_many_bad_rows_are_an_error_that_shows_the_first_three(tmp_path: Path, talk: Talk) -> None:
    bad = [BadRow("x.jsonl", line, f"reason {line}") for line in range(1, 5)]
    with pytest.raises(DataError) as caught:
        examples.write(tmp_path, [talk("a", "1"), *bad], Fraction(1, 100))
    text = str(caught.value)
    assert "4 of 5 rows" in text
    assert "max_bad = 1.00%" in text
    assert "x.jsonl:1: reason 1" in text
    assert "x.jsonl:3: reason 3" in text
    assert "x.jsonl:4" not in text
    assert "max_bad: 80/100" in text


def test_no_row_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable row"):
        examples.write(tmp_path, [], Fraction(1))
    with pytest.raises(DataError, match=r"no usable row \(1 bad ones\)"):
        examples.write(tmp_path, [BadRow("x", 1, "why")], Fraction(1))


def test_tools_on_offer_are_read_again(tmp_path: Path, talk: Talk) -> None:
    tools = ({"type": "function", "function": {"name": "f", "parameters": {"x": "\u00e9 \ud83d"}}}, {"name": "g"})
    rows = [Example(talk("Hi", "Hello").messages, tools=tools), talk("Hi", "Hello")]
    examples.write(tmp_path, rows, Fraction(0))
    found = [example for example, _ in examples.read(tmp_path)]
    assert [example.tools for example in found] == [tools, ()]
    assert [example.id for example in found] == [row.id for row in rows]
    assert found[0].id != found[1].id


def test_kept_columns_are_read_again(tmp_path: Path, talk: Talk) -> None:
    kept = {"test": "assert é == 3", "choices": ["a", None, 2.5, {"b": True}]}
    messages = talk("Hi", "Hello").messages
    rows = [Example(messages, extra=kept), Example(messages), Repaired(messages, extra=kept, repair="cut")]
    examples.write(tmp_path, rows, Fraction(0))
    assert [example for example, _ in examples.read(tmp_path)] == rows
    assert [example.extra for example, _ in examples.read_rows(tmp_path, [2, 1])] == [kept, {}]
    assert pq.read_table(tmp_path / examples.FILE)["extra"].to_pylist()[1] == ""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40))
def test_occurrences_count_equal_ids_in_order(names: list[int]) -> None:
    # Keys that agree in their first half only are different keys.
    keys = np.array([[1] * 8 + [name // 2] + [0] * 6 + [name % 2] for name in names], np.uint8).reshape(-1, 16)
    expected = [names[:at].count(name) for at, name in enumerate(names)]
    assert examples.occurrences(keys).tolist() == expected


def test_occurrence_numbers_come_with_rows_in_any_order(tmp_path: Path, talk: Talk) -> None:
    a, b = talk("a", "1"), talk("b", "2")
    examples.write(tmp_path, [a, b, a, a, b], Fraction(0))
    assert [number for _, number in examples.read_rows(tmp_path, [3, 0, 4, 2])] == [2, 0, 1, 1]
    batches = list(examples.batches(tmp_path, 2))
    assert [batch.occurrences.tolist() for batch in batches] == [[0, 0], [1, 2], [1]]
    assert [batch.columns["id"].to_pylist() for batch in batches] == [[a.key, b.key], [a.key, a.key], [b.key]]
