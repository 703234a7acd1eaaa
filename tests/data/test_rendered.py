from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cuvee.data import examples, rendered
from cuvee.data.chat import Chat
from cuvee.data.rendered import Rendered
from cuvee.errors import DataError
from cuvee.values import Example, Message

Make = Callable[..., Path]
Talk = Callable[..., Example]


def load(folder: Path, rows: list[Example]) -> Path:
    folder.mkdir()
    examples.write(folder, rows, Fraction(0))
    return folder


@pytest.fixture
def rows(talk: Talk) -> list[Example]:
    tool = Example((Message("user", "x"), Message("tool", "y"), Message("assistant", "z")), ("odd",))
    return [talk("Hi", "Hello"), tool, talk("Hi", "Hello"), talk("a", "b", "c" * 200, "d"), talk("e", "the end")]


def test_what_is_written_is_what_the_chat_renders(
    tmp_path: Path, model: Make, rows: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendered, "BATCH_ROWS", 2)
    chat = Chat(model(), "vicuna_v1.1", max_length=120)
    source = load(tmp_path / "load", rows)
    summary = rendered.write(tmp_path, source, chat)
    found = Rendered(tmp_path)
    expected = chat.render(rows)
    assert len(found) == 5
    for index, row in enumerate(expected):
        np.testing.assert_array_equal(found.row(index).ids, row.ids)
        assert tuple(found.row(index).spans) == row.spans
        assert found.reason(index) == row.reason
    assert found.keys.tobytes() == b"".join(row.key for row in rows)
    assert found.prompt_keys.tobytes() == b"".join(row.prompt_key for row in rows)
    assert found.occurrences.tolist() == [0, 0, 1, 0, 0]
    assert found.num_tokens.tolist() == [len(row.ids) for row in expected]
    assert found.num_supervised.tolist() == [row.num_supervised for row in expected]
    assert found.dropped.tolist() == [False, True, False, False, False]
    assert found.tags == [(), ("odd",), (), (), ()]
    assert summary == {
        "rows": 5,
        "kept": 3,
        "trimmed": 1,
        "dropped": 1,
        "reasons": {expected[1].reason: 1, "longer than 120 tokens": 1},
        "supervised_tokens": sum(row.num_supervised for row in expected),
        "total_tokens": sum(len(row.ids) for row in expected),
        "boundary_tokens": sum(row.boundary_tokens for row in expected),
        "open_turns": 0,
        "longest": max(len(row.ids) for row in expected),
    }


def test_token_rows_are_views_of_the_file_and_carry_their_part(tmp_path: Path, model: Make, talk: Talk) -> None:
    rendered.write(tmp_path, load(tmp_path / "load", [talk("Hi", "Hello")]), Chat(model(), "plain"))
    row = Rendered(tmp_path).row(0, part=3)
    assert row.part == 3
    assert isinstance(row.ids, np.ndarray)
    assert not row.ids.flags.owndata
    with pytest.raises(IndexError, match="row 1 of 1"):
        Rendered(tmp_path).row(1)


def test_a_source_of_which_nothing_is_left_is_an_error_with_the_reasons(
    tmp_path: Path, model: Make, talk: Talk
) -> None:
    source = load(tmp_path / "load", [talk("x" * 300, "y"), talk("z" * 300, "y")])
    with pytest.raises(DataError, match=r"no row is left after rendering: 2 x no whole answer within 9 tokens"):
        rendered.write(tmp_path, source, Chat(model(), "plain", max_length=9))


def test_a_row_that_must_not_be_too_long_is_named(tmp_path: Path, model: Make, talk: Talk) -> None:
    source = load(tmp_path / "load", [talk("x" * 300, "y", path="a.jsonl", line=12)])
    with pytest.raises(DataError, match=r"a\.jsonl:12: the row has"):
        rendered.write(tmp_path, source, Chat(model(), "plain", max_length=9, too_long="error"))


def test_a_folder_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rendered rows"):
        Rendered(tmp_path)
