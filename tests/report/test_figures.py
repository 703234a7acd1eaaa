from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from cuvee.errors import UsageError
from cuvee.protocols import Figure
from cuvee.report.figures import draw, svg
from cuvee.report.svg_text import compact


def points(series, x_scale="category"):
    return Figure("points", "Scores", "ability", "points", series, x_scale)


def some(number):
    return {f"run {i}": [{"x": "math", "y": i, "low": i - 1, "high": i + 2}] for i in range(number)}


@pytest.mark.parametrize("number", [1, 12, 13, 40])
def test_up_to_forty_series_each_have_a_look_of_their_own(number):
    from cuvee.report.figures.style import styles

    looks = {tuple(sorted(style.items())) for _, _, style in styles(points(some(number)))}
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
    assert "fill-opacity:0.15" in text
    assert "#d55e00" not in text


def test_more_series_than_can_be_told_apart_stand_in_rows():
    """Names are the rows' labels, each category has its own axes, and every point says where it is."""
    names = [f"run {number}" for number in range(30)]
    series = {name: [{"x": x, "y": 1.0 + n} for n, x in enumerate(("math", "code"))] for name in names}
    drawn = draw(points(series), pixels=False)
    assert [label for label in re.findall(r">([^<]+)</text>", drawn.svg) if label in names] == names
    assert "legend" not in drawn.svg
    assert len(drawn.spots) == 60
    math = [spot for spot in drawn.spots if spot.point["x"] == "math"]
    assert len({spot.x for spot in math}) == 1
    assert [spot.y for spot in math] == sorted(spot.y for spot in math)
    assert all(spot.x < other.x for spot, other in zip(drawn.spots, drawn.spots[30:], strict=False))


def test_rows_grow_with_the_series_and_not_with_their_square():
    small, large = (len(svg(points(some(number)))) for number in (20, 40))
    assert large < 2.2 * small


def test_many_single_points_bear_numbers_that_the_legend_explains():
    series = {f"run {number}": [{"x": 10.0 * (number + 1), "y": float(number)}] for number in range(20)}
    text = svg(points(series, "log"))
    shown = re.findall(r">([^<]+)</text>", text)
    assert all(str(number) in shown and f"{number}  run {number - 1}" in shown for number in range(1, 21))


def test_many_values_on_a_log_axis_get_powers_of_ten_and_no_fractions():
    xs = [136 / 3 * 1.4**number for number in range(25)]
    shown = re.findall(r">([^<]+)</text>", svg(points({"math": [{"x": x, "y": 1.0} for x in xs]}, "log")))
    assert [label for label in shown if label[0].isdigit() and "." not in label] == [
        "100",
        "1,000",
        "10,000",
        "100,000",
    ]
    assert not any("/" in label for label in shown)


def test_cells_of_a_matrix_have_equal_digits_and_no_negative_zero():
    series = {"a": [{"x": "math", "y": 7.861}, {"x": "code", "y": -0.0004}]}
    text = svg(Figure("matrix", "Differences", "ability", "difference (nats)", series))
    assert ">7.86<" in text
    assert ">0.00<" in text
    assert ">ability; in the cells: difference (nats)<" in text


def test_numbers_in_cells_are_readable_on_their_colour():
    from cuvee.report.figures.matrix import _readable_on

    assert [_readable_on(colour) for colour in [(1, 1, 1), (0, 0, 0), (0.88, 0.51, 0.08), (0.33, 0.15, 0.53)]] == [
        "black",
        "white",
        "black",
        "white",
    ]


def test_a_curve_of_one_step_is_a_dot():
    text = svg(Figure("lines", "t", "x", "y", {"short": [{"x": 1, "y": 2.0}]}, "linear"), name="f")
    part = text.partition('id="f-series-0-0-0"')[2].partition("</g>")[0]
    assert "<use " in part


SMALL = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt">
 <metadata>who</metadata>
 <g id="axes_1">
  <g id="series-0-0-1"><path d="M 0 1.234567
L -0.0001 5.999999
z
" style="fill: none; stroke: #abc" clip-path="url(#p)"/></g>
  <g id="text_1"><text style="font-family: 'DejaVu Sans'; fill: #abc" x="1.000"
   transform="rotate(-0 1 2)">a  b &lt;</text></g>
  <defs><clipPath id="p"><rect width="1.5" /></clipPath></defs>
  <use xlink:href="#p" style="fill: #abc"/>
 </g>
</svg>"""


def test_a_compact_drawing_says_the_same_with_less():
    text = compact(SMALL, prefix="f1", said='of "this" & that')
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'of "this" & that'
    assert "who" not in text
    assert 'd="M0 1.23L0 6z"' in text
    assert 'id="f1-series-0-0-1"' in text
    assert "axes_1" not in text
    assert ">a  b &lt;</text>" in text
    assert "transform" not in text
    assert text.count("fill:#abc") == 1
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= ids
