"""Scores of rows from a file, and answers without their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuvee.data import row_scores
from cuvee.errors import DataError
from cuvee.protocols import Likelihood, TokenRow
from tests.selectors.conftest import candidates

KEYS = candidates(3).keys
IDS = [key.tobytes().hex() for key in KEYS]


class Rows(list[TokenRow]):
    """Three rows of a pool, the first in two pieces."""

    rows = np.array([4, 4, 6, 9])
    keys = KEYS[[0, 0, 1, 2]]
    copies = np.array([0, 1 << 46, 0, 0])
    lengths = np.array([5, 3, 6, 4])


ROWS: Any = Rows(
    [
        TokenRow([1, 5, 6, 7, 8], [(2, 4)]),
        TokenRow([9, 8, 7], [(0, 3)]),
        TokenRow([1, 5, 6, 7, 8, 9], [(1, 2), (4, 6)]),
        TokenRow([1, 5, 6, 7], []),
    ]
)


def test_answers_alone_stand_behind_their_rows_first_token() -> None:
    alone = row_scores.Alone(ROWS)
    found = [(list(map(int, alone[i].ids)), list(alone[i].spans)) for i in range(len(alone))]
    assert found == [
        ([1, 6, 7], [(1, 3)]),
        ([9, 8, 7], [(1, 3)]),
        ([1, 5], [(1, 2)]),
        ([1, 8, 9], [(1, 3)]),
    ]
    assert alone.owners.tolist() == [0, 1, 2, 2]
    assert alone.lengths.tolist() == [3, 3, 2, 3]


def test_pieces_and_answers_of_one_row_are_summed(tmp_path: Path) -> None:
    values = [Likelihood(1.0, 2), Likelihood(2.0, 2), Likelihood(3.0, 3), Likelihood(0.0, 0)]
    summary = row_scores.write(tmp_path, ROWS, values)
    found = row_scores.read(tmp_path)
    assert found["row"].tolist() == [4, 6, 9]
    assert found["nll"].tolist() == [3, 3, 0]
    assert found["tokens"].tolist() == [4, 3, 0]
    assert summary == {"rows": 3, "supervised_tokens": 7, "total_tokens": 18, "unscored": 1, "not_finite": 0}
    texts = [Likelihood(1.0, 2), Likelihood(2.0, 2), Likelihood(3.0, 1), Likelihood(float("nan"), 2)]
    again = row_scores.write(tmp_path, ROWS, texts, np.array([0, 1, 2, 2]))
    assert again["not_finite"] == 1
    assert row_scores.read(tmp_path)["tokens"].tolist() == [4, 3, 0]


def stored(folder: Path, table: dict[str, Any], missing: str = "error", name: str = "s.parquet") -> dict[str, int]:
    path = folder / name
    if name.endswith("parquet"):
        pq.write_table(pa.table(table), path)
    else:
        rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        path.write_text("".join(f"{row}\n".replace("'", '"') for row in rows), encoding="utf-8")
    return row_scores.write_stored(folder, ROWS, path, "score", missing)


@pytest.mark.parametrize("name", ["s.parquet", "s.jsonl"])
def test_scores_of_a_file_are_found_by_id_whatever_their_order(tmp_path: Path, name: str) -> None:
    facts = stored(tmp_path, {"id": [*IDS[::-1], "ff" * 16], "score": ["3", "2", "1.5", "9"]}, name=name)
    assert facts == {"rows": 3, "missing": 0, "unused": 1}
    assert row_scores.read(tmp_path)["value"].tolist() == [1.5, 2, 3]


def test_scores_written_as_text_with_line_ends_are_read(tmp_path: Path) -> None:
    stored(tmp_path, {"id": IDS, "score": ["4\n\n", " 1.0", "3.5"]})
    assert row_scores.read(tmp_path)["value"].tolist() == [4, 1, 3.5]


def test_a_file_that_misses_rows_is_an_error_or_leaves_them_out(tmp_path: Path) -> None:
    table = {"id": IDS[:2], "score": [1.0, float("nan")]}
    with pytest.raises(DataError, match=r"no number in 'score' for 2 of 3 rows.*missing: drop"):
        stored(tmp_path, table)
    assert stored(tmp_path, table, "drop") == {"rows": 1, "missing": 2, "unused": 0}
    assert row_scores.read(tmp_path)["row"].tolist() == [4]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": IDS, "points": [1.0, 2.0, 3.0]}, "has no column 'score'; it has id, points"),
        ({"key": IDS, "score": [1.0, 2.0, 3.0]}, "has no column 'id'"),
        ({"id": [IDS[0], IDS[0]], "score": [1.0, 2.0]}, r":2: gives the example \w+ a second score, 2.0 after 1.0"),
        ({"id": IDS, "score": ["1", "good", "bad"]}, r":2: column 'score' holds 'good', which is no number"),
        ({"id": ["ff" * 16], "score": [1.0]}, "has no score of any of the 3 rows.*such as ffff.*sources:"),
        ({"id": IDS, "score": [None, float("nan"), None]}, "has no number in 'score' for any of the 3 rows"),
    ],
)
def test_a_wrong_file_of_scores_is_said(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        stored(tmp_path, table, "drop")


def test_what_is_wrong_in_a_file_of_lines_is_said_with_its_line(tmp_path: Path) -> None:
    lines, text = tmp_path / "scores.jsonl", tmp_path / "scores.csv"
    lines.write_text(f'{{"id": "{IDS[0]}", "score": 1}}\n{{"id": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.jsonl:2: cannot be read as scores: is no JSON object"):
        row_scores.write_stored(tmp_path, ROWS, lines, "score", "error")
    text.write_text(f"id,score\n{IDS[0]},1\n{IDS[1]},good\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.csv:3: column 'score' holds 'good'"):
        row_scores.write_stored(tmp_path, ROWS, text, "score", "error")


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name in ("scores.txt", "absent.parquet"):
        with pytest.raises(DataError, match=name):
            row_scores.write_stored(tmp_path, ROWS, tmp_path / name, "score", "error")
