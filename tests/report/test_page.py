from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cuvee.errors import UsageError
from cuvee.protocols import Table
from cuvee.report import curves, page
from cuvee.report.data import Node, ReportData
from cuvee.report.page import escape_markdown, html, markdown, write
from cuvee.report.sections import sections

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Collects what a page loads and links to, and whether its tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.loads, self.tags, self.wrong = [], [], [], [], set(), []
        self.files = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a" and "download" not in found:
            self.links.append(found["href"])
        self.loads += [value for name, value in attrs if name in ("src", "srcset", "data", "action", "poster")]
        refers = [value for name, value in attrs if name in ("href", "xlink:href") and not value.startswith("#")]
        (self.files if "download" in found else self.loads).extend(refers)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def check(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    return checker


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    made = tmp_path_factory.mktemp("report") / "out"
    write(report, made)
    return made


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_its_contents_exist(text):
    found = check(text)
    assert not found.wrong
    assert not found.open
    assert len(found.ids) == len(set(found.ids))
    assert len(found.links) == 12
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)


def test_the_page_loads_nothing_and_runs_only_its_two_scripts(text):
    found = check(text)
    assert not found.loads
    assert text.count("<script>") == 2
    assert not found.tags & {"iframe", "link", "object", "embed", "img"}
    assert "http" not in text
    assert not re.search(r"@import|url\((?!#)", text)


def test_the_verdict_is_on_top(text, report):
    assert text.index(report.tables["scores"][0].notes[0].split(";")[0]) < text.index("<table>")


def test_both_pages_and_parquet_hold_the_same_tables(folder, report, text):
    md = (folder / "report.md").read_text(encoding="utf-8")
    for section in sections(report):
        for block in section.blocks:
            stored = pq.read_table(folder / block.file)
            assert stored.column_names == list(block.columns)
            assert stored.num_rows == len(block.rows)
            assert block.title in md
            for row in block.rows:
                assert "| " + " | ".join(map(escape_markdown, row)) + " |" in md
                assert all(cell.replace("&", "&amp;").replace("<", "&lt;") in text for cell in row)


def test_parquet_keeps_the_plain_numbers(folder, report):
    stored = pq.read_table(folder / "tables" / "verdict.parquet").to_pylist()
    assert stored == [dict(row) for row in report.tables["scores"][0].rows]


def test_every_figure_and_table_the_markdown_names_exists(folder):
    md = (folder / "report.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\((figures/[^)]+)\)", md)
    assert named
    assert all((folder / name).is_file() for name in named)


def test_markdown_rows_have_as_many_cells_as_their_header(folder):
    rows = [line for line in (folder / "report.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    for above, below in itertools.pairwise(rows):
        if re.fullmatch(r"\|[ \-:|]+\|", below):
            assert len(re.split(r"(?<!\\)\|", above)) == len(re.split(r"(?<!\\)\|", below))


def test_equal_data_give_equal_pages(report):
    small = replace(report, tables={"scores": report.tables["scores"][:1]}, curves={}, source_curves={})
    assert html(small) == html(small)


def test_everything_that_comes_from_outside_is_escaped(tmp_path):
    nasty = '<script>alert("x")</script> & | `a` *b*'
    table = Table(nasty, [nasty], [{nasty: nasty}], [nasty])
    data = ReportData(
        title=nasty,
        recipe_text="```\n" + nasty,
        created=nasty,
        tables={nasty: [table]},
        notes=[nasty],
        stages=[{"kind": "train", "label": nasty, "rows": 1, "short": nasty, "id": nasty, "runs": [nasty]}],
        curves={nasty: [(1, 2.0), (2, 1.0)]},
        versions={nasty: nasty},
        costs={nasty: nasty},
    )
    write(data, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert text.count("<script>") == 2
    assert not check(text).wrong
    md = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    before, _, after = md.partition("````yaml")
    assert "<script>" not in before
    assert "<script>" not in after.partition("\n````\n")[2]


def test_analyses_nobody_asked_for_say_so():
    text = html(ReportData("nothing", "", "today"))
    assert not check(text).wrong
    assert "Add scores to its analyses" in text
    assert "Not asked for: scores, forgetting, k_sweep. Add what you want to its analyses." in text
    assert "no training logged a loss" in text


def test_an_empty_table_shows_why_it_is_empty():
    tables = {"k_sweep": [Table("DMT: scores against k", ["k"], [], ["No k sweep: there is no dmt run."])]}
    text = html(ReportData("t", "", "today", tables=tables))
    assert "No k sweep: there is no dmt run." in text
    assert "<table>" not in text.partition('id="k-sweep"')[2].partition("<h2")[0]


def test_sharing_is_shown_with_what_it_saved(text):
    assert "11 trainings instead of 16: equal stages were trained once, which saved 5." in text


def test_analyses_without_a_place_of_their_own_follow(tmp_path):
    data = ReportData("t", "", "today", tables={"conflicts": [Table("Pairs", ["a"], [{"a": 1}])]})
    assert [s.id for s in sections(data)][:3] == ["verdict", "analysis-conflicts", "loss-curves"]


def test_analyses_stand_in_the_order_of_the_recipe():
    """What a recipe asks for before the scores stands before the verdict."""
    tables = {name: [Table(name, ["a"], [{"a": 1}])] for name in ("scaling", "scores", "claims", "k_sweep", "cost")}
    found = [s.id for s in sections(ReportData("t", "", "today", tables=tables))]
    assert found[:6] == ["analysis-scaling", "verdict", "findings", "strategies", "k-sweep", "analysis-cost"]


def test_a_section_opens_with_what_its_tables_found():
    notes = [f"sentence {number}." for number in range(12)]
    first = Table("Scaling with data, base model one", ["a"], [{"a": 1}], notes[:3], answers=2)
    second = Table("More", ["a"], [{"a": 1}], notes, answers=12)
    data = ReportData("t", "", "today", tables={"scaling": [first, second]})
    section = next(each for each in sections(data) if each.id == "analysis-scaling")
    assert section.lead == [f"Base model one: {notes[0]}", f"Base model one: {notes[1]}", *notes[:6]]
    assert [block.further for block in section.blocks] == [[], notes[6:]]
    assert [block.notes for block in section.blocks] == [notes[2:3], []]
    for text in (html(data), markdown(data)):
        assert text.index("sentence 5.") < text.index("sentence 6.") < text.index("sentence 11.")
    assert "- **Base model one: sentence 1.**\n- **sentence 0.**" in markdown(data)


def answering(name, answers, notes=0):
    said = [f"{name} {number}." for number in range(answers + notes)]
    return Table(f"Scores, base model {name}", ["a"], [{"a": 1}], said, answers=answers)


def lead(*tables):
    data = ReportData("t", "", "today", tables={"conflicts": tables})
    return next(each.lead for each in sections(data) if each.id == "analysis-conflicts")


def test_base_models_share_the_sentences_that_open_a_section():
    assert lead(answering("one", 72), answering("two", 72)) == [
        *(f"Base model one: one {number}." for number in range(4)),
        *(f"Base model two: two {number}." for number in range(4)),
    ]


def test_what_one_table_does_not_say_another_may():
    found = lead(answering("one", 1), answering("two", 0, notes=3), answering("three", 9), answering("four", 2))
    assert [each.split()[3] for each in found] == ["one", *5 * ["three"], *2 * ["four"]]


def test_of_more_tables_than_places_the_first_speak():
    assert [each.split()[3] for each in lead(*(answering(str(n), 3) for n in range(20)))] == list("01234567")


def test_answers_that_do_not_open_the_section_stand_below_their_table():
    data = ReportData("t", "", "today", tables={"conflicts": [answering("one", 30, notes=2), answering("two", 30)]})
    for text in (html(data), markdown(data)):
        for name, number in [("one", 4), ("one", 29), ("one", 31), ("two", 4), ("two", 29)]:
            assert text.count(f"{name} {number}.") == 1
    inside = html(data).partition('id="analysis-conflicts"')[2].partition("</section>")[0]
    assert "<summary>Show 26 further answers</summary>" in inside
    assert "one 31." in inside.partition("</details>")[2]  # how it was tested is not folded away


def long_report(rows):
    stages = [{"kind": "train", "label": f"stage {n}", "seconds": float(n), "rows": n, "id": "x"} for n in range(rows)]
    answers = Table("Every pair", ["pair"], [{"pair": f"pair {n}"} for n in range(rows)])
    return ReportData("t", "", "today", tables={"conflicts": [answers]}, stages=stages)


def test_tables_of_stages_are_cut_in_both_pages_and_answers_stay_whole(tmp_path):
    write(long_report(250), tmp_path / "out")
    md = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    page_text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert pq.read_table(tmp_path / "out" / "tables" / "time-by-stage.parquet").num_rows == 250
    assert md.count("The first 100 of 250 rows; all are in tables/time-by-stage.parquet.") == 1
    assert "<summary>Show the first 100 of 250 rows (all are in tables/time-by-stage.parquet)</summary>" in page_text
    assert all(f"| pair {n} |" in md and f">pair {n}<" in page_text for n in range(250))
    times = md.partition("### Time by stage")[2].partition("## ")[0]
    assert "| train | stage 249 |" in times
    assert "| train | stage 149 |" not in times  # the longest stand first


def test_tables_of_few_stages_are_whole():
    assert "rows; all are in" not in markdown(long_report(100))


def test_time_is_added_up_by_kind_as_far_as_it_is_known():
    assert "| train | 250 | 31,125 | – |" in markdown(long_report(250))


def test_a_long_table_that_answers_stands_open_and_others_are_folded():
    rows = [{"run": f"run {number}"} for number in range(31)]
    tables = {
        "conflicts": [Table("Verdict", ["run"], rows, ["It is so."], answers=1), Table("Every run", ["run"], rows)]
    }
    inside = html(ReportData("t", "", "today", tables=tables)).partition('id="analysis-conflicts"')[2]
    answer, _, rest = inside.partition("Every run")
    assert '<div class="wide tall">' in answer
    assert "31 rows: scroll. Also in tables/verdict.parquet" in answer
    assert "<details>" not in answer
    assert "<details><summary>Show 31 rows (also in tables/every-run.parquet)</summary>" in rest


def test_what_stands_between_backticks_is_code_and_still_escaped():
    said = "`pool` is *what* is left; `<b>` and a lone ` stay."
    data = ReportData("t", "", "today", notes=[said])
    assert "<code>pool</code> is *what* is left; <code>&lt;b&gt;</code> and a lone ` stay." in html(data)
    assert r"`pool` is \*what\* is left; `<b>` and a lone \` stay." in markdown(data)


def test_the_page_says_what_was_asked():
    said = "# Study amount. How does each\n# ability grow? Run it so:\n#\n#   cuvee run x.yaml   do it\n#\n"
    recipe = f"{said}\n# base\nbase: x\n"
    data = ReportData("t", recipe, "today")
    assert data.asked == "Study amount. How does each ability grow?"
    assert f'<p class="asked">{data.asked}</p>' in html(data)
    assert data.asked in markdown(data)
    assert 'class="asked"' not in html(ReportData("t", "base: x\n", "today"))


def test_the_findings_stand_next_to_the_verdict():
    table = Table(
        "Findings of the papers on these runs",
        ["finding"],
        [{"finding": "x"}],
        ["2 supported, 1 undecided."],
        answers=1,
    )
    found = sections(ReportData("t", "", "today", tables={"claims": [table]}))
    assert [section.id for section in found[:2]] == ["verdict", "findings"]
    assert found[1].lead == ["2 supported, 1 undecided."]


def test_the_data_behind_each_figure_is_there_as_csv(folder, text):
    import csv

    figures = sorted((folder / "figures").glob("*.svg"))
    assert figures
    for figure in figures:
        rows = list(csv.reader(figure.with_suffix(".csv").read_text(encoding="utf-8").splitlines()))
        assert len(rows) > 1
        assert rows[0][0] == "series"
        assert {len(row) for row in rows} == {5}
    assert sorted(check(text).files) == [f"figures/{figure.stem}.csv" for figure in figures]


def test_the_page_holds_the_same_data_as_the_files(folder, text):
    import csv

    drawn = re.findall(r'<script type="application/json">(.*?)</script>.*?href="(figures/[^"]+)"', text, flags=re.S)
    assert len(drawn) > 5
    for told, file in drawn:
        data = json.loads(told)
        with (folder / file).open(encoding="utf-8", newline="") as rows:
            header, *lines = csv.reader(rows)
        assert data["columns"] == header
        values = [[data["series"][number], *more] for number, _, _, *more in data["points"]]
        assert [["" if each is None else str(each) for each in row] for row in values] == [
            line[: len(row)] for line, row in zip(lines, values, strict=True)
        ]


def curves_of(seeds, runs=3):
    names = {f"run {run} · seed {seed}": seed for seed in seeds for run in range(runs)}
    curve = [(1, 2.0), (2, 1.5), (3, 1.0)]
    by_source = {name: {"math": curve, "code": curve} for name in names if "run 0" in name}
    alone = {name: {"math": curve} for name in names if "run 0" not in name}
    return ReportData(
        "t", "", "today", curves=dict.fromkeys(names, curve), source_curves={**by_source, **alone}, curve_seeds=names
    )


def test_of_many_trainings_one_seed_is_drawn_and_all_are_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "DRAWN", 5)
    write(curves_of((7, 8, 9)), tmp_path / "out")
    md = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Drawn are the 3 trainings of seed 7, of 9 in all." in md
    assert "tables/loss-curves.parquet" in md
    drawn = (tmp_path / "out" / "figures" / "training-loss.csv").read_text(encoding="utf-8")
    assert {line.split(",")[0] for line in drawn.splitlines()[1:]} == {f"run {run} · seed 7" for run in range(3)}
    stored = pq.read_table(tmp_path / "out" / "tables" / "loss-curves.parquet")
    assert stored.column_names == ["training", "source", "step", "loss"]
    rows = stored.to_pylist()
    assert len(rows) == 9 * 3 + 3 * 6 + 6 * 3
    assert {"training": "run 2 · seed 9", "source": None, "step": 3, "loss": 1.0} in rows
    assert {"training": "run 0 · seed 8", "source": "code", "step": 2, "loss": 1.5} in rows


def test_never_are_more_trainings_drawn_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(curves, "DRAWN", 2)
    data = curves_of((7, 8))
    assert "Drawn are the first 2 trainings of seed 7, of 6 in all." in markdown(data)
    one_seed = replace(data, curve_seeds={})
    assert "Drawn are the first 2 trainings, of 6 in all." in markdown(one_seed)


def test_of_an_unfinished_recipe_the_first_seed_that_is_there_is_drawn(monkeypatch):
    monkeypatch.setattr(curves, "DRAWN", 2)
    data = curves_of((8, 9), runs=2)
    text = markdown(replace(data, curve_seeds={"run 0 · seed 7": 7, **data.curve_seeds}))
    assert "trainings of seed 8, of 4 in all." in text


def test_all_trainings_are_drawn_where_there_is_room():
    text = markdown(curves_of((7, 8)))
    assert "Drawn are" not in text
    assert "Training loss" in text


def test_only_trainings_on_several_sources_are_drawn_by_source(tmp_path):
    text = html(curves_of((7, 8)))
    assert "<summary>Show the loss of each source, 2 trainings</summary>" in text
    assert "Loss by source: run 0 · seed 8" in text
    assert "Loss by source: run 1" not in text


def test_each_figure_is_there_as_pixels_and_its_data_as_parquet(folder):
    import pyarrow.parquet as pq

    for figure in (folder / "figures").glob("*.svg"):
        pixels = figure.with_suffix(".png").read_bytes()
        assert pixels[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(pixels[16:20], "big") == 1500
        rows = len(figure.with_suffix(".csv").read_text(encoding="utf-8").splitlines()) - 1
        assert pq.read_table(figure.with_suffix(".parquet")).num_rows == rows


def test_a_second_report_replaces_the_first(report, tmp_path):
    data = ReportData("first", "", "today", tables={"x": [Table("Old", ["a"], [{"a": 1}])]})
    write(data, tmp_path / "out")
    (tmp_path / "out" / "stamp.json").write_text("{}")
    files = write(ReportData("second", "", "today"), tmp_path / "out")
    assert [path.name for path in files] == ["report.html", "report.md"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        write(ReportData("t", "", "today"), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_below_a_file_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path / "notes.txt" / "report", tmp_path / "notes.txt" / "a" / "b"):
        for ask in (page.check_folder, lambda where: write(ReportData("t", "", "today"), where)):
            with pytest.raises(UsageError, match=r"notes\.txt is a file; name another folder"):
                ask(folder)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused_with_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"cannot be written to /proc/nowhere/report: .*; name another folder"):
        write(ReportData("t", "", "today"), Path("/proc/nowhere/report"))
    monkeypatch.setattr(page.os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="may not be written to; name another folder"):
        page.check_folder(tmp_path / "out")


def test_checking_a_folder_refuses_what_writing_refuses_and_makes_nothing(tmp_path):
    page.check_folder(tmp_path / "new" / "deep")
    (tmp_path / "empty").mkdir()
    page.check_folder(tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    (tmp_path / "empty" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        page.check_folder(tmp_path / "empty")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        page.check_folder(tmp_path / "empty" / "thesis.tex")


def test_the_loss_of_each_source_is_folded_away_and_stands_in_markdown(text, folder):
    inside = text.partition('id="loss-curves"')[2].partition("<h2")[0]
    before, _, folded = inside.partition("<details>")
    assert "Training loss" in before
    assert "Loss by source" not in before
    assert "<summary>Show the loss of each source, 1 training</summary>" in folded
    assert "Loss by source: multi_task" in folded.partition("</details>")[0]
    assert "![Loss by source: multi_task](figures/" in (folder / "report.md").read_text(encoding="utf-8")


def test_an_analysis_that_failed_says_so_in_its_place():
    data = ReportData("t", "", "today", failures={"scores": "no way", "conflicts": "no road"})
    found = {section.id: section for section in sections(data)}
    for id in ("verdict", "strategies"):
        assert found[id].text == ["Nothing here: analysis scores failed: no way"]
    assert found["analysis-conflicts"].text == ["Nothing here: analysis conflicts failed: no road"]
    assert not check(html(data)).wrong


def test_a_report_that_fails_leaves_the_old_one_and_no_rubbish(tmp_path, monkeypatch):
    write(ReportData("first", "", "today"), tmp_path / "out")

    def fail(*_):
        raise RuntimeError("no figure today")

    monkeypatch.setattr(page, "_html", fail)
    with pytest.raises(RuntimeError):
        write(ReportData("second", "", "today"), tmp_path / "out")
    assert "first" in (tmp_path / "out" / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_column_of_mixed_types_becomes_text(tmp_path):
    page.write_parquet(Table("t", ["a", "b"], [{"a": 1, "b": 1}, {"a": "x", "b": 2.5}]), tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").to_pydict() == {"a": ["1", "x"], "b": [1.0, 2.5]}


def test_several_seeds_show_their_spread(make_report):
    scores = make_report((0, 1)).tables["scores"]
    assert "SD between seeds (points)" in scores[0].columns


def test_the_lineage_is_a_tree_in_both_pages(report):
    """A base with two trainings, of which one has a merge below it and is the end of two runs."""
    merged = Node("linear of 2 (e5f6): a1b2, c3d4", "run <3>")
    tree = Node("base (0000)", children=(Node("math (a1b2)", "run 1, run 2", (merged,)), Node("code (c3d4)")))
    data = replace(report, lineage=[tree])
    lines = markdown(data).splitlines()
    start = lines.index("- base (0000)")
    assert lines[start + 1 : start + 4] == [
        "  - math (a1b2) → run 1, run 2",
        "    - linear of 2 (e5f6): a1b2, c3d4 → run &lt;3&gt;",
        "  - code (c3d4)",
    ]
    found = html(data)
    assert '<li>math (a1b2) <span class="end">→ run 1, run 2</span><ul>' in found.replace("\n", "")
    assert "→ run &lt;3&gt;" in found
    assert '<details class="tree" open><summary>base (0000)</summary>' in found
