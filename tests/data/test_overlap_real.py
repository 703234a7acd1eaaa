"""Overlap and duplicates of real files: the leak that is documented, and pairs that are known to be clean."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cuvee.data import duplicates, examples, exclusions, formats, overlap
from cuvee.values import BadRow, Example, Message

pytestmark = pytest.mark.real

Question = Callable[[dict[str, Any]], str]
ADAPTERS = "math/llm_adapters_math_cot_3k"


def raw_rows(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def converted(rows: list[dict[str, Any]], name: str, question: Question | None) -> Iterator[Example | BadRow]:
    format = formats.detect(rows) if question is None else ""
    for line, row in enumerate(rows, 1):
        if question is not None:
            yield Example((Message("user", question(row)), Message("assistant", "-")), (), name, line)
            continue
        try:
            yield formats.example(row, format, path=name, line=line)
        except ValueError as error:
            yield BadRow(name, line, str(error), json.dumps(row))


@pytest.fixture
def load(shared: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that loads a real file, in its format or as the questions that a function makes of its rows."""

    def make(name: str, question: Question | None = None) -> Path:
        folder = tmp_path / f"{name.replace('/', '_')}{question is None}"
        folder.mkdir()
        examples.write(folder, converted(raw_rows(shared, name), name, question), Fraction(1, 100))
        return folder

    return make


def test_the_documented_leak_of_gsm8k_test_is_found_to_the_question(
    shared: Path, tmp_path: Path, load: Callable[..., Path]
) -> None:
    test, leaking = raw_rows(shared, "math/gsm8k_test"), raw_rows(shared, ADAPTERS)
    there = {row["instruction"] for row in leaking}
    documented = {number for number, row in enumerate(test) if row["question"] in there}
    assert len(documented) == 1055

    benchmark = load("math/gsm8k_test")
    summary = overlap.write(tmp_path, load(ADAPTERS, lambda row: row["instruction"]), benchmark, {})
    items = pq.read_table(tmp_path / overlap.ITEMS_FILE).to_pylist()
    assert {item["row"] for item in items} == documented
    assert {item["reason"] for item in items} == {"equal"}
    assert summary["row_reasons"] == {"equal": 1055, "contained": 0, "ngram": 0, "near": 0}

    # Three of the rows have an empty answer: they are in quarantine and do not train.
    source = load(ADAPTERS)
    bad = [leaking[line - 1]["instruction"] for line in pq.read_table(source / examples.QUARANTINE)["line"].to_pylist()]
    lost = {number for number, row in enumerate(test) if row["question"] in bad}
    overlap.write(tmp_path, source, benchmark, {})
    assert {item["row"] for item in pq.read_table(tmp_path / overlap.ITEMS_FILE).to_pylist()} == documented - lost
    assert len(lost) == 3


def test_svamp_in_the_leaking_file_is_found_though_it_is_spaced_otherwise(
    tmp_path: Path, load: Callable[..., Path]
) -> None:
    svamp = load("math/svamp_test", lambda row: f"{row['Body']} {row['Question']}")
    summary = overlap.write(tmp_path, load(ADAPTERS), svamp, {})
    assert summary["row_reasons"]["equal"] == 800
    assert summary["hit_items"] == 802


def test_train_and_test_of_gsm8k_share_two_reworded_questions_and_no_more(
    tmp_path: Path, load: Callable[..., Path]
) -> None:
    overlap.write(tmp_path, load("math/gsm8k_train"), load("math/gsm8k_test"), {})
    lines = list(exclusions.read(tmp_path))
    assert [line.reason for line in lines] == ["ngram", "ngram"]
    assert all("train travels" in line.text and "plane travels" in line.other_text for line in lines)


def test_rejection_sampling_on_training_questions_leaks_no_test_question(
    shared: Path, tmp_path: Path, load: Callable[..., Path]
) -> None:
    paths = load("math/gsm8k_rft_phi35_selected", lambda row: row["question"])
    assert overlap.write(tmp_path, paths, load("math/gsm8k_test"), {})["hit_rows"] == 0
    summary = overlap.write(tmp_path, paths, load("math/gsm8k_train"), {})
    assert summary["row_reasons"]["equal"] == summary["rows"] == 2043


def test_one_file_in_two_formats_is_dropped_whole_the_second_time(tmp_path: Path, load: Callable[..., Path]) -> None:
    loads = [load("math/gsm8k_train"), load("math/gsm8k_screl_train_use")]
    summary = duplicates.write(tmp_path, loads, {"near": "4/5", "heldout": "1/50"})
    rows = summary["rows"] // 2
    assert summary["pairs"] == [[1, 0, "equal", rows]]
    assert rows + summary["heldout"] // 2 == 7473


def test_near_duplicates_of_code_instructions_are_real_ones(tmp_path: Path, load: Callable[..., Path]) -> None:
    summary = duplicates.write(tmp_path, [load("code/new_codealpaca")], {"near": "4/5"})
    assert summary["near"] > 10
    lines = list(exclusions.read(tmp_path))
    assert all(Fraction(4, 5) <= Fraction(line.similarity).limit_denominator(1000) <= 1 for line in lines)
