from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from cuvee.errors import UsageError
from cuvee.protocols import Figure
from cuvee.report.figures import svg


def points(series, x_scale="category"):
    return Figure("points", "Scores", "ability", "points", series, x_scale)


def some(number):
    return {f"run {i}": [{"x": "math", "y": i, "low": i - 1, "high": i + 2}] for i in range(number)}


@pytest.mark.parametrize("number", [1, 12, 13, 40])
def test_up_to_forty_series_each_have_a_look_of_their_own(number):
    from cuvee.report.figures import _styles

    looks = {tuple(sorted(style.items())) for _, _, style in _styles(points(some(number)))}
    assert len(looks) == number


def test_twelve_series_are_all_in_the_legend():
    text = svg(points(some(12)))
    assert all(f">run {i}<" in text for i in range(12))


def test_a_long_y_label_goes_on_in_a_second_line():
    label = "accuracy, change to the base (points, ↑ higher is better)"
    text = svg(Figure("points", "t", "x", label, some(2)))
    assert label not in text.partition("</desc>")[2]
    assert ">accuracy, change to the base (points, ↑ higher is<" in text
    assert ">better)<" in text


def test_equal_figures_give_equal_text():
    assert svg(points(some(5))) == svg(points(some(5)))


def test_a_figure_is_valid_xml_without_date_or_metadata():
    text = svg(points(some(3)))
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "metadata" not in text
    assert not re.search(r"20\d\d-\d\d-\d\d", text)


def test_ids_of_two_figures_never_meet():
    ids = [set(re.findall(r'\bid="([^"]+)"', svg(points(some(2)), name=name))) for name in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_every_reference_inside_a_figure_is_defined():
    text = svg(points(some(4)), name="x")
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= ids


def test_names_are_shown_as_they_are_and_cannot_break_out():
    text = svg(points({"<script>$x_1$ & _y": [{"x": "math", "y": 1.0}], "_hidden": [{"x": "math", "y": 2.0}]}))
    assert "<script>" not in text
    assert "&lt;script&gt;$x_1$ &amp; _y" in text
    assert "_hidden" in text


def test_zero_stands_on_a_log_axis_at_the_left_edge():
    xs = [0.0, 1 / 256, 1 / 64, 1.0]
    text = svg(points({"math": [{"x": x, "y": 1.0} for x in xs]}, "log"))
    shown = re.findall(r">(0|1/256|1/64|1)</text>", text)
    assert shown[:4] == ["0", "1/256", "1/64", "1"]


@pytest.mark.parametrize("xs", [[0.0], [1.0], [0.0, 1.0], []])
def test_a_log_axis_works_with_hardly_any_points(xs):
    assert svg(points({"math": [{"x": x, "y": 1.0} for x in xs]}, "log"))


def test_a_level_line_shares_the_colour_of_what_it_is_like():
    text = svg(
        points(
            {
                "math": [{"x": 0.25, "y": 1.0}, {"x": 1.0, "y": 2.0}],
                "math, multi_task": [{"x": None, "y": 1.5, "like": "math"}],
            },
            "log",
        )
    )
    assert text.lower().count("#0072b2") >= 2
    assert "#d55e00" not in text.lower()


def test_a_matrix_carries_its_numbers_as_text():
    series = {"math": [{"x": "code", "y": -0.25}, {"x": "general", "y": 0.5}], "code": [{"x": "general", "y": 0.1}]}
    text = svg(Figure("matrix", "Conflicts", "", "", series))
    assert all(f">{number}<" in text for number in ("−0.25", "0.5", "0.1")) or "-0.25" in text
    assert "<image" not in text


def test_an_empty_figure_does_not_fail():
    assert svg(points({}))
    assert svg(Figure("lines", "t", "x", "y", {}, "linear"))
    assert svg(Figure("matrix", "t", "x", "y", {}))


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'cuvee\[report\]'"):
        svg(points(some(1)))


def test_a_law_is_a_line_with_its_band_in_the_colour_of_its_points():
    line = [{"x": x, "y": x, "low": x - 1, "high": x + 1, "like": "alone", "band": True} for x in (1.0, 10.0, 100.0)]
    points = [{"x": x, "y": x, "low": x - 1, "high": x + 1} for x in (1.0, 100.0)]
    text = svg(Figure("points", "t", "x", "y", {"alone": points, "alone, law": line}, "log"))
    assert "#0072b2" in text
    assert "fill-opacity: 0.15" in text
    assert "#d55e00" not in text
