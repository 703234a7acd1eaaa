from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuvee import seeds
from cuvee.data import duplicates, examples, exclusions, shingles
from cuvee.data.exclusions import Exclusion
from cuvee.data.texts import text_of
from cuvee.errors import RecipeError
from cuvee.values import Example, Message

Talk = Callable[..., Example]

LONG = "Anna has three red pens and buys four more of them at the small shop near the old station on a rainy Monday."


def load(folder: Path, rows: Sequence[Example]) -> Path:
    folder.mkdir()
    examples.write(folder, rows, Fraction(0))
    return folder


def found(folder: Path, sources: Sequence[Sequence[Example]], **params: Any) -> tuple[list[Exclusion], dict[str, Any]]:
    with TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        loads = [load(place / str(number), rows) for number, rows in enumerate(sources)]
        summary = duplicates.write(place, loads, {"near": "4/5", **params})
        assert sorted(path.name for path in place.iterdir() if path.is_file()) == [exclusions.FILE]
        return list(exclusions.read(place)), summary


# ----------------------------------------------------------------------------------------------- by definition

WORDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9)
ROWS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12)
THRESHOLDS = st.sampled_from(["1/10", "1/3", "1/2", "2/3", "4/5", "9/10", "1"])


def made(rows: list[tuple[list[str], list[str]]]) -> list[Example]:
    return [Example((Message("user", " ".join(q)), Message("assistant", " ".join(a)))) for q, a in rows]


def grams(example: Example, on: str) -> set[tuple[str, ...]]:
    words = [word.decode() for word in shingles.words(shingles.folded(text_of(example, on))).split()]
    width = min(duplicates.LENGTH, len(words))
    return {tuple(words[at : at + width]) for at in range(len(words) - width + 1)}


def similarity(one: Example, other: Example, on: str) -> Fraction:
    mine, theirs = grams(one, on), grams(other, on)
    return Fraction(len(mine & theirs), len(mine | theirs))


def kept_by_all_pairs(sources: Sequence[Sequence[Example]], near: Fraction, on: str) -> set[tuple[int, bytes]]:
    """The greedy rule over all pairs, as (source, id) of the rows kept."""
    order = sorted((number, row.key, row) for number, rows in enumerate(sources) for row in rows)
    kept: list[tuple[int, bytes, Example]] = []
    for number, key, row in order:
        if not any(key == other or similarity(row, held, on) >= near for _, other, held in kept):
            kept.append((number, key, row))
    return {(number, key) for number, key, _ in kept}


@settings(max_examples=25, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3), THRESHOLDS, st.sampled_from(["conversation", "prompt", "answer"]))
def test_what_is_kept_is_what_all_pairs_would_keep(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], near: str, on: str
) -> None:
    sources = [made(one) for one in rows]
    lines, summary = found(tmp_path_factory.mktemp("all"), sources, near=near, on=on)
    dropped = {(line.source, line.row) for line in lines}
    kept = [
        (number, row.key)
        for number, source in enumerate(sources)
        for place, row in enumerate(source)
        if (number, place) not in dropped
    ]
    assert len(kept) == len(set(kept)) == summary["kept"]
    assert set(kept) == kept_by_all_pairs(sources, Fraction(near), on)
    for line in lines:
        one, other = sources[line.source][line.row], sources[line.other_source][line.other_row]
        assert (one.key, other.key) == (line.id, line.other_id)
        assert (line.other_source, line.other_row) not in dropped
        assert similarity(one, other, on) >= Fraction(near)
        assert line.similarity == pytest.approx(float(similarity(one, other, on)))
        assert (line.other_source, line.other_id) <= (line.source, line.id)
        assert line.reason == ("equal" if line.id == line.other_id else "near")


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_the_order_of_a_file_counts_for_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rows = data.draw(ROWS)
    shuffled = data.draw(st.permutations(rows))
    facts = []
    for given_rows in (rows, shuffled):
        lines, summary = found(tmp_path_factory.mktemp("order"), [made(given_rows)], near="1/2")
        pairs = sorted((line.id, line.occurrence, line.reason, line.similarity, line.other_id) for line in lines)
        facts.append((pairs, {**summary, "seconds": 0}))
    assert facts[0] == facts[1]


@settings(max_examples=10, deadline=None)
@given(st.lists(ROWS, min_size=2, max_size=2), st.integers(0, 2))
def test_an_unrelated_source_changes_nothing_among_the_others(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], at: int
) -> None:
    sources = [made(one) for one in rows]
    stranger = [Example((Message("user", f"x{number} y z"), Message("assistant", "v w"))) for number in range(5)]
    plain, _ = found(tmp_path_factory.mktemp("two"), sources, near="1/2")
    more, _ = found(tmp_path_factory.mktemp("three"), [*sources[:at], stranger, *sources[at:]], near="1/2")
    names = [number for number in range(3) if number != at]
    moved = [line._replace(source=names[line.source], other_source=names[line.other_source]) for line in plain]
    assert [line for line in more if line.source != at] == moved


# ------------------------------------------------------------------------------------------------------ claims


def test_equal_and_near_rows_name_the_row_of_the_source_that_comes_first(tmp_path: Path, talk: Talk) -> None:
    first = [talk(LONG, "Seven."), talk("Something else entirely, my friend?", "Yes indeed.")]
    second = [talk(LONG, "Seven."), talk(LONG.replace("Monday", "Sunday"), "Seven."), talk("Unlike all.", "No.")]
    lines, summary = found(tmp_path, [first, second])
    assert [(x.source, x.row, x.reason, x.other_source, x.other_row) for x in lines] == [
        (1, 0, "equal", 0, 0),
        (1, 1, "near", 0, 0),
    ]
    assert lines[1].similarity == pytest.approx(20 / 24)
    assert lines[1].text.endswith("Sunday.\nSeven.")
    assert lines[1].other_text.endswith("Monday.\nSeven.")
    del summary["seconds"]
    assert summary == {
        "rows": 5,
        "heldout": 0,
        "wordless": 0,
        "equal": 1,
        "near": 1,
        "kept": 3,
        "by_source": [{"rows": 2, "equal": 0, "near": 0}, {"rows": 3, "equal": 1, "near": 1}],
        "pairs": [[1, 0, "equal", 1], [1, 0, "near", 1]],
        "missed": 0.0,
    }


def test_a_chain_of_small_changes_drops_only_what_is_near_a_kept_row(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(40)]
    sources = []
    for changed in range(0, 12, 2):
        text = " ".join(f"v{place}" if place < changed else word for place, word in enumerate(words))
        sources.append([Example((Message("user", text), Message("assistant", "w40 w41")))])
    lines, _ = found(tmp_path, sources, near="4/5")
    assert {line.source: line.other_source for line in lines} == {1: 0, 2: 0, 4: 3}


def test_without_near_only_equal_rows_are_dropped(tmp_path: Path, talk: Talk) -> None:
    rows = [talk(LONG, "Seven."), talk(LONG.lower(), "seven"), talk(LONG, "Seven.")]
    lines, summary = found(tmp_path, [rows], near=None)
    assert [(line.row, line.occurrence, line.other_row, line.reason) for line in lines] == [(2, 1, 0, "equal")]
    assert (summary["equal"], summary["near"], summary["kept"]) == (1, 0, 2)


def test_rows_that_are_held_out_neither_drop_nor_are_dropped(tmp_path: Path, talk: Talk) -> None:
    rows = [talk(f"{LONG} {number}", "Seven.") for number in range(40)]
    held = [seeds.below(3, "heldout", row.prompt_key, Fraction(1, 2)) for row in rows]
    lines, summary = found(tmp_path, [rows], near="1/2", heldout="1/2", split_seed=3)
    assert summary["heldout"] == sum(held) > 0
    assert {line.row for line in lines} | {lines[0].other_row} == {row for row in range(40) if not held[row]}


def test_only_what_is_asked_for_is_compared(tmp_path: Path, talk: Talk) -> None:
    rows = [
        talk(LONG, "One answer to it."),
        talk(LONG, "Quite another one, and longer."),
        talk("A question of its own?", "One answer to it."),
    ]
    for on, pair in (("prompt", {0, 1}), ("answer", {0, 2})):
        lines, _ = found(tmp_path, [rows], on=on)
        assert [{line.row, line.other_row} for line in lines] == [pair]
        assert lines[0].similarity == 1


def test_system_turns_do_not_make_rows_alike_and_tool_calls_do_not_vanish(tmp_path: Path, talk: Talk) -> None:
    rows = [talk("Red or blue today?", "Blue it is.", system=LONG), talk("Why is that so?", "No idea.", system=LONG)]
    calls = [
        Example((Message("user", "Call it now please"), Message("assistant", "", {"tool_calls": [{"name": name}]})))
        for name in ("alpha", "beta")
    ]
    lines, summary = found(tmp_path, [rows + calls], on="answer", near="1/2")
    assert not lines
    assert summary["wordless"] == 0


def test_rows_without_a_word_can_only_be_equal(tmp_path: Path, talk: Talk) -> None:
    lines, summary = found(tmp_path, [[talk("?", "."), talk("??", "."), talk("?", ".")]])
    assert [line.reason for line in lines] == ["equal"]
    assert summary["wordless"] == 3


def test_many_batches_are_as_one(tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [talk(f"{LONG} {number % 7} {'x ' * (number % 5)}", f"Answer {number % 3}") for number in range(60)]
    whole, _ = found(tmp_path, [rows, rows[::3]])
    monkeypatch.setattr(shingles, "BYTES", 300)
    assert found(tmp_path, [rows, rows[::3]])[0] == whole


@pytest.mark.parametrize(
    ("params", "key"), [({"near": "0"}, "near"), ({"near": "3/2"}, "near"), ({"on": "answers"}, "on")]
)
def test_impossible_parameters_are_refused(tmp_path: Path, params: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError, match=f"^{key}: .*possible") as caught:
        duplicates.write(tmp_path, [], params)
    assert caught.value.key == key


def test_no_source_is_no_duplicate(tmp_path: Path) -> None:
    assert duplicates.write(tmp_path, [], {"near": "4/5"})["rows"] == 0
    assert list(exclusions.read(tmp_path)) == []
