"""What `cuvee inspect` shows: sources in numbers, mixtures asked against achieved, and rows as a model sees them.

Everything is read from finished load, render and mix stages; nothing is executed. Texts are those of the data: whoever
shows them escapes them (`visible`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuvee.data import examples, ranks, tags
from cuvee.data.chat import STATUSES, Chat
from cuvee.data.mixture import FILE as MIXED
from cuvee.data.rendered import Rendered
from cuvee.errors import UsageError, did_you_mean
from cuvee.plan import Plan
from cuvee.report import naming
from cuvee.stage import Stage
from cuvee.store import Store
from cuvee.values import Example

SCHEMA = "cuvee.inspect/1"

TAGS = 20
"""Tags that a source's histogram shows; the others are counted."""

_ID = re.compile(r"[0-9a-f]{4,32}")
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed; an escape begins a terminal's commands
    r"\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff"  # no width, or another direction
    r"\ud800-\udfff]"  # broken surrogates
)


@dataclass(frozen=True)
class Piece:
    """The text of one token, or of the few tokens that make up one character.

    Args:
        text: as it is in the data.
        supervised: whether the loss counts it.
        special: whether it is a special token.
        first: whether a new row of the training begins with it, because the conversation was split.
    """

    text: str
    supervised: bool = False
    special: bool = False
    first: bool = False


@dataclass(frozen=True)
class Shown:
    """One row as a model sees it; a row that rendering dropped has its conversation as one piece.

    Args:
        path, line: where it comes from.
        id: 32 hex digits.
        occurrence: number among equal rows.
        tags: of the row's own column.
        status, reason: what rendering made of it, and why.
        tokens, supervised, full_tokens: tokens now, those the loss counts, and those before any length rule.
        pieces: its text in order.
    """

    path: str
    line: int
    id: str
    occurrence: int
    tags: tuple[str, ...]
    status: str
    reason: str
    tokens: int
    supervised: int
    full_tokens: int
    pieces: tuple[Piece, ...]

    @property
    def cut(self) -> int:
        """Tokens that the length rule left out."""
        return max(0, self.full_tokens - self.tokens) if self.status != "split" else 0


@dataclass(frozen=True)
class Bin:
    """Rows with `low` to `high` tokens, both included, by what became of them."""

    low: int
    high: int
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Tagging:
    """What a tagger's tags come to in some rows: InsTag's two numbers, and what they are made of.

    Args:
        complexity: mean number of tags of the rows whose tags could be read; None where there are none.
        distinct: different tags.
        diversity: share of the source's different tags that these rows have, 0 to 1; None where it has none.
    """

    complexity: float | None
    distinct: int
    diversity: float | None


@dataclass(frozen=True)
class SourceView:
    """One source as one setting renders it.

    Args:
        name: all names that the recipe has for these rows.
        ability: what they teach.
        rendering: template and largest length.
        files: where the rows lie.
        format: the row format.
        detected: whether the format was found by looking.
        rows, bad, repaired: usable rows, quarantined rows, and usable ones that were repaired.
        load_reasons, render_reasons: why rows are not as they were, counted.
        statuses: rows by what rendering made of them.
        tokens, supervised: of what is trained on.
        longest: tokens of the longest row.
        tags: the most frequent tags by where they come from, with how many others there are under ``""``.
        taggings: what each finished tagger's tags come to.
        lengths: rows by tokens before any length rule.
        found: rows that match what was looked for; None when nothing was.
        examples: some rows.
    """

    name: str
    ability: str
    rendering: str
    files: tuple[str, ...]
    format: str
    detected: bool
    rows: int
    bad: int
    repaired: int
    load_reasons: Mapping[str, int]
    render_reasons: Mapping[str, int]
    statuses: Mapping[str, int]
    tokens: int
    supervised: int
    longest: int
    tags: Mapping[str, Mapping[str, int]]
    taggings: Mapping[str, Tagging]
    lengths: tuple[Bin, ...]
    found: int | None
    examples: tuple[Shown, ...]


@dataclass(frozen=True)
class PartView:
    """One source in a mixture; rows and tokens of one epoch, and what each tagger's tags come to in its rows."""

    source: str
    asked: tuple[str, ...]
    pool: int
    left_out: Mapping[str, int]
    chosen: int
    rows: int
    tokens: int
    supervised: int
    taggings: Mapping[str, Tagging]


@dataclass(frozen=True)
class MixtureView:
    """One mixture and the trainings that go through it; sums over its parts."""

    trainings: tuple[str, ...]
    parts: tuple[PartView, ...]

    def share(self, part: PartView, what: str) -> float:
        """Return a part's share of the mixture's ``rows``, ``tokens`` or ``supervised`` tokens."""
        return float(getattr(part, what) / max(1, sum(getattr(each, what) for each in self.parts)))


@dataclass(frozen=True)
class Inspection:
    """What was gathered.

    Args:
        recipe: its name.
        sources: each source in each setting that renders it.
        mixtures: those that are finished.
        find: what was looked for; empty when rows were chosen by rank.
        missing: sources that are not rendered yet.
    """

    recipe: str
    sources: tuple[SourceView, ...]
    mixtures: tuple[MixtureView, ...]
    find: str = ""
    missing: tuple[str, ...] = ()


def collect(
    plan: Plan, store: Store, sources: Sequence[str] | None = None, rows: int = 3, find: str | None = None
) -> Inspection:
    """Gather what is finished of a plan's sources and mixtures.

    Args:
        plan: what the recipe comes to.
        store: where its stages lie.
        sources: names of the sources to look at; all when None.
        rows: how many rows of each to show: the first by rank, never the first of a file.
        find: show rows that hold this text (in any case), or whose id begins with it.

    Raises:
        UsageError: there is no such source.
    """
    known = list(plan.located.recipe.sources)
    for name in sources or ():
        if name not in known:
            raise UsageError(f"there is no source '{name}'.{did_you_mean(name, known)}")
    wanted = set(sources or known)
    names = naming.ingredients(plan)
    renders = [s for s in plan.stages if s.kind == "render" and wanted & {each.name for each in names.get(s.id, ())}]
    renders.sort(key=lambda stage: min(known.index(each.name) for each in names[stage.id]))
    ready = [s for s in renders if store.has("render", s.id) and store.has("load", s.one("source").id)]
    return Inspection(
        plan.located.name,
        tuple(_source(stage, plan, store, rows, find or "") for stage in ready),
        tuple(_mixtures(plan, store, wanted)),
        find or "",
        tuple(naming.joined(i.name for i in names[s.id]) for s in renders if s not in ready),
    )


def view(inspection: Inspection) -> dict[str, Any]:
    """Return plain data for ``--json``; supervised parts and special tokens of a row are segments of their own."""
    data = {"schema": SCHEMA, **asdict(inspection)}
    for source, given in zip(data["sources"], inspection.sources, strict=True):
        for row, shown in zip(source["examples"], given.examples, strict=True):
            del row["pieces"]
            row["segments"] = [
                {"text": text, "supervised": piece.supervised, "special": piece.special, "first": piece.first}
                for text, piece in segments(shown.pieces)
            ]
    for mixture, whole in zip(data["mixtures"], inspection.mixtures, strict=True):
        for part, seen in zip(mixture["parts"], whole.parts, strict=True):
            part |= {f"share_of_{what}": whole.share(seen, what) for what in ("rows", "tokens", "supervised")}
    return data


def visible(text: str) -> str:
    """Return the text with what moves a cursor, turns the direction of writing or cannot be seen as escapes."""
    return _HIDDEN.sub(lambda found: ascii(found.group())[1:-1], text)


def segments(pieces: Iterable[Piece]) -> Iterator[tuple[str, Piece]]:
    """Yield neighbouring pieces of one kind as one text, with the first of them."""
    run = 0

    def kind(piece: Piece) -> tuple[int, bool, bool]:
        nonlocal run
        run += piece.first
        return run, piece.supervised, piece.special

    for _, group in groupby(pieces, kind):
        some = list(group)
        yield "".join(piece.text for piece in some), some[0]


# ------------------------------------------------------------------------------------------------- sources


def _source(stage: Stage, plan: Plan, store: Store, rows: int, find: str) -> SourceView:
    load_stage = stage.one("source")
    load, render = (store.manifest(s.kind, s.id)["summary"] for s in (load_stage, stage))
    known = naming.ingredients(plan)[stage.id]
    folder = store.path("load", load_stage.id)
    rendered = Rendered(store.path("render", stage.id))
    chosen, found = _chosen(rendered, folder, rows, find)
    chat = _chat(str(stage.one("tokenizer").locate["path"]), tuple(sorted(stage.params.items())))
    asked = plan.located.recipe.sources[known[0].name]
    return SourceView(
        name=naming.joined(each.name for each in known),
        ability=naming.joined(each.ability for each in known),
        rendering=_rendering(stage, plan),
        files=tuple(map(str, load_stage.locate.get("paths", ()))) or ((str(asked.path),) if asked.path else ()),
        format=str(load_stage.params.get("format", "")),
        detected=asked.format == "auto" and bool(load_stage.params.get("format")),
        rows=load["rows"],
        bad=load["bad"],
        repaired=load["repaired"],
        load_reasons=load["reasons"],
        render_reasons=render["reasons"],
        statuses={status: render.get(status, 0) for status in STATUSES},
        tokens=render["total_tokens"],
        supervised=render["supervised_tokens"],
        longest=render["longest"],
        tags=dict(_tags(plan, store, load_stage)),
        taggings={name: _of_source(store, tagger) for name, tagger in _taggers(plan, store, load_stage)},
        lengths=tuple(_lengths(rendered)),
        found=found,
        examples=tuple(_shown(chat, rendered, folder, chosen)),
    )


def _rendering(stage: Stage, plan: Plan) -> str:
    bases = dict.fromkeys(naming.bases_of(plan).get(stage.id, ()))
    several = len(plan.located.recipe.all_bases) > 1
    facts = [f"template {stage.params['template']}", f"max_length {stage.params['max_length']}"]
    return ", ".join([*facts, f"too_long: {stage.params['too_long']}", *(bases if several else ())])


@cache
def _chat(folder: str, params: tuple[tuple[str, Any], ...]) -> Chat:
    return Chat(folder, **dict(params))


def _tags(plan: Plan, store: Store, load: Stage) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield the tags of a source by where they come from: its column, then finished taggers."""
    tables = [("column", store.path("load", load.id) / examples.FILE)]
    tables += [(name, store.path("tag", stage.id) / tags.FILE) for name, stage in _taggers(plan, store, load)]
    for name, path in tables:
        counts: Counter[str] = Counter()
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["tags"]):
                pairs = pc.value_counts(pc.list_flatten(batch.column("tags"))).to_pylist()
                counts.update({pair["values"]: pair["counts"] for pair in pairs})
        if counts:
            top = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
            others = {"": len(top) - TAGS} if len(top) > TAGS else {}
            yield name, {**dict(top[:TAGS]), **others}


def _taggers(plan: Plan, store: Store, load: Stage) -> Iterator[tuple[str, Stage]]:
    """Yield a source's finished taggers by name; the ids of two of one name are told."""
    here = [s for s in plan.stages if s.kind == "tag" and s.one("source").id == load.id and store.has("tag", s.id)]
    times = Counter(stage.component for stage in here)
    for stage in here:
        yield stage.component if times[stage.component] == 1 else f"{stage.component} {stage.id[:8]}", stage


def _of_source(store: Store, tagger: Stage) -> Tagging:
    summary = store.manifest("tag", tagger.id)["summary"]
    return Tagging(summary["complexity"], summary["distinct"], 1.0 if summary["distinct"] else None)


@cache
def _labels(folder: Path) -> tuple[Sequence[Sequence[str]], NDArray[np.bool_]]:
    return tags.read(folder), tags.readable(folder)


def _of_rows(folder: Path, chosen: NDArray[np.int64]) -> Tagging:
    """Return what the tags of some rows come to, against those of all rows of their source."""
    whole, readable = _labels(folder)
    some = [whole[row] for row in chosen[readable[chosen]].tolist()]
    return Tagging(
        tags.complexity(some) if some else None,
        len(set(chain.from_iterable(some))),
        tags.diversity(some, whole) if any(whole) else None,
    )


def _lengths(rendered: Rendered) -> Iterator[Bin]:
    """Yield bins that grow by half and a third in turn: 16, 24, 32, 48, 64 ..."""
    tokens, status = rendered.full_tokens, rendered.status
    there = tokens > 0
    if not there.any():
        return
    edges = [0, 8]
    while edges[-1] <= tokens.max():
        edges.append(edges[-1] * 3 // 2 if len(edges) % 2 == 0 else edges[-1] * 4 // 3)
    counts = {name: np.histogram(tokens[there & (status == at)], edges)[0] for at, name in enumerate(STATUSES)}
    filled = np.flatnonzero(sum(counts.values()))
    for at in range(int(filled[0]), int(filled[-1]) + 1):
        rows = {name: int(count[at]) for name, count in counts.items() if count[at]}
        yield Bin(edges[at], edges[at + 1] - 1, rows)


# ----------------------------------------------------------------------------------------------------- rows


def _chosen(rendered: Rendered, load: Path, rows: int, find: str) -> tuple[list[int], int | None]:
    """Return the rows to show, first by rank, and how many match what is looked for."""
    among = _matching(rendered, load, find) if find else np.flatnonzero(~rendered.dropped)
    ranked = ranks.ranks(0, "inspect", rendered.keys[among], rendered.occurrences[among])
    first = among[np.argsort(ranked, kind="stable")[:rows]]
    return [int(index) for index in first], len(among) if find else None


def _matching(rendered: Rendered, load: Path, find: str) -> NDArray[np.int64]:
    """Return the rows whose id begins with, or whose messages hold, what is looked for."""
    found = set(_with_id(rendered, find.lower()))
    # The messages are JSON: what may hold the text is found there, and looked at once it is read.
    form = json.dumps(find, ensure_ascii=False)[1:-1]
    first = 0
    with pq.ParquetFile(load / examples.FILE) as file:
        for batch in file.iter_batches(columns=["messages"]):
            column = batch.column(0)
            likely = np.flatnonzero(pc.match_substring(column, form, ignore_case=True).to_numpy(zero_copy_only=False))
            for at, text in zip(likely, column.take(pa.array(likely)).to_pylist(), strict=True):
                if any(find.lower() in str(turn["content"]).lower() for turn in json.loads(text)):
                    found.add(first + int(at))
            first += batch.num_rows
    return np.array(sorted(found), np.int64)


def _with_id(rendered: Rendered, prefix: str) -> list[int]:
    if not _ID.fullmatch(prefix):
        return []
    whole = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
    same = (rendered.keys[:, : len(whole)] == np.frombuffer(whole, np.uint8)).all(axis=1)
    return [int(index) for index in np.flatnonzero(same) if rendered.keys[index].tobytes().hex().startswith(prefix)]


def _shown(chat: Chat, rendered: Rendered, load: Path, indexes: Sequence[int]) -> Iterator[Shown]:
    special = {number for number, token in chat.tokenizer.get_added_tokens_decoder().items() if token.special}
    for index, (example, occurrence) in zip(indexes, examples.read_rows(load, indexes), strict=True):
        count = int(rendered.num_pieces[index])
        pieces = [piece for part in range(count) for piece in _pieces(chat, rendered, index, part, special)]
        yield Shown(
            path=example.path,
            line=example.line,
            id=example.id,
            occurrence=occurrence,
            tags=example.tags,
            status=STATUSES[rendered.status[index]],
            reason=rendered.reason(index),
            tokens=int(rendered.num_tokens[index]),
            supervised=int(rendered.num_supervised[index]),
            full_tokens=int(rendered.full_tokens[index]),
            pieces=tuple(pieces) or (Piece(_conversation(example)),),
        )


def _conversation(example: Example) -> str:
    return "\n".join(f"[{message.role}] {message.content}" for message in example.messages)


def _pieces(chat: Chat, rendered: Rendered, index: int, part: int, special: set[int]) -> Iterator[Piece]:
    row = rendered.row(index, 0, part)
    ids = [int(number) for number in row.ids]
    taught = np.zeros(len(ids), np.bool_)
    for start, end in row.spans:
        taught[start:end] = True
    for start, end, text in texts(chat, ids):
        yield Piece(text, bool(taught[start:end].any()), ids[start] in special, part > 0 and start == 0)


def texts(chat: Chat, ids: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, text) of the fewest tokens that make up whole characters; the texts make up the whole.

    A token is decoded with the ones before it, because tokenizers that mark words by a leading space drop the first.
    """
    before = start = 0
    for end in range(1, len(ids) + 1):
        head = chat.text(ids[before:start]) if start else ""
        text = chat.text(ids[before:end])
        # A character of several tokens is shown as replacement characters until its last token is there.
        if text.endswith("\ufffd") and end < len(ids) and end - start < 8:
            continue
        yield start, end, text[len(head) :]
        before, start = start, end


# ------------------------------------------------------------------------------------------------- mixtures


def _mixtures(plan: Plan, store: Store, wanted: set[str]) -> Iterator[MixtureView]:
    names, known = naming.training_names(plan), naming.ingredients(plan)
    trainings: dict[str, list[str]] = {}
    mixes: dict[str, Stage] = {}
    for stage in plan.stages:
        if stage.kind == "train" and store.has("mix", stage.one("data").id):
            mix = stage.one("data")
            mixes[mix.id] = mix
            trainings.setdefault(mix.id, []).append(names[stage.id])
    for key, mix in mixes.items():
        parts = store.manifest("mix", key)["summary"]["parts"]
        named = naming.part_names(mix, known)
        if wanted & {name for joined in named for name in joined.split(" / ")}:
            order = {name: at for at, name in enumerate(plan.located.recipe.sources)}
            taggings = _taggings(plan, store, mix)
            views = [_part(*each) for each in zip(named, parts, taggings, strict=True)]
            views.sort(key=lambda view: order.get(view.source.split(" / ")[0], len(order)))
            yield MixtureView(tuple(trainings[key]), tuple(views))


def _taggings(plan: Plan, store: Store, mix: Stage) -> Iterator[Mapping[str, Tagging]]:
    """Yield what the taggers of each part's source say of the rows that are trained on, each row once."""
    rows = pq.read_table(store.path("mix", mix.id) / MIXED, columns=["part", "row"])
    of_part, numbers = (column.to_numpy() for column in rows.columns)
    for part, rendered in enumerate(mix.inputs["parts"]):
        taggers = dict(_taggers(plan, store, rendered.one("source")))
        chosen = np.unique(numbers[of_part == part]) if taggers else numbers[:0]
        yield {name: _of_rows(store.path("tag", stage.id), chosen) for name, stage in taggers.items()}


def _part(name: str, counts: Mapping[str, Any], taggings: Mapping[str, Tagging]) -> PartView:
    left_out = ("heldout", "duplicates", "overlap", "filtered", "unselected")
    return PartView(
        name,
        tuple(_amount(text) for text in counts["asked"]) or ("all",),
        counts["pool"],
        {reason: counts[reason] for reason in left_out if counts.get(reason)},
        counts["chosen"],
        counts["rows"],
        counts["total_tokens"],
        counts["supervised_tokens"],
        taggings,
    )


def _amount(text: str) -> str:
    """Return an amount as the recipe says it: ``share 1/4``."""
    try:
        return ", ".join(f"{name} {value}" for name, value in json.loads(text).items())
    except (ValueError, AttributeError):
        return text
