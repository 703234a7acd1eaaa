"""What inspect gathers and shows: numbers, rows as a model sees them, and text that could do harm."""

from __future__ import annotations

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.conftest import bytes_tokenizer, pieces_tokenizer

from cuvee import api, inspection, runner, terminal_inspect
from cuvee.data.chat import Chat
from cuvee.data.findings import Finding, evidence
from cuvee.errors import UsageError
from cuvee.inspection import Inspection, SourceView
from cuvee.plan import Plan
from cuvee.report import inspect_page
from cuvee.runtime import Runtime
from cuvee.store import Store

RECIPE = """\
base: fake:test
sources:
  sums: {path: sums.jsonl, ability: math, tags: topic, amount: {share: 1/2}}
  talk: {path: talk.jsonl, ability: chat}
heldout: 0
training: {epochs: 1, batch_size: 8, max_length: 280, template: vicuna_v1.1, too_long: RULE}
runs:
  - {strategy: multi_task}
  - {strategy: sequential, order: [sums, talk]}
evaluation: []
"""

HARM = "\x1b[31mred\x1b[0m <script>alert(1)</script> [bold]b[/bold] \u202e ⟦x⟧ &amp; caf\u00e9"
LONG = [{"role": role, "content": f"turn {n} " + "and so on " * 9} for n in range(4) for role in ("user", "assistant")]


def write(place: Path, rule: str = "trim") -> Path:
    place.mkdir(exist_ok=True)
    sums = [{"question": f"{n} + 1?", "answer": f"It is {n + 1}.", "topic": ["odd", "even"][n % 2]} for n in range(40)]
    turns = [{"messages": [{"role": "user", "content": HARM}, {"role": "assistant", "content": f"I see: {HARM}"}]}]
    turns += [{"messages": LONG}, {"messages": [{"role": "user", "content": "Hi"}, LONG[1] | {"content": "w " * 900}]}]
    (place / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)), encoding="utf-8")
    (place / "talk.jsonl").write_text("\n".join(map(json.dumps, turns)), encoding="utf-8")
    (place / "r.yaml").write_text(RECIPE.replace("RULE", rule), encoding="utf-8")
    return place


def prepared(place: Path) -> tuple[Plan, Store]:
    """The recipe with its mixtures made, and nothing trained."""
    runtime = Runtime(place / ".cuvee", workers=1, threads=1)
    plan = api.plan(place / "r.yaml", runtime)
    outcome = runner.execute(plan, runtime, targets=[stage for stage in plan.stages if stage.kind in ("mix", "tag")])
    assert outcome.failed == {}
    return plan, Store(runtime.store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    return prepared(write(tmp_path_factory.mktemp("inspect")))


@pytest.fixture(scope="module")
def found(made: tuple[Plan, Store]) -> Inspection:
    return inspection.collect(*made)


def source(found: Inspection, name: str) -> SourceView:
    return next(each for each in found.sources if each.name == name)


def supervised(row: inspection.Shown) -> list[str]:
    return [text for text, piece in merged(row) if piece]


def merged(row: inspection.Shown) -> list[tuple[str, bool]]:
    """A row's text in runs that are supervised or not."""
    runs: list[tuple[str, bool]] = []
    for piece in row.pieces:
        text, kind = runs.pop() if runs and runs[-1][1] == piece.supervised else ("", piece.supervised)
        runs.append((text + piece.text, kind))
    return runs


# ------------------------------------------------------------------------------------------------- numbers


def test_a_source_is_told_in_numbers(found: Inspection) -> None:
    sums = source(found, "sums")
    assert (sums.rows, sums.bad, sums.repaired) == (40, 0, 0)
    assert (sums.format, sums.detected, [Path(path).name for path in sums.files]) == (
        "question_answer",
        True,
        ["sums.jsonl"],
    )
    assert sums.tags == {"column": {"even": 20, "odd": 20}}
    assert sums.statuses == {"kept": 40, "trimmed": 0, "dropped": 0, "split": 0}
    assert 0 < sums.supervised < sums.tokens


def test_lengths_count_every_row_by_what_became_of_it(found: Inspection) -> None:
    talk = source(found, "talk")
    assert talk.statuses == {"kept": 1, "trimmed": 1, "dropped": 1, "split": 0}
    counted = {name: sum(bin.rows.get(name, 0) for bin in talk.lengths) for name in ("kept", "trimmed", "dropped")}
    assert counted == {"kept": 1, "trimmed": 1, "dropped": 1}
    assert all(before.high + 1 == after.low for before, after in zip(talk.lengths, talk.lengths[1:], strict=False))


def test_mixtures_show_what_was_asked_and_what_came_of_it(found: Inspection) -> None:
    whole = next(each for each in found.mixtures if each.trainings == ("multi_task",))
    parts = {part.source: part for part in whole.parts}
    assert (parts["sums"].asked, parts["sums"].pool, parts["sums"].chosen, parts["sums"].rows) == (
        ("share 1/2",),
        40,
        20,
        20,
    )
    assert (parts["talk"].asked, parts["talk"].chosen, parts["talk"].rows) == (("all",), 3, 2)
    for what in ("rows", "tokens", "supervised"):
        assert sum(whole.share(part, what) for part in whole.parts) == pytest.approx(1)
    assert whole.share(parts["sums"], "rows") == pytest.approx(20 / 22)
    assert [each.trainings for each in found.mixtures[1:]] == [("sequential, stage 1",), ("sequential, stage 2",)]


def test_only_the_sources_that_are_asked_for_are_shown(made: tuple[Plan, Store]) -> None:
    one = inspection.collect(*made, sources=["talk"], rows=1)
    assert [(each.name, len(each.examples)) for each in one.sources] == [("talk", 1)]
    assert all("talk" in [part.source for part in each.parts] for each in one.mixtures)
    with pytest.raises(UsageError, match=r"no source 'tlak'\. Did you mean 'talk'"):
        inspection.collect(*made, sources=["tlak"])


def test_what_is_not_rendered_yet_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    runtime = Runtime(tmp_path / ".cuvee")
    found = inspection.collect(api.plan(tmp_path / "r.yaml", runtime), Store(runtime.store))
    assert (found.missing, found.sources, found.mixtures) == (("sums", "talk"), (), ())


def test_json_holds_the_numbers_and_the_rows(found: Inspection) -> None:
    data = json.loads(json.dumps(inspection.view(found)))
    assert data["schema"] == "cuvee.inspect/1"
    for given_source, view in zip(data["sources"], found.sources, strict=True):
        for row, shown in zip(given_source["examples"], view.examples, strict=True):
            assert "".join(each["text"] for each in row["segments"]) == "".join(piece.text for piece in shown.pieces)
    assert data["mixtures"][0]["parts"][0]["share_of_supervised"] > 0


def test_tags_a_row_and_what_a_part_covers_of_them_are_shown_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    tagged = (
        RECIPE.replace("RULE", "trim").replace("tags: topic,", "taggers: [rules],").replace("share: 1/2", "count: 1")
    )
    (tmp_path / "r.yaml").write_text(tagged, encoding="utf-8")
    rows = [{"question": f"Write a Python function {n}", "answer": f"def f{n}(): return {n}"} for n in range(3)]
    rows += [{"question": f"{n} + 1?", "answer": f"It is {n + 1}."} for n in range(3)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = inspection.collect(*prepared(tmp_path))
    whole = source(found, "sums").taggings["rules"]
    assert (whole.distinct, whole.diversity) == (len(source(found, "sums").tags["rules"]), 1.0)
    assert whole.complexity == sum(source(found, "sums").tags["rules"].values()) / 6
    assert source(found, "talk").taggings == {}
    (part,) = (part for part in found.mixtures[0].parts if part.source == "sums")
    some = part.taggings["rules"]
    assert some.diversity == pytest.approx(some.distinct / whole.distinct)
    assert 0 < some.diversity < 1
    view = json.loads(json.dumps(inspection.view(found)))
    assert view["sources"][0]["taggings"]["rules"]["complexity"] == whole.complexity
    for shown in (printed(found, capsys), inspect_page.html(found).replace("&#39;", "'")):
        assert f"tags a row (rules): {whole.complexity:.2f} (complexity); {whole.distinct} different tags" in shown
        assert f"{some.diversity:.1%} of the source's (diversity)" in shown


# ---------------------------------------------------------------------------------------------------- rows


def test_supervised_are_the_answers_with_their_end_tokens(found: Inspection) -> None:
    for row in source(found, "sums").examples:
        (answer,) = supervised(row)
        assert re.fullmatch(r" ?It is \d+\.<[^>]+>", answer)
        assert row.pieces[-1].special
        assert (row.tokens, row.supervised) == (len(row.pieces), sum(piece.supervised for piece in row.pieces))


def test_rows_are_no_prefix_of_the_file_and_the_same_in_any_order_of_it(found: Inspection, tmp_path: Path) -> None:
    before = [row.id for row in source(found, "sums").examples]
    assert sorted(row.line for row in source(found, "sums").examples) != [1, 2, 3]
    write(tmp_path)
    lines = (tmp_path / "sums.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "sums.jsonl").write_text("\n".join(lines[::-1]), encoding="utf-8")
    assert [row.id for row in source(inspection.collect(*prepared(tmp_path)), "sums").examples] == before


def test_rows_are_found_by_text_in_any_case_and_by_the_start_of_their_id(made: tuple[Plan, Store]) -> None:
    by_text = source(inspection.collect(*made, find="IT IS 1", rows=2), "sums")
    assert (by_text.found, len(by_text.examples)) == (11, 2)
    wanted = by_text.examples[0]
    for length in (6, 7, 32):
        by_id = source(inspection.collect(*made, find=wanted.id[:length]), "sums")
        assert [row.id for row in by_id.examples] == [wanted.id]
    # The rows lie in the store as JSON, whose own words are no text of theirs.
    assert source(inspection.collect(*made, find="content"), "sums").found == 0


def test_a_dropped_row_is_shown_with_its_reason_when_it_is_looked_for(made: tuple[Plan, Store]) -> None:
    (row,) = source(inspection.collect(*made, find="w w w"), "talk").examples
    assert (row.status, row.tokens, row.reason) == ("dropped", 0, "no whole answer within 280 tokens")
    assert row.pieces[0].text.startswith("[user] Hi\n[assistant] w w")


@given(st.text(max_size=40))
@pytest.mark.parametrize("kind", [cache(bytes_tokenizer), cache(pieces_tokenizer)], ids=["bytes", "pieces"])
def test_the_texts_of_tokens_make_up_the_text_of_the_row(kind: Any, text: str) -> None:
    chat = Chat.__new__(Chat)
    chat.tokenizer = kind()
    ids = chat.tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids
    found = list(inspection.texts(chat, ids))
    assert "".join(piece for _, _, piece in found) == chat.text(ids)
    assert [start for start, _, _ in found] == [0, *(end for _, end, _ in found)][:-1] if found else not ids


# ------------------------------------------------------------------------------------------------- terminal


def printed(found: Inspection, capsys: pytest.CaptureFixture[str], tokens: bool = False) -> str:
    terminal_inspect.print_inspection(found, tokens=tokens)
    return capsys.readouterr().out


def test_without_colour_marks_stand_round_what_is_supervised(
    found: Inspection, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(found, capsys)
    assert re.search(r"ASSISTANT:(⟦ | ⟦)It is \d+\.<[^>]+>⟧\n", text)
    assert text.count("⟦") == text.count("⟧") > 4
    assert "tags (column): even 20, odd 20" in text
    assert "share 1/2" in text


def test_text_of_the_data_cannot_steer_the_terminal(found: Inspection, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(found, capsys)
    assert not set(text) & {"\x1b", "\u202e"}
    assert r"\x1b[31mred\x1b[0m <script>alert(1)</script> [bold]b[/bold] \u202e \u27e6x\u27e7" in text


def test_tokens_are_parted_when_asked(found: Inspection, capsys: pytest.CaptureFixture[str]) -> None:
    plain, parted = printed(found, capsys), printed(found, capsys, tokens=True)
    assert "│" not in plain
    assert parted.count("│") == sum(len(row.pieces) for each in found.sources for row in each.examples)


@pytest.mark.parametrize(("rule", "told"), [("trim", r"✂ cut here: [\d,]+ tokens left out"), ("split", "a new row")])
def test_where_the_length_rule_cut_is_shown(
    rule: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspection.collect(*prepared(write(tmp_path, rule)), find="and so on")
    assert re.search(told, printed(found, capsys))
    assert re.search(told, inspect_page.html(found))


# ----------------------------------------------------------------------------------------------------- page


class _Reader(HTMLParser):
    """Texts of a page, its tags, and whatever it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            str(value) for name, value in attrs if name in ("src", "href") and not str(value).startswith("#")
        ]
        self.loads += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_without_scripts_and_shows_text_as_text(found: Inspection, tmp_path: Path) -> None:
    path = tmp_path / "new" / "inspect.html"
    inspect_page.write(found, path)
    page = path.read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert reader.loads == []
    assert r"\x1b[31mred\x1b[0m <script>alert(1)</script> [bold]b[/bold] \u202e ⟦x⟧ &amp; café" in reader.text
    assert not set(page) & {"\x1b", "\u202e"}
    taught = sum(piece.supervised for each in found.sources for row in each.examples for piece in row.pieces)
    assert len(re.findall('class="t taught( special)?"', page)) == taught > 0


def test_the_page_names_files_without_this_machines_folders(found: Inspection, tmp_path: Path) -> None:
    page = inspect_page.html(found)
    assert str(Path(source(found, "sums").files[0]).parent) not in page
    assert "sums.jsonl:" in page


def test_a_page_that_cannot_be_written_is_wrong_use(found: Inspection, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name another file"):
        inspect_page.write(found, tmp_path)


# ------------------------------------------------------------------------------------------------- findings

ROW = evidence("a.jsonl", 7, "0f" * 16, "[red]\x1b[2J")
FOUND = [
    Finding("mask", "ok", "math", "", "all is well"),
    Finding("overlap", "fail", "math", "gsm8k", "2 rows hold 1 of 10 items of gsm8k", {"items": 10}, (ROW,)),
    Finding("lengths", "warn", "chat", "", "3 trimmed"),
]


def test_findings_are_shown_worst_first_with_rows_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    terminal_inspect.print_findings([*FOUND, FOUND[0]])
    text = capsys.readouterr().out
    assert text.index("overlap") < text.index("lengths") < text.index("mask")
    assert r"a.jsonl:7  0f0f0f0f0f0f  [red]\x1b[2J" in text
    assert "overlap: drop at the source" in text
    assert "--accept overlap/math/gsm8k" in text
    assert "3 findings: 1 ok, 1 warn, 1 fail" in text


def test_an_accepted_finding_asks_for_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    terminal_inspect.print_findings(FOUND, ["overlap/math/gsm8k"])
    text = capsys.readouterr().out
    assert re.search(r"accepted +overlap", text)
    assert "--accept" not in text


def test_what_runs_later_stands_last_and_is_counted_apart(capsys: pytest.CaptureFixture[str]) -> None:
    terminal_inspect.print_findings([Finding("packed_loss", "later", text="will be compared"), *FOUND])
    text = capsys.readouterr().out
    assert text.index("mask") < text.index("packed_loss")
    assert re.search(r"later +packed_loss", text)
    assert "3 findings: 1 ok, 1 warn, 1 fail; 1 later, in the training" in text


def test_findings_as_json_carry_their_names() -> None:
    data = json.loads(json.dumps(terminal_inspect.findings_view(FOUND, ["overlap/math/gsm8k"])))
    assert (data["schema"], data["counts"]) == ("cuvee.preflight/1", {"later": 0, "ok": 1, "warn": 1, "fail": 1})
    assert [(one["name"], one["accepted"]) for one in data["findings"]][1] == ("overlap/math/gsm8k", True)
