from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuvee.data import tags
from cuvee.errors import UsageError

KEYS = [bytes([number]) * 16 for number in range(5)]


def rows(*given: tuple[str, ...] | None) -> list[tags.TagRow]:
    return [(KEYS[place % 5], 0, found, "raw") for place, found in enumerate(given)]


# --------------------------------------------------------------------------------------------- the file


def test_tags_come_back_in_order(tmp_path: Path) -> None:
    summary = tags.write(tmp_path, rows(("code", "sql"), (), None, ("code",)))
    assert summary == {
        "rows": 4,
        "tagged": 2,
        "unread": 1,
        "distinct": 2,
        "complexity": 1.0,
        "tags": {"code": 2, "sql": 1},
    }
    assert tags.read(tmp_path) == [("code", "sql"), (), (), ("code",)]


def test_an_answer_that_could_not_be_read_is_null_and_one_without_tags_is_empty(tmp_path: Path) -> None:
    tags.write(tmp_path, rows((), None))
    table = pq.read_table(tmp_path / "tags.parquet")
    assert table.column("tags").to_pylist() == [[], None]
    assert table.column("raw").to_pylist() == ["raw", "raw"]
    assert table.schema.equals(tags.SCHEMA)


def test_a_tag_counts_once_a_row(tmp_path: Path) -> None:
    assert tags.write(tmp_path, rows(("a", "b", "a")))["tags"] == {"a": 1, "b": 1}
    assert tags.read(tmp_path) == [("a", "b")]


def test_only_the_most_frequent_tags_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    summary = tags.write(tmp_path, rows(*((f"t{number:03}",) for number in range(60)), ("t059",)))
    assert summary["distinct"] == 60
    assert list(summary["tags"])[:2] == ["t059", "t000"]
    assert len(summary["tags"]) == 50


def test_no_rows_make_an_empty_file(tmp_path: Path) -> None:
    assert tags.write(tmp_path, [])["complexity"] is None
    assert tags.read(tmp_path) == []


def test_more_rows_than_a_group_holds_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "ROW_GROUP", 3)
    tags.write(tmp_path, rows(*((str(number),) for number in range(10))))
    assert tags.read(tmp_path) == [(str(number),) for number in range(10)]


def test_equal_tags_are_one_object_in_memory(tmp_path: Path) -> None:
    tags.write(tmp_path, rows(("code", "math"), ("code", "math")))
    first, second = tags.read(tmp_path)
    assert first is second


def test_broken_unicode_in_an_answer_is_kept_escaped(tmp_path: Path) -> None:
    tags.write(tmp_path, [(KEYS[0], 0, ("a\ud800",), "\udc00")])
    assert tags.read(tmp_path) == [("a\\ud800",)]


# ------------------------------------------------------------------------------------------- normalised


@pytest.mark.parametrize(
    ("tag", "normal"),
    [
        ("coding", "code"),
        ("Coding", "code"),
        ("decode", "decod"),
        ("encode", "encod"),
        ("barcode", "barcod"),
        ("programming", "program"),
        ("mathematics", "mathemat"),
        ("aftermath", "aftermath"),
        ("Web-Development: Coding", "web develop code"),
        ("C++", "c"),
        ("data_analysis", "data analysi"),
        ("use cases", "use case"),
        ("Übersetzung", "übersetzung"),
        ("!?", ""),
    ],
)
def test_a_tag_has_instags_normal_form(tag: str, normal: str) -> None:
    pytest.importorskip("nltk")
    assert tags.normalise(tag) == normal


def test_code_is_not_in_raw_tags_about_coding_and_programming() -> None:
    pytest.importorskip("nltk")
    assert "code" not in "coding"
    assert "code" not in "programming"
    seen = [tag for tag in ("coding", "programming", "decode", "barcode") if "code" in tags.normalise(tag)]
    assert seen == ["coding"]
    assert "math" in tags.normalise("aftermath")


@given(st.text(max_size=30))
def test_spelling_variants_share_a_normal_form(tag: str) -> None:
    pytest.importorskip("nltk")
    assert tags.normalise(f" {tag}- ") == tags.normalise(tag)
    assert "  " not in tags.normalise(tag)


def test_without_nltk_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk.stem.porter", None)
    tags.normalise.cache_clear()
    tags._stemmer.cache_clear()
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[tags\]'"):
        tags.normalise("coding")


# ---------------------------------------------------------------------------------------------- counted


def test_complexity_is_the_mean_number_of_tags() -> None:
    assert tags.complexity([("a", "b"), (), ("a",), ("c", "c")]) == 1.0
    with pytest.raises(ValueError, match="no rows"):
        tags.complexity([])


def test_diversity_is_the_share_of_tags_that_a_subset_covers() -> None:
    whole = [("a", "b"), ("c",), ("d",)]
    assert tags.diversity([("a", "b")], whole) == 0.5
    assert tags.diversity([], whole) == 0.0
    assert tags.diversity(whole, whole) == 1.0


def test_diversity_refuses_what_is_no_subset() -> None:
    with pytest.raises(ValueError, match=r"has not \(x\)"):
        tags.diversity([("x",)], [("a",)])
    with pytest.raises(ValueError, match="without tags"):
        tags.diversity([], [()])
