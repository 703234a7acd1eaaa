"""Checks of one source's rendered rows: end tokens, masks, templates; derived anew, not by the code that rendered.

End tokens and the supervised part are looked at in all rows, a record batch at a time; masks and templates, which need
text, in a sample by rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cuvee.data import examples, ranks, rendered
from cuvee.data.chat import DROPPED, KEPT, STATUSES, Chat
from cuvee.data.findings import FAIL, OK, SHOWN, WARN, Finding, counted, evidence, excerpt, verb
from cuvee.data.masks import WRITTEN
from cuvee.data.rendered import Rendered
from cuvee.values import Example, Message

SAMPLE = 200
"""Rows a source that masks and templates are checked on."""


@dataclass(frozen=True)
class Source:
    """A source as the preflight sees it.

    Args:
        load: id of its load stage.
        load_folder: that stage's folder.
        render_folder: the render stage's folder.
        load_summary: what loading counted.
        render_summary: what rendering counted.
    """

    load: str
    load_folder: Path
    render_folder: Path
    load_summary: Mapping[str, Any]
    render_summary: Mapping[str, Any]

    @cached_property
    def rows(self) -> Rendered:
        """The rendered rows."""
        return Rendered(self.render_folder)

    def records(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (number of the first row, record batch) of the rendered rows, memory-mapped."""
        file = pa.ipc.open_file(pa.memory_map(str(self.render_folder / rendered.FILE)))
        first = 0
        for index in range(file.num_record_batches):
            batch = file.get_batch(index)
            yield first, batch
            first += batch.num_rows

    def shown(self, indexes: Sequence[int], texts: Sequence[str] = ()) -> tuple[dict[str, Any], ...]:
        """Return evidence for some rows, with texts of their own or with what is asked in them."""
        some = [int(index) for index in indexes[:SHOWN]]
        found = []
        for number, (example, _) in enumerate(examples.read_rows(self.load_folder, some)):
            text = texts[number] if texts else excerpt(" / ".join(message.content for message in example.messages))
            found.append(evidence(example.path, example.line, example.id, text))
        return tuple(found)

    def sample(self, among: NDArray[np.bool_], count: int, seed: int = 0) -> NDArray[np.int64]:
        """Return the first `count` rows by rank of those in a mask, ascending."""
        there = np.flatnonzero(among)
        if len(there) > count:
            ranked = ranks.ranks(seed, "preflight", self.rows.keys[there], self.rows.occurrences[there])
            there = there[np.argsort(ranked, kind="stable")[:count]]
        return np.sort(there).astype(np.int64)


# ----------------------------------------------------------------------------------------------- all rows


@dataclass(frozen=True)
class _Flat:
    """A record batch's tokens and spans as flat arrays.

    Args:
        ids: tokens of all rows.
        offsets: where each row's tokens start in `ids`, (n + 1,).
        spans: [start, end) inside each span's row, (s, 2).
        rows: row of each span, (s,).
        alive: rows that were not dropped, (n,).
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    spans: NDArray[np.int32]
    rows: NDArray[np.int64]
    alive: NDArray[np.bool_]

    @staticmethod
    def of(batch: pa.RecordBatch) -> _Flat:
        tokens, spans = batch.column("tokens"), batch.column("spans")
        marks = spans.offsets.to_numpy().astype(np.int64)
        pairs = spans.values.to_numpy()[marks[0] : marks[-1]].reshape(-1, 2)
        rows = np.repeat(np.arange(len(spans)), np.diff(marks) // 2)
        alive = batch.column("status").to_numpy() != STATUSES.index(DROPPED)
        return _Flat(tokens.values.to_numpy(), tokens.offsets.to_numpy().astype(np.int64), pairs, rows, alive)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    @property
    def sound(self) -> NDArray[np.bool_]:
        """Which spans hold a token and lie in their row, after the span before, (s,)."""
        start, end = self.spans[:, 0], self.spans[:, 1]
        before = np.zeros(len(start), np.int32)
        same = self.rows[1:] == self.rows[:-1]
        before[1:] = np.where(same, end[:-1], 0)
        return (before <= start) & (start < end) & (end <= self.lengths[self.rows])


def end_tokens(source: Source, chat: Chat) -> Finding:
    """Every supervised turn ends with a token that ends generation; else a model never learns to stop."""
    stops = np.array(chat.stop_ids, np.int32)
    turns = 0
    bad: list[int] = []
    without = 0
    for first, batch in source.records():
        flat = _Flat.of(batch)
        last = flat.ids[np.minimum(flat.offsets[flat.rows] + np.maximum(flat.spans[:, 1], 1) - 1, len(flat.ids) - 1)]
        lacking = ~np.isin(last, stops)
        turns += len(last)
        without += int(lacking.sum())
        bad += (first + np.unique(flat.rows[lacking])).tolist()
    numbers = {"turns": turns, "without": without, "rows": len(bad)}
    shown = ", ".join(chat.text([stop]) for stop in stops.tolist()) or "none: the tokenizer names no end token"
    if not bad:
        return Finding("end_token", OK, source.load, text=_all(turns, shown), numbers=numbers)
    ends = [f"ends with {_last(source, index, chat)!r}" for index in bad[:SHOWN]]
    text = (
        f"{without:,} of {counted(turns, 'supervised turn')} in {counted(len(bad), 'row')} {verb(without, 'end')} with "
        f"no token that ends an answer ({shown}); a model trained on that does not learn to stop there. "
        "Choose a template that closes the turn"
    )
    return Finding("end_token", FAIL, source.load, text=text, numbers=numbers, rows=source.shown(bad, ends))


def _all(turns: int, shown: str) -> str:
    return f"the one turn ends with {shown}" if turns == 1 else f"all {turns:,} turns end with {shown}"


def _last(source: Source, index: int, chat: Chat) -> str:
    """Return the end of the first supervised turn of a row that lacks an end token."""
    for ids, spans in _pieces(source, index):
        for start, end in spans:
            if ids[end - 1 : end] and ids[end - 1] not in chat.stop_ids:
                return chat.text(ids[max(start, end - 8) : end])[-40:]
    return ""


def supervised(source: Source, chat: Chat) -> Finding:
    """Every row that is kept teaches something, and its mask lies inside it."""
    rows = whole = tokens = taught = 0
    nothing: list[int] = []
    unsound: list[int] = []
    for first, batch in source.records():
        flat = _Flat.of(batch)
        each = np.bincount(flat.rows, np.diff(flat.spans)[:, 0], len(flat.alive)).astype(np.int64)
        nothing += (first + np.flatnonzero(flat.alive & (each <= 0))).tolist()
        unsound += (first + np.unique(flat.rows[~flat.sound])).tolist()
        rows += int(flat.alive.sum())
        whole += int((flat.alive & (each >= flat.lengths - len(chat.bos))).sum())
        tokens += int(flat.lengths.sum())
        taught += int(each.sum())
    numbers = {"rows": rows, "nothing": len(nothing), "unsound": len(unsound), "everything": whole}
    numbers |= {"tokens": tokens, "supervised_tokens": taught}
    share = f"{taught:,} of {tokens:,} tokens are supervised ({taught / max(1, tokens):.1%})"
    bad = sorted({*nothing, *unsound})
    if bad:
        text = (
            f"{counted(rows, 'row')}: {len(nothing):,} without a supervised token, {len(unsound):,} with supervised "
            "parts outside the row or across each other; render again"
        )
        return Finding("supervised", FAIL, source.load, text=text, numbers=numbers, rows=source.shown(bad))
    if whole:
        text = f"{share}; supervised as a whole, without a prompt: {whole:,} of {counted(rows, 'row')}"
        return Finding("supervised", WARN, source.load, text=text, numbers=numbers)
    return Finding("supervised", OK, source.load, text=share, numbers=numbers)


# --------------------------------------------------------------------------------------------- a sample


def mask(source: Source, chat: Chat, count: int, seed: int = 0) -> Finding:
    """What is supervised, decoded, is what the conversation says the assistant answered."""
    chosen = source.sample(~source.rows.dropped, count, seed)
    wrong: list[tuple[int, str]] = []
    turns = 0
    for index, (example, _) in zip(chosen, examples.read_rows(source.load_folder, chosen.tolist()), strict=True):
        shown = [ids[start:end] for ids, spans in _pieces(source, int(index)) for start, end in spans]
        turns += len(shown)
        fault = _mask_fault(example, shown, STATUSES[source.rows.status[index]], chat)
        if fault:
            wrong.append((int(index), fault))
    numbers = {"sampled": len(chosen), "turns": turns, "wrong": len(wrong)}
    if not wrong:
        ends = counted(
            turns, "supervised turn is an answer with its end", "supervised turns are the answers with their end"
        )
        text = f"in {counted(len(chosen), 'sampled row')} the {ends} tokens"
        return Finding("mask", OK, source.load, text=text, numbers=numbers)
    rows = source.shown([index for index, _ in wrong], [fault for _, fault in wrong])
    some = f"{len(wrong):,} of {counted(len(chosen), 'sampled row')} {verb(len(wrong), 'supervise')}"
    text = f"{some} other text than the assistant's answers"
    return Finding("mask", FAIL, source.load, text=text, numbers=numbers, rows=rows)


def _mask_fault(example: Example, shown: Sequence[Sequence[int]], status: str, chat: Chat) -> str:
    """Return what is wrong with a row's supervised turns; empty when each answer is there, in order."""
    answers = [message for message in example.messages if message.role == "assistant" and _says(message)]
    waiting = iter(answers[-1:] if chat.mask == "last" and status == KEPT else answers)
    for ids in shown:
        # Rows that were cut lack answers; all others must show each one.
        passed = []
        for answer in waiting:
            if _is_answer(ids, answer, chat):
                break
            passed.append(answer.content)
            if status == KEPT:
                return _differ(chat.text(ids), answer.content)
        else:
            return _differ(chat.text(ids), passed[0] if passed else "")
    left = [answer.content for answer in waiting] if status == KEPT else []
    return _differ("", left[0]) if left else ""


def _says(message: Message) -> bool:
    """Whether a turn has text of its own that a template shows: earlier reasoning is often left out."""
    return bool(_said(message.content) or any(message.extra.get(key) for key in WRITTEN))


def _said(content: str) -> str:
    return content.rpartition("</think>")[2].strip()


def _is_answer(ids: Sequence[int], answer: Message, chat: Chat) -> bool:
    """Whether supervised tokens are an answer, up to white space, its end tokens, and one token across its start."""
    body = list(ids)
    while body and body[-1] in chat.stop_ids:
        body.pop()
    text, content = chat.text(body), answer.content
    if any(answer.extra.get(key) for key in WRITTEN):
        # Tool calls and reasoning are written in the template's own way; what is said in plain text must be in it.
        return _squeezed(_said(content)) in _squeezed(text) and bool(text.strip())
    if _matches(text, content, chat.text(body[:1])):
        return True
    # Some tokenizers normalise text: the answer must be the same once it has been through the tokenizer.
    again = chat.tokenizer.encode(content, add_special_tokens=False).ids
    return _matches(text, chat.text(again), chat.text(body[:1]))


def _matches(text: str, content: str, boundary: str) -> bool:
    found = _squeezed(text)
    for said in dict.fromkeys((_squeezed(content), _squeezed(_said(content)))):
        # A token across the start brings a few characters of what stands before the answer.
        if said and found.endswith(said) and len(found) - len(said) < max(1, len(_squeezed(boundary))):
            return True
    return False


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _differ(shown: str, answer: str) -> str:
    return f"supervised: {excerpt(shown, 90)!r}; answer: {excerpt(answer, 90)!r}"


def template(source: Source, chat: Chat, count: int, seed: int = 0) -> Finding:
    """What a model is asked in evaluation is the head of what it was trained on."""
    kept = (source.rows.status == STATUSES.index(KEPT)) & (source.rows.num_supervised > 0)
    chosen = source.sample(kept, count, seed)
    wrong: list[tuple[int, str]] = []
    gaps: Counter[str] = Counter()
    seams = 0
    for index, (example, _) in zip(chosen, examples.read_rows(source.load_folder, chosen.tolist()), strict=True):
        answer = max(at for at, message in enumerate(example.messages) if message.role == "assistant")
        row = source.rows.row(int(index))
        if not _says(example.messages[answer]) or not row.spans:
            continue
        try:
            prompt = chat.prompt(example.messages[:answer], example.tools)
        except ValueError as error:
            wrong.append((int(index), f"the template refuses the prompt alone: {error}"))
            continue
        head = _Head(chat, [int(number) for number in row.ids], row.spans[-1][0], prompt)
        if head.gap is None:
            wrong.append((int(index), head.fault))
        else:
            gaps[head.gap.strip()] += 1
            seams += head.seam
    told = {gap: times for gap, times in gaps.items() if gap}
    numbers = {"sampled": len(chosen), "wrong": len(wrong), "seams": seams, "gaps": told}
    if wrong:
        text = (
            f"in {len(wrong):,} of {counted(len(chosen), 'sampled row')} the evaluation's prompt is not the head of "
            "the training row: the model would be asked in another form than it is trained in. Choose another "
            "training.template, or mend the tokenizer's chat template"
        )
        rows = source.shown([index for index, _ in wrong], [fault for _, fault in wrong])
        return Finding("template", FAIL, source.load, text=text, numbers=numbers, rows=rows)
    if told:
        text = (
            f"training shows {', '.join(map(repr, told))} between the generation prompt and the answer in "
            f"{sum(told.values()):,} of {counted(len(chosen), 'sampled row')}; in evaluation the model must "
            "write it itself"
        )
        return Finding("template", WARN, source.load, text=text, numbers=numbers)
    text = f"in {counted(len(chosen), 'sampled row')} the evaluation's prompt is the head of the training row"
    return Finding("template", OK, source.load, text=text, numbers=numbers)


@dataclass(frozen=True)
class _Head:
    """A training row, where its last answer starts, and the prompt that a model is asked for it in evaluation."""

    chat: Chat
    ids: list[int]
    start: int
    prompt: list[int]

    @cached_property
    def seam(self) -> bool:
        """Whether the prompt's tokens are not the row's own, though its text may be."""
        return len(self.prompt) > self.start or self.ids[: len(self.prompt)] != self.prompt

    @cached_property
    def gap(self) -> str | None:
        """What stands between the prompt and the answer; None when the prompt is no head of the row.

        Prompt and answer may share one token, and white space may be tokenised otherwise where they meet.
        """
        if not self.seam:
            return self.chat.text(self.ids[len(self.prompt) : self.start])
        asked, before, across = (
            _squeezed(self.chat.text(part))
            for part in (self.prompt, self.ids[: self.start], self.ids[: self.start + 1])
        )
        if before.startswith(asked):
            return before[len(asked) :]
        return "" if asked.startswith(before) and across.startswith(asked) else None

    @property
    def fault(self) -> str:
        """Both texts from where they part."""
        pairs = zip(self.prompt, self.ids, strict=False)
        here = next((at for at, (asked, trained) in enumerate(pairs) if asked != trained), 0)
        asked, trained = (self.chat.text(part[max(0, here - 3) :]) for part in (self.prompt, self.ids[: self.start]))
        return f"evaluation: {excerpt(asked, 90)!r}; training: {excerpt(trained, 90)!r}"


def _pieces(source: Source, index: int) -> Iterator[tuple[list[int], Sequence[tuple[int, int]]]]:
    for piece in range(int(source.rows.num_pieces[index])):
        row = source.rows.row(index, 0, piece)
        yield [int(number) for number in row.ids], row.spans
