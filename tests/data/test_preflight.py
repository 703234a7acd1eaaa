"""Each check is shown good artefacts, which it must let pass, and artefacts that were spoilt on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cuvee.data import duplicates, examples, exclusions, findings, preflight, rendered
from cuvee.data.chat import Chat
from cuvee.data.exclusions import Exclusion
from cuvee.data.findings import Finding
from cuvee.values import BadRow, Example, Message

LOAD = "aa" * 32
CODE = "bb" * 32
NAMES = {LOAD: "math", CODE: "code"}


def talks(count: int = 12) -> list[Example]:
    turns = ("What is {n} + 1?", "It is {m}.", "And twice that?", "{k} is twice that.")
    return [
        Example(
            tuple(
                Message(("user", "assistant")[at % 2], turn.format(n=n, m=n + 1, k=2 * n + 2))
                for at, turn in enumerate(turns[: 2 + 2 * (n % 2)])
            ),
            (),
            "math.jsonl",
            n + 1,
        )
        for n in range(count)
    ]


def made(folder: Path, chat: Chat, rows: list[Any], load: str = LOAD) -> preflight.Source:
    """A loaded and rendered source."""
    loaded, render = folder / f"load{load[:2]}", folder / f"render{load[:2]}"
    loaded.mkdir()
    render.mkdir()
    summary = examples.write(loaded, rows, Fraction(1, 2))
    return preflight.Source(load, loaded, render, summary, rendered.write(render, loaded, chat))


@pytest.fixture
def chat(model: Callable[..., Path]) -> Chat:
    return Chat(model(), "vicuna_v1.1")


@pytest.fixture
def source(tmp_path: Path, chat: Chat) -> preflight.Source:
    return made(tmp_path, chat, talks())


def spoil(source: preflight.Source, row: int, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Write one rendered row otherwise, as a fault of the renderer would."""
    path = source.render_folder / rendered.FILE
    with pa.ipc.open_file(str(path)) as file:
        rows = file.read_all().to_pylist()
    rows[row] |= change(rows[row])
    table = pa.Table.from_pylist(rows, rendered.SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rendered.SCHEMA) as writer:
        writer.write_table(table)


def checked(source: preflight.Source, chat: Chat, **params: Any) -> dict[str, Finding]:
    """The findings by name."""
    found = preflight.check(preflight.Inputs([source], chat), params)
    return {one.name: one for one in (preflight.named(one, NAMES) for one in found)}


def failed(found: Mapping[str, Finding]) -> list[str]:
    return [name for name, one in found.items() if one.level == "fail"]


def test_good_rows_fail_nothing_and_every_check_says_so(source: preflight.Source, chat: Chat) -> None:
    found = checked(source, chat)
    assert {one.level for name, one in found.items() if name != "packed_loss"} == {"ok"}
    of_source = ("end_token", "supervised", "mask", "template", "special_tokens", "lengths", "quarantine")
    assert set(found) == {f"{name}/math" for name in of_source} | {"pad_token", "packed_loss"}
    assert found["mask/math"].numbers == {"sampled": 12, "turns": 18, "wrong": 0}
    assert found["end_token/math"].numbers == {"turns": 18, "without": 0, "rows": 0}


# ---------------------------------------------------------------------------------------------- each can fail


def test_a_missing_end_token_fails_with_the_row(source: preflight.Source, chat: Chat) -> None:
    def shorter(row: dict[str, Any]) -> dict[str, Any]:
        spans = [*row["spans"][:-1], row["spans"][-1] - 1]
        return {"spans": spans, "num_supervised": row["num_supervised"] - 1}

    spoil(source, 5, shorter)
    found = checked(source, chat)
    assert failed(found) == ["end_token/math"]
    one = found["end_token/math"]
    assert one.numbers == {"turns": 18, "without": 1, "rows": 1}
    assert (one.rows[0]["path"], one.rows[0]["line"], one.rows[0]["id"]) == ("math.jsonl", 6, talks()[5].id)
    assert "is twice that." in one.rows[0]["text"]


def test_a_template_that_never_ends_a_turn_fails_in_every_row(tmp_path: Path, model: Callable[..., Path]) -> None:
    turns = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    text = turns + "{% if add_generation_prompt %}[assistant] {% endif %}"
    chat = Chat(model(template=text))
    found = checked(made(tmp_path, chat, talks()), chat)
    assert failed(found) == ["end_token/math"]
    assert found["end_token/math"].numbers["rows"] == 12


@pytest.mark.parametrize("shift", [-3, 3])
def test_a_shifted_span_fails_the_mask_with_both_texts(source: preflight.Source, chat: Chat, shift: int) -> None:
    spoil(source, 4, lambda row: {"spans": [row["spans"][0] + shift, row["spans"][1]]})
    one = checked(source, chat)["mask/math"]
    assert (one.level, one.numbers["wrong"], one.rows[0]["line"]) == ("fail", 1, 5)
    assert "answer: 'It is 5.'" in one.rows[0]["text"]


def test_an_answer_that_is_not_supervised_fails_the_mask(source: preflight.Source, chat: Chat) -> None:
    spoil(source, 3, lambda row: {"spans": row["spans"][2:]})
    one = checked(source, chat)["mask/math"]
    assert (one.level, one.rows[0]["line"]) == ("fail", 4)
    assert "answer: 'It is 4.'" in one.rows[0]["text"]


def test_a_supervised_prompt_fails_the_mask_and_is_told(source: preflight.Source, chat: Chat) -> None:
    for row in range(12):
        spoil(source, row, lambda row: {"spans": [0, row["num_tokens"]], "num_supervised": row["num_tokens"]})
    found = checked(source, chat)
    assert found["mask/math"].numbers["wrong"] == 12
    assert (found["supervised/math"].level, found["supervised/math"].numbers["everything"]) == ("warn", 12)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"spans": [], "num_supervised": 0}, "nothing"),
        ({"spans": [5, 5]}, "nothing"),
        ({"spans": [20, 9_999]}, "unsound"),
        ({"spans": [20, 26, 24, 30]}, "unsound"),
    ],
)
def test_a_row_that_teaches_nothing_or_lies_outside_itself_fails(
    source: preflight.Source, chat: Chat, change: dict[str, Any], key: str
) -> None:
    spoil(source, 7, lambda row: change)
    one = preflight.row_checks.supervised(source, chat)
    assert (one.level, one.numbers[key], one.rows[0]["line"]) == ("fail", 1, 8)


def test_a_prompt_in_another_form_fails_the_template(source: preflight.Source, model: Callable[..., Path]) -> None:
    other = Chat(model(), "alpaca")
    one = checked(source, other)["template/math"]
    assert (one.level, one.numbers["wrong"]) == ("fail", 12)
    assert "training: " in one.rows[0]["text"]
    assert "evaluation: '<s>Below is an instruction" in one.rows[0]["text"]


def test_text_between_the_generation_prompt_and_the_answer_is_a_gap(tmp_path: Path, model: Callable[..., Path]) -> None:
    text = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}\n{% if m.role == 'assistant' %}"
        "{{ '<think></think>' }}{% endif %}{{ m.content + '<|im_end|>' }}\n{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}\n{% endif %}"
    )
    chat = Chat(model(template=text))
    found = checked(made(tmp_path, chat, talks()), chat)
    assert failed(found) == []
    assert found["template/math"].level == "warn"
    assert found["template/math"].numbers["gaps"] == {"<think></think>": 12}
    assert "'<think></think>'" in found["template/math"].text


def test_a_check_that_has_not_run_is_no_good_news(source: preflight.Source, chat: Chat) -> None:
    one = checked(source, chat)["packed_loss"]
    assert (one.level, one.rows) == ("later", ())
    assert "will compare" in one.text


def test_a_padding_token_that_ends_answers_is_told(model: Callable[..., Path]) -> None:
    found = {pad: preflight.padding(Chat(model(pad_token=pad), "plain")).level for pad in ("</s>", "<|end|>", "")}
    assert found == {"</s>": "warn", "<|end|>": "ok", "": "ok"}


def test_the_text_of_a_special_token_in_a_message_is_told(tmp_path: Path, chat: Chat) -> None:
    odd = Example((Message("user", "What does </s> mean?"), Message("assistant", "The end.")), (), "math.jsonl", 99)
    one = checked(made(tmp_path, chat, [*talks(), odd]), chat)["special_tokens/math"]
    assert (one.level, one.numbers, one.rows[0]["line"]) == ("warn", {"rows": 1, "messages": 1}, 99)


@pytest.mark.parametrize(("max_lost", "level"), [("1/4", "fail"), ("1", "warn")])
def test_what_the_length_rule_costs_warns_and_past_the_limit_fails(
    tmp_path: Path, model: Callable[..., Path], max_lost: str, level: str
) -> None:
    long = [Example((Message("user", "Hi"), Message("assistant", "word " * 400)), (), "math.jsonl", 50)] * 6
    chat = Chat(model(), "vicuna_v1.1", max_length=250)
    one = checked(made(tmp_path, chat, [*talks(), *long]), chat, max_lost=max_lost)["lengths/math"]
    assert (one.level, one.numbers["dropped"], one.rows[0]["line"]) == (level, 6, 50)
    assert 0 < one.numbers["lost"] < one.numbers["supervised_tokens"]
    assert ("max_lost" in one.text) == (level == "fail")


def test_rows_refused_at_loading_are_told_with_their_place(tmp_path: Path, chat: Chat) -> None:
    bad = BadRow("math.jsonl", 77, "broken JSON: line 77", "{oops")
    one = checked(made(tmp_path, chat, [*talks(), bad]), chat)["quarantine/math"]
    assert (one.level, one.numbers["bad"], one.rows[0]["line"]) == ("warn", 1, 77)
    assert "1 × broken JSON" in one.text


# ------------------------------------------------------------------------------------------ rows among rows


def test_duplicates_are_told_by_pair_of_sources_with_rows(tmp_path: Path, chat: Chat) -> None:
    one, two = made(tmp_path, chat, [*talks(), talks()[4]]), made(tmp_path, chat, talks(3), CODE)
    folder = tmp_path / "duplicates"
    folder.mkdir()
    summary = duplicates.write(folder, [one.load_folder, two.load_folder], {"near": None})
    inputs = preflight.Inputs([one, two], chat, preflight.Repeated(folder, summary, [LOAD, CODE]))
    found = {each.name: each for each in (preflight.named(f, NAMES) for f in preflight.check(inputs, {}))}
    assert found["duplicates/math"].numbers == {"rows": 1, "equal": 1, "near": 0, "of": 13}
    assert found["duplicates/code/math"].numbers == {"rows": 3, "equal": 3, "near": 0, "of": 3}
    assert [row["line"] for row in found["duplicates/code/math"].rows] == [1, 2, 3]
    assert "of math" in found["duplicates/code/math"].text
    assert {found[name].level for name in ("duplicates/math", "duplicates/code/math")} == {"warn"}


def test_no_duplicates_is_good_news(tmp_path: Path, chat: Chat) -> None:
    one = made(tmp_path, chat, talks())
    summary = duplicates.write(tmp_path, [one.load_folder], {"near": None})
    (found,) = preflight.duplicates(preflight.Repeated(tmp_path, summary, [LOAD]), [one])
    assert (found.level, found.numbers) == ("ok", {"rows": 12})


def compared(folder: Path, source: preflight.Source, hits: int, **more: Any) -> preflight.Compared:
    """A finished search that found the first `hits` of 10 items, each in one row."""
    lines = [
        Exclusion(0, row, talks()[row].key, 0, "ngram", 1.0, 0, row, talks()[row].key, f"row {row}", f"item {row}")
        for row in range(hits)
    ]
    exclusions.write(folder, lines)
    return preflight.Compared(folder, {"items": 10, "hit_items": hits, "hit_rows": hits}, LOAD, CODE, **more)


@pytest.mark.parametrize(
    ("hits", "limit", "dropped", "heldout", "level"),
    [
        (0, "0", False, False, "ok"),
        (1, "0", False, False, "fail"),
        (1, "1/10", False, False, "warn"),
        (2, "1/10", False, False, "fail"),
        (2, "0", True, False, "ok"),
        (2, "0", False, True, "warn"),
    ],
)
def test_benchmark_items_in_the_rows(
    tmp_path: Path, source: preflight.Source, hits: int, limit: str, dropped: bool, heldout: bool, level: str
) -> None:
    found = compared(tmp_path, source, hits, heldout=heldout)
    one = preflight.named(preflight.overlap(found, [source], Fraction(limit), dropped), NAMES)
    assert (one.name, one.level) == ("overlap/math/code", level)
    assert [row["line"] for row in one.rows] == list(range(1, hits + 1))
    if hits:
        assert "'row 0' holds 'item 0'" in one.rows[0]["text"]
        assert "of code" in one.text


def test_sources_that_leave_overlapping_rows_out_pass(tmp_path: Path, source: preflight.Source, chat: Chat) -> None:
    found = compared(tmp_path, source, 2)
    inputs = preflight.Inputs([source], chat, None, [found])
    levels = [
        next(one.level for one in preflight.check(inputs, params) if one.check == "overlap")
        for params in ({}, {"overlap_dropped": [LOAD]})
    ]
    assert levels == ["fail", "ok"]


# ------------------------------------------------------------------------------------------ findings as such


def test_findings_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = (findings.evidence("a.jsonl", 3, "0f" * 16, "caf\u00e9 \ud800"),)
    given = [Finding("mask", "fail", LOAD, "", "text {source}", {"wrong": 1}, rows), Finding("pad_token", "ok")]
    assert findings.write(tmp_path, given) == {"later": 0, "ok": 1, "warn": 0, "fail": 1}
    first, second = findings.read(tmp_path)
    assert (first.numbers, second) == ({"wrong": 1}, given[1])
    assert first.rows[0]["text"] == "caf\u00e9 \\ud800"
    assert json.loads((tmp_path / findings.FILE).read_text())[0]["check"] == "mask"


def test_one_is_told_as_one_and_more_as_more() -> None:
    assert [findings.counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert [findings.counted(number, "row holds", "rows hold") for number in (1, 2)] == ["1 row holds", "2 rows hold"]
    assert [f"{number} of 3 rows {findings.verb(number, 'hold')}" for number in (1, 2)] == [
        "1 of 3 rows holds",
        "2 of 3 rows hold",
    ]


def test_what_is_still_to_come_is_counted_apart() -> None:
    given = [Finding("a", "ok"), Finding("b", "later"), Finding("c", "fail"), Finding("d", "ok")]
    assert findings.summary(given) == "3 findings: 2 ok, 0 warn, 1 fail; 1 later, in the training"
    assert findings.summary(given[:1]) == "1 finding: 1 ok, 0 warn, 0 fail"


def test_names_take_the_place_of_ids_and_unknown_ids_are_shortened() -> None:
    given = Finding("overlap", "fail", LOAD, CODE, "{source} holds items of {benchmark}; {other}")
    one = findings.named(given, NAMES)
    assert (one.name, one.text) == ("overlap/math/code", "math holds items of code; {other}")
    assert findings.named(given, {}).name == f"overlap/{LOAD[:16]}/{CODE[:16]}"


def test_the_sample_hangs_on_the_rows_and_not_on_their_order(tmp_path: Path, chat: Chat) -> None:
    picked = []
    for name, rows in (("one", talks()), ("two", talks()[::-1])):
        (tmp_path / name).mkdir()
        source = made(tmp_path / name, chat, rows)
        chosen = source.sample(np.ones(12, np.bool_), 4)
        picked.append({example.id for example, _ in examples.read_rows(source.load_folder, chosen.tolist())})
    assert picked[0] == picked[1]
    assert len(picked[0]) == 4


def test_split_and_trimmed_rows_pass_the_checks_of_masks_and_end_tokens(
    tmp_path: Path, model: Callable[..., Path]
) -> None:
    turns = [Message(("user", "assistant")[at % 2], f"turn {at} " * 12) for at in range(8)]
    for rule in ("split", "trim"):
        (tmp_path / rule).mkdir()
        chat = Chat(model(), "vicuna_v1.1", max_length=400, too_long=rule)
        source = made(tmp_path / rule, chat, [*talks(), Example(tuple(turns), (), "math.jsonl", 40)])
        assert source.render_summary["split" if rule == "split" else "trimmed"] == 1
        found = checked(source, chat, max_lost="1")
        assert failed(found) == []
        assert (found["lengths/math"].level, found["lengths/math"].rows[0]["line"]) == ("warn", 40)
