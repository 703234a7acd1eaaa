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
    assert list(found.tags) == [(), ("odd",), (), (), ()]
    assert [found.tags[row] for row in range(5)] == list(found.tags)
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
        "split": 0,
        "specials": 0,
        "pieces": 4,
        "tools_ignored": 0,
        "full_tokens": sum(row.full_tokens for row in expected),
        "full_supervised": sum(row.full_supervised for row in expected),
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


@pytest.mark.parametrize("size", [1, 3, 1024])
def test_pieces_of_split_rows_are_rows_of_their_own(
    tmp_path: Path, model: Make, talk: Talk, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(rendered, "BATCH_ROWS", size)
    tool = Example((Message("user", "x"), Message("assistant", "z", {"tool_calls": [{"function": {"name": "f"}}]})))
    source = [talk("Hi", "Hello"), talk(*["Hi", "Yes, it is."] * 6, "x" * 400, "y"), tool, talk("z" * 300, "y")]
    chat = Chat(model(), "plain", max_length=40, too_long="split")
    summary = rendered.write(tmp_path, load(tmp_path / "load", [*source, talk("a", "b")]), chat)
    found = Rendered(tmp_path)
    long = chat.render(source)[1]
    assert found.num_pieces.tolist() == [1, long.num_pieces, 0, 0, 1]
    assert long.num_pieces > 1
    assert found.pieces.starts.tolist() == [0, 1, 1 + long.num_pieces, 1 + long.num_pieces, 1 + long.num_pieces]
    rows = [found.row(row, 7, piece) for row in (0, 1, 4) for piece in range(found.num_pieces[row])]
    assert found.pieces.tokens.tolist() == [len(row.ids) for row in rows]
    assert found.pieces.supervised.tolist() == [sum(end - start for start, end in row.spans) for row in rows]
    assert np.concatenate([row.ids for row in rows[1:-1]]).tolist() == long.ids.tolist()
    assert {row.part for row in rows} == {7}
    told = ("kept", "split", "dropped", "pieces", "longest")
    assert [summary[name] for name in told] == [2, 1, 2, len(rows), max(len(row.ids) for row in rows)]
    assert summary["reasons"] == {"longer than 40 tokens; 1 exchange left out": 1} | {
        "no whole exchange within 40 tokens": 1,
        chat.render([tool])[0].reason: 1,
    }
    assert summary["full_supervised"] - summary["supervised_tokens"] == sum(
        (found.full_supervised - found.num_supervised).tolist()
    )
    with pytest.raises(IndexError, match="piece 1 of 1 of row 0"):
        found.row(0, piece=1)


def test_what_preflight_looks_for_is_kept_by_row(tmp_path: Path, model: Make, talk: Talk) -> None:
    open_ended = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    source = load(tmp_path / "load", [talk("Hi", "Hello", "a", "b"), talk("Say <s>", "</s>"), talk("Hi", "Hello")])
    summary = rendered.write(tmp_path, source, Chat(model(template=open_ended)))
    found = Rendered(tmp_path)
    assert found.open_turns.tolist() == [2, 1, 1]
    assert found.specials.tolist() == [0, 2, 0]
    assert (summary["open_turns"], summary["specials"]) == (4, 2)


def test_the_number_of_threads_changes_no_byte(
    tmp_path: Path, model: Make, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendered, "BATCH_ROWS", 5)
    source = load(tmp_path / "load", [talk(f"Hi {row}", "Hello" * (row + 1)) for row in range(23)])
    chat = Chat(model(), "vicuna_v1.1", max_length=120)
    written = []
    for threads in (1, 3):
        rendered.write(tmp_path, source, chat, threads)
        written.append((tmp_path / rendered.FILE).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("too_long", ["trim", "split"])
def test_the_rows_do_not_hang_on_how_many_are_read_at_a_time(
    tmp_path: Path, model: Make, rows: list[Example], talk: Talk, monkeypatch: pytest.MonkeyPatch, too_long: str
) -> None:
    given = rows + [talk(f"Hi {row}", "Hello é " * (row % 5 + 1)) for row in range(31)]
    chat = Chat(model(), "vicuna_v1.1", max_length=120, too_long=too_long)
    written = []
    for number, (group, size) in enumerate([(2048, 1024), (7, 5)]):
        monkeypatch.setattr(examples, "ROW_GROUP", group)
        monkeypatch.setattr(rendered, "BATCH_ROWS", size)
        summary = rendered.write(tmp_path, load(tmp_path / f"load {number}", given * 2), chat, 2)
        found = Rendered(tmp_path)
        written.append((summary, found.occurrences.tolist(), found.num_tokens.tolist(), found.keys.tolist()))
    assert written[0] == written[1]
    assert max(written[0][1]) == 3
