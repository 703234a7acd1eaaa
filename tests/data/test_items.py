"""A source is judged on the rows that it teaches."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from cuvee.data import examples as load
from cuvee.data import items, rendered
from cuvee.data.chat import Chat
from cuvee.data.rendered import Rendered
from cuvee.errors import DataError
from cuvee.values import Example

Make = Callable[..., Path]
Talk = Callable[..., Example]

HALF, DROP = Fraction(1, 2), {"drop": {"tags": "code"}}


def loaded(folder: Path, name: str, talk: Talk) -> Path:
    """Write 40 rows, code and chat in turn."""
    (folder / name).mkdir()
    rows = [Example(talk(f"{name} {n}?", "Yes").messages, (("code", "chat")[n % 2],)) for n in range(40)]
    load.write(folder / name, rows, Fraction(0))
    return folder / name


def tags_of(found: list[Example]) -> set[str]:
    return {tag for example in found for tag in example.tags}


def test_examples_pass_the_rule_of_their_own_folder(tmp_path: Path, talk: Talk) -> None:
    folders = [loaded(tmp_path, "a", talk), loaded(tmp_path, "b", talk)]
    every = items.examples(folders, HALF, 0, None)
    assert tags_of(every) == {"code", "chat"}
    found = items.examples(folders, HALF, 0, None, [DROP, None])
    assert found == [e for e in every if e.messages[0].content.startswith("b") or e.tags == ("chat",)]
    assert items.examples(iter(folders), HALF, 0, 3, [DROP, DROP]) == [e for e in every if e.tags == ("chat",)][:3]
    assert tags_of(items.examples(folders[:1], None, 0, None, [{"keep": {"tags": "^chat$"}}])) == {"chat"}


def test_token_rows_are_the_rows_of_the_examples(tmp_path: Path, talk: Talk, model: Make) -> None:
    folders = [loaded(tmp_path, "a", talk), loaded(tmp_path, "b", talk)]
    sources = []
    for folder in folders:
        (tmp_path / f"{folder.name} rendered").mkdir()
        rendered.write(tmp_path / f"{folder.name} rendered", folder, Chat(model(), "plain"))
        sources.append(Rendered(tmp_path / f"{folder.name} rendered"))
    for hows in ((), [DROP, {}], [DROP, {"keep": {"tags": "code"}, "amounts": [{"count": 1}]}]):
        ids, rows, full = items.token_rows(sources, HALF, 0, 9, hows)
        expected = items.examples(folders, HALF, 0, None, hows)
        assert ids == [example.id for example in expected][:9]
        assert (len(rows), full) == (9, len(expected))
    with pytest.raises(ValueError, match="1 hows or tags for 2 sources"):
        items.token_rows(sources, HALF, 0, 9, [DROP])


def test_a_rule_on_rows_without_tags_is_an_error(tmp_path: Path, talk: Talk) -> None:
    load.write(tmp_path, [talk("Hi", "Hello")], Fraction(0))
    with pytest.raises(DataError, match="no row of the source has any; name the column"):
        items.examples([tmp_path], Fraction(1), 0, None, [DROP])


def test_equal_rows_are_an_item_by_the_tags_of_all_in_any_order(tmp_path: Path, talk: Talk, model: Make) -> None:
    rows = [Example(talk(f"{n}?", "Yes").messages, (tag,)) for n in range(40) for tag in ("code", "chat")[n % 3 :]]
    rows += [Example(talk(f"{n}?", "Yes").messages, ("code", "chat")[n % 2 : n % 2 + 1]) for n in range(0, 40, 4)]
    found = []
    for name, given in (("a", rows), ("b", rows[::-1])):
        (tmp_path / name).mkdir()
        load.write(tmp_path / name, given, Fraction(0))
        rendered.write(tmp_path / name, tmp_path / name, Chat(model(), "plain"))
        for how in (DROP, {"keep": {"tags": "code"}}):
            ids = [example.id for example in items.examples([tmp_path / name], HALF, 0, None, [how])]
            assert ids == items.token_rows([Rendered(tmp_path / name)], HALF, 0, None, [how])[0]
            found.append(ids)
    assert found[:2] == found[2:]
    coded = {row.id for row in rows if row.tags == ("code",)}
    assert not coded & set(found[0])
    assert 0 < len(found[1]) == len(coded & set(found[1]))


def test_tags_from_elsewhere_choose_items_and_lengths_do_not(tmp_path: Path, talk: Talk, model: Make) -> None:
    folder = loaded(tmp_path, "a", talk)
    (tmp_path / "rendered").mkdir()
    rendered.write(tmp_path / "rendered", folder, Chat(model(), "plain"))
    source = Rendered(tmp_path / "rendered")
    tags = [("new",) if row < 20 else () for row in range(40)]
    how = [{"keep": {"tags": "new", "longer_than": 10**6}, "drop": {"longer_than": 1}}]
    found = items.examples([folder], HALF, 0, None, how, [tags])
    assert 0 < len(found) < len(items.examples([folder], HALF, 0, None))
    ids, _, full = items.token_rows([source], HALF, 0, None, how, [tags])
    assert (ids, full) == ([example.id for example in found], len(found))


def test_a_split_row_is_measured_in_all_its_pieces(tmp_path: Path, talk: Talk, model: Make) -> None:
    load.write(tmp_path, [talk("Hi", "Hello"), talk(*["Hi", "Yes, it is."] * 6)], Fraction(0))
    rendered.write(tmp_path, tmp_path, Chat(model(), "plain", max_length=40, too_long="split"))
    source = Rendered(tmp_path)
    ids, rows, full = items.token_rows([source], Fraction(1), 0, None)
    pieces = int(source.num_pieces[1])
    long = source.keys[1].tobytes().hex()
    assert len(ids) == len(set(ids)) == full == 1 + pieces
    assert [name for name in ids if name.startswith(long)] == [long, *(f"{long}.{n}" for n in range(1, pieces))]
    assert sum(len(row.ids) for row in rows) == source.num_tokens.sum()
