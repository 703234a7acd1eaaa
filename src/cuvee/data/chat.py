"""Conversations to token ids and loss mask: the one place for tokens in the project.

A conversation is rendered to text, the whole text is tokenised once, and the answers' character spans are mapped
to tokens by the tokenizer's offsets. Supervised is each assistant turn's text with its end-of-turn token. A
token that begins before an answer and reaches into it (``" Hi"`` after ``ASSISTANT:``) is supervised and
counted.

    chat = Chat(folder, "vicuna_v1.1", max_length=2048)
    (row,) = chat.render([Example((Message("user", "2 + 2?"), Message("assistant", "#### 4")))])
    chat.text(row.ids[slice(*row.spans[0])])  # '#### 4</s>'
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cuvee.data import masks, templates
from cuvee.data.copying import Flow
from cuvee.data.encoder import Encoded, Encoder
from cuvee.errors import DataError, ModelError, did_you_mean
from cuvee.values import Example, Message

KEPT, TRIMMED, DROPPED, SPLIT = STATUSES = ("kept", "trimmed", "dropped", "split")
MASKS = ("all", "last")
TOO_LONG = ("trim", "split", "drop", "error")

MAX_PIECES = 1024
"""Pieces of one conversation at most; what tells the rows of a mixture apart has room for no more."""

LARGE = 1 << 16
"""Characters from which on it pays to ask, before a text is tokenised, whether anything of it can fit."""

NOTHING_SUPERVISED = "no supervised token"


@dataclass(slots=True)
class Row:
    """One rendered example.

    Args:
        ids: token ids, (length,) int32; empty when dropped; of all pieces one after another when split.
        spans: supervised token ranges as [start, end), in order; none lies in two pieces.
        status: ``kept``, ``trimmed``, ``dropped`` or ``split``.
        reason: why it is not as it was.
        boundary_tokens: supervised tokens that begin before their answer.
        open_turns: supervised turns that the template closes with no special token.
        cuts: where in `ids` the pieces after the first start; empty when there is one.
        full_tokens: tokens before any length rule; 0 where the template refuses the row. A row that is dropped
            without being tokenised, since nothing of it can fit, has as many at the least.
        full_supervised: supervised tokens before any length rule; as `full_tokens`.
        specials: messages whose own content holds the text of a special token, which is tokenised as that token.
        tools_ignored: whether the row has tools and the template shows nothing of them.
    """

    ids: NDArray[np.int32]
    spans: tuple[tuple[int, int], ...]
    status: str = KEPT
    reason: str = ""
    boundary_tokens: int = 0
    open_turns: int = 0
    cuts: tuple[int, ...] = ()
    full_tokens: int = 0
    full_supervised: int = 0
    specials: int = 0
    tools_ignored: bool = False

    @property
    def num_pieces(self) -> int:
        """Rows of a training step that come of it: 0 when dropped, more than 1 when split."""
        return 0 if self.status == DROPPED else 1 + len(self.cuts)

    @property
    def num_supervised(self) -> int:
        """Number of supervised tokens."""
        return sum([end - start for start, end in self.spans])


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer's place in the text: where it starts, where its turn ends, whether an end token closes it."""

    start: int
    end: int
    closed: bool


@dataclass(frozen=True, slots=True)
class _Draft:
    """A conversation's text and the answers in it that the mask rule wants."""

    text: str
    answers: list[_Answer]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """An answer's place among the tokens."""

    start: int
    end: int
    boundary: bool
    closed: bool


class _Refused(Exception):
    """The template cannot show the row."""


class Chat:
    """A tokenizer with a template, a mask rule and a length rule.

    Args:
        model_folder: a folder with ``tokenizer.json``.
        template: ``tokenizer`` for the folder's own, or a built-in name (`templates.BUILT_IN`).
        mask: ``all`` supervises every assistant turn, ``last`` the last one.
        max_length: tokens a row may have, beginning-of-sequence token included; None for no limit.
        too_long: ``trim`` cuts after the last answer that fits; ``split`` makes several rows of whole exchanges,
            each headed by the leading system turns; ``drop`` leaves the row out; ``error`` raises.

    Raises:
        ModelError: no tokenizer.json, no such template, a template that needs tokens the tokenizer has not.
        ValueError: `mask`, `max_length` or `too_long` is none of the possible values.
    """

    def __init__(
        self,
        model_folder: str | Path,
        template: str = templates.TOKENIZER,
        *,
        mask: str = "all",
        max_length: int | None = None,
        too_long: str = "trim",
    ) -> None:
        _one_of("mask", mask, MASKS)
        _one_of("too_long", too_long, TOO_LONG)
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is {max_length}; it is a number of tokens, 1 or more")
        self.folder, self.name = Path(model_folder), template
        self.mask, self.max_length, self.too_long = mask, max_length, too_long
        self.tokenizer, self.bos, self._tokenizer_hash = load_tokenizer(self.folder)
        self.tokens = templates.special_tokens(self.folder)
        self.template = templates.find(self.folder, template)
        self._check_tokens()
        if template == templates.TOKENIZER:
            # The ecosystem's rule: a tokenizer's own template writes its special tokens itself.
            self.bos = ()
        self._render = templates.compile(self.template, self.tokens)
        self._special = self._special_pattern()
        self._shapes = masks.Shapes(self._render, Flow(templates.environment(), self.template))
        self._bos = np.array(self.bos, np.int32)

    # ------------------------------------------------------------------------------------------ rendering

    def render(self, examples: Sequence[Example]) -> list[Row]:
        """Return one row an example, in order; rows that the template refuses or hides answers of come back dropped.

        Raises:
            DataError: a row is too long under ``error``; names file and line.
            ModelError: the template cannot be used at all.
        """
        (rows,) = self.render_all([examples])
        return rows

    def render_all(self, batches: Iterable[Sequence[Example]], threads: int = 1) -> Iterator[list[Row]]:
        """Yield `render` of each batch; while some threads tokenise one batch, the next one gets its text.

        Args:
            batches: examples.
            threads: how many threads tokenise; the rows do not hang on it.

        Raises:
            DataError, ModelError: as `render`.
        """
        with ThreadPoolExecutor(threads) as pool:
            last: Callable[[], list[Row]] | None = None
            for examples in batches:
                drafts = [self._begun(example) for example in examples]
                texts = [draft.text for draft in drafts if isinstance(draft, _Draft)]
                size = -(-len(texts) // threads) or 1
                pending = [pool.submit(self.encoder.encode, texts[at : at + size]) for at in range(0, len(texts), size)]
                if last is not None:
                    yield last()
                last = partial(self._rows, examples, drafts, pending)
            if last is not None:
                yield last()

    def _rows(
        self,
        examples: Sequence[Example],
        drafts: Sequence[_Draft | Row],
        pending: Sequence[Future[Sequence[Encoded]]],
    ) -> list[Row]:
        encoded = (one for chunk in pending for one in chunk.result())
        return [
            draft if isinstance(draft, Row) else self._row(example, next(encoded), draft)
            for example, draft in zip(examples, drafts, strict=True)
        ]

    def _begun(self, example: Example) -> _Draft | Row:
        """Return the text to tokenise, or at once the row that is dropped whatever its tokens are."""
        draft = self._draft(example, self.mask)
        if isinstance(draft, str):
            row = _dropped(draft)
        elif reason := self._hopeless(example, draft):
            row = _dropped(reason)
            row.full_tokens = self._at_least(draft.text)
            answers = [draft.text[answer.start : answer.end] for answer in draft.answers]
            row.full_supervised = sum(map(self.encoder.at_least, answers))
            row.tools_ignored = self._ignored(example, draft)
        else:
            return draft
        row.specials = self._specials(example)
        return row

    def _hopeless(self, example: Example, draft: _Draft) -> str:
        """Return the reason why nothing of a row is kept, where its bytes alone say so; else an empty text."""
        limit = self.max_length
        if limit is None or len(draft.text) < LARGE or self._at_least(draft.text) <= limit:
            return ""
        if self.too_long == "error":
            raise _too_long(example, f"at least {self._at_least(draft.text)}", limit)
        if self.too_long == "drop":
            return f"longer than {limit} tokens"
        if self.too_long == "split":
            fits = any(self._may_fit(part, limit) for part in _parts(example))
            return "" if fits else f"no whole exchange within {limit} tokens"
        every = draft if self.mask == "all" else self._draft(example, "all")
        if isinstance(every, str):
            return every
        fits = any(self._at_least(every.text[: answer.end]) <= limit for answer in every.answers[:1])
        return "" if fits else f"no whole answer within {limit} tokens"

    def _may_fit(self, example: Example, limit: int) -> bool:
        draft = self._draft(example, self.mask)
        return isinstance(draft, _Draft) and self._at_least(draft.text) <= limit

    def _at_least(self, text: str) -> int:
        return len(self.bos) + self.encoder.at_least(text)

    def _draft(self, example: Example, mask: str) -> _Draft | str:
        """Return the text and the answers in it, or the reason why there is no text or an answer is not found."""
        wanted = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
        if not wanted:
            return "no assistant turn"
        if mask == "last":
            wanted = wanted[-1:]
        plain = not example.tools and not any([message.extra for message in example.messages])
        copied = self._shapes.copied(example.messages) if plain else None
        try:
            if copied is None:
                text, spans = self._rendered(example, wanted, plain)
            else:
                text, places = copied
                spans = [places[index] for index in wanted]
            if not text.isascii():
                text.encode()
            return _Draft(text, self._answers(example.messages, text, wanted, spans))
        except UnicodeEncodeError:
            return "broken Unicode"
        except _Refused as error:
            return str(error)

    def _rendered(self, example: Example, wanted: Sequence[int], plain: bool) -> tuple[str, list[masks.Span]]:
        messages = [message.as_dict() for message in example.messages]
        render = self._offering(example.tools)
        try:
            text = render(messages, False)
            text.encode()
        except UnicodeEncodeError:
            raise
        except ValueError as error:
            raise _Refused(str(error)) from None
        spans = self._shapes.spans(messages, text, wanted) if plain else None
        if spans is None:
            try:
                spans = masks.answers(render, messages, text, wanted, self._special)
            except masks.NotShown as error:
                raise _Refused(str(error)) from None
        return text, spans

    def _offering(self, tools: Sequence[Mapping[str, Any]]) -> templates.Render:
        """Return what renders conversations with `tools` on offer."""
        if not tools:
            return self._render
        offered = [dict(tool) for tool in tools]
        return lambda messages, generate, _=None: self._render(messages, generate, offered)

    def _answers(
        self, messages: Sequence[Message], text: str, wanted: Sequence[int], spans: Sequence[masks.Span]
    ) -> list[_Answer]:
        found = []
        for index, (start, end) in zip(wanted, spans, strict=True):
            if start == end:
                continue
            follower = messages[index + 1].content if index + 1 < len(messages) else ""
            closing = masks.end_of_turn(text, end, self._special, self.tokens.get("eos_token", ""), follower)
            found.append(_Answer(start, closing, closing > end))
        return found

    def _row(self, example: Example, encoded: Encoded, draft: _Draft) -> Row:
        ids = self._whole(encoded)
        row = _finished(ids, self._locate(encoded, draft.answers), KEPT, "")
        row.full_tokens, row.full_supervised = len(ids), row.num_supervised
        if self.max_length is not None and len(ids) > self.max_length:
            full = row
            row = self._shortened(example, encoded, ids)
            row.full_tokens, row.full_supervised = full.full_tokens, full.full_supervised
        row.specials = self._specials(example)
        row.tools_ignored = self._ignored(example, draft)
        return row

    def _whole(self, encoded: Encoded) -> NDArray[np.int32]:
        return np.concatenate([self._bos, encoded.ids]) if self.bos else encoded.ids

    def _shortened(self, example: Example, encoded: Encoded, ids: NDArray[np.int32]) -> Row:
        limit = self.max_length or 0
        if self.too_long == "error":
            raise _too_long(example, f"{len(ids)}", limit)
        if self.too_long == "drop":
            return _dropped(f"longer than {limit} tokens")
        return self._split(example, limit) if self.too_long == "split" else self._trimmed(example, encoded, ids, limit)

    def _trimmed(self, example: Example, encoded: Encoded, ids: NDArray[np.int32], limit: int) -> Row:
        draft = self._draft(example, "all")
        if isinstance(draft, str):
            return _dropped(draft)
        fitting = [answer for answer in self._locate(encoded, draft.answers) if answer.end <= limit]
        if not fitting:
            return _dropped(f"no whole answer within {limit} tokens")
        # The cut comes first and the mask rule then looks at what is left of the conversation.
        shown = fitting[-1:] if self.mask == "last" else fitting
        return _finished(ids[: fitting[-1].end], shown, TRIMMED, f"longer than {limit} tokens")

    def _split(self, example: Example, limit: int) -> Row:
        """Return as many whole exchanges as fit in each piece, from the start."""
        head, exchanges = _exchanges(example.messages)
        pieces: list[Row] = []
        run: tuple[Message, ...] = ()
        piece: Row | None = None
        left_out = 0
        for exchange in exchanges:
            if piece is not None:
                longer = self._fitting(example, (*head, *run, *exchange), limit)
                if longer is not None:
                    run, piece = (*run, *exchange), longer
                    continue
                pieces.append(piece)
            run, piece = exchange, None
            if len(pieces) < MAX_PIECES:
                piece = self._fitting(example, (*head, *exchange), limit)
            left_out += piece is None
        if piece is not None:
            pieces.append(piece)
        what = "exchange" if left_out == 1 else "exchanges"
        if not pieces:
            return _dropped(f"no whole exchange within {limit} tokens")
        return _joined(pieces, f"longer than {limit} tokens" + (f"; {left_out} {what} left out" if left_out else ""))

    def _fitting(self, example: Example, messages: tuple[Message, ...], limit: int) -> Row | None:
        """Return some turns of a conversation as a row of their own; None where they do not fit or teach nothing."""
        draft = self._draft(_part(example, messages), self.mask)
        if isinstance(draft, str):
            return None
        (encoded,) = self.encoder.encode([draft.text])
        ids = self._whole(encoded)
        row = _finished(ids, self._locate(encoded, draft.answers), KEPT, "")
        return None if len(ids) > limit or row.status == DROPPED else row

    def _locate(self, encoded: Encoded, answers: Sequence[_Answer]) -> list[_Tokens]:
        """Map character spans to token spans, beginning-of-sequence tokens counted."""
        shift = len(self.bos)
        found = []
        for answer in answers:
            first, after, boundary = encoded.span(answer.start, answer.end)
            if first < after:
                found.append(_Tokens(first + shift, after + shift, boundary, answer.closed))
        return found

    # ----------------------------------------------------------------------------------------- generation

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Return the token ids that an answer to `messages`, with `tools` on offer, follows; never with an end token.

        Raises:
            ValueError: the template refuses the conversation.
        """
        text = self.prompt_text(messages, tools)
        return [*self.bos, *self.tokenizer.encode(text, add_special_tokens=False).ids]

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return the text that an answer to `messages` follows, a beginning-of-sequence token apart.

        Raises:
            ValueError: the template refuses the conversation.
        """
        return self._offering(tools)([message.as_dict() for message in messages], True)

    @cached_property
    def encoder(self) -> Encoder:
        """What turns texts into tokens."""
        return Encoder(self.tokenizer)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer: the end-of-sequence token and what the template closes a turn with."""
        found = {self.tokenizer.token_to_id(self.tokens.get("eos_token", ""))}
        for text, answer in self._probe():
            for match in self._special.finditer(text[answer.start : answer.end]):
                found.add(self.tokenizer.token_to_id(match.group()))
        return tuple(sorted(number for number in found if number is not None))

    def decode(self, ids: Sequence[int] | NDArray[np.int32]) -> str:
        """Return the text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode([int(number) for number in ids], skip_special_tokens=True))

    def text(self, ids: Sequence[int] | NDArray[np.int32]) -> str:
        """Return the text of any ids, special tokens shown."""
        return str(self.tokenizer.decode([int(number) for number in ids], skip_special_tokens=False))

    # -------------------------------------------------------------------------------------------- identity

    def describe(self) -> dict[str, Any]:
        """Return what decides the tokens, as plain data, for manifests and model cards.

        ``gap`` is what training shows between the generation prompt and an answer: ``" "`` is harmless, a longer
        one means that a model is trained after other text than it is asked to go on from.
        """
        return {
            "template": self.name,
            "template_sha256": hashlib.sha256(self.template.encode()).hexdigest(),
            "tokenizer_sha256": self._tokenizer_hash,
            "mask": self.mask,
            "max_length": self.max_length,
            "too_long": self.too_long,
            "bos": list(self.bos),
            "stop_ids": list(self.stop_ids),
            "gap": self._gap(),
        }

    def export_template(self) -> str:
        """Return the template as a model folder's ``chat_template.jinja`` must hold it to give the same tokens."""
        if not self.bos:
            return self.template
        return "".join(f"{{{{ {json.dumps(self.text([number]))} }}}}" for number in self.bos) + self.template

    def write_generation_config(self, folder: str | Path) -> None:
        """Say in a model folder's ``generation_config.json`` what ends an answer, so that other tools stop there too.

        ``eos_token_id`` becomes `stop_ids`, a plain number when there is one; all else in the file stays. A file
        that is no JSON object, which no tool could read, is replaced.
        """
        path = Path(folder) / "generation_config.json"
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            given = {}
        if not isinstance(given, dict):
            given = {}
        stops = sorted(self.stop_ids)
        stop = stops[0] if len(stops) == 1 else stops
        if not stops or given.get("eos_token_id") == stop:
            return
        given["eos_token_id"] = stop
        path.write_text(json.dumps(given, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    # ------------------------------------------------------------------------------------------------ parts

    def _probe(self) -> list[tuple[str, _Answer]]:
        """Return a made-up conversation's text with the places of its answers."""
        turns = (Message("user", "Hi"), Message("assistant", "Hello"))
        for times in (2, 1):
            draft = self._draft(Example(turns * times), "all")
            if isinstance(draft, _Draft):
                return [(draft.text, answer) for answer in draft.answers]
        return []

    def _gap(self) -> str:
        asked = [{"role": "user", "content": "Hi"}]
        try:
            draft = self._draft(Example((Message("user", "Hi"), Message("assistant", "Hello"))), "all")
            prompt = self._render(asked, True)
        except ValueError:
            return ""
        if isinstance(draft, str) or not draft.answers or not draft.text.startswith(prompt):
            return ""
        return draft.text[len(prompt) : draft.answers[0].start]

    def _specials(self, example: Example) -> int:
        return sum([self._holds_special(message.content) for message in example.messages])

    def _holds_special(self, text: str) -> bool:
        # Looking for their first letters is many times faster, and most texts have none of them.
        return any([letter in text for letter in self._first_letters]) and self._special.search(text) is not None

    def _ignored(self, example: Example, draft: _Draft | str) -> bool:
        """Return whether the text of an example with tools is the same without them."""
        if not example.tools or isinstance(draft, str):
            return False
        try:
            return self._render([message.as_dict() for message in example.messages], False) == draft.text
        except ValueError:
            return False

    def _special_pattern(self) -> re.Pattern[str]:
        added = self.tokenizer.get_added_tokens_decoder().values()
        names = {token.content for token in added if token.special} | {self.tokens.get("eos_token", "")}
        ordered = sorted(names - {""}, key=lambda name: (-len(name), name))
        self._first_letters = sorted({name[0] for name in ordered})
        return re.compile("|".join(map(re.escape, ordered)) or "(?!)")

    def _check_tokens(self) -> None:
        needed = templates.REQUIRED_TOKENS.get(self.name, ())
        if self.name in templates.BUILT_IN and not needed and not self.tokens.get("eos_token"):
            raise ModelError(
                f"the template {self.name} ends answers with the tokenizer's eos_token, and tokenizer_config.json "
                f'in {self.folder} names none; add "eos_token" there'
            )
        absent = [token for token in needed if self.tokenizer.token_to_id(token) is None]
        if absent:
            raise ModelError(
                f"the template {self.name} needs the tokens {', '.join(absent)}, which the tokenizer in "
                f"{self.folder} has not; use training.template: vicuna_v1.1 or plain"
            )


def load_tokenizer(folder: Path) -> tuple[Tokenizer, tuple[int, ...], str]:
    """Return the tokenizer without truncation, padding and post-processing, its BOS ids, and its hash.

    Raises:
        ModelError: there is no tokenizer.json, or it cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json; make one with transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    raw = path.read_bytes()
    try:
        tokenizer = Tokenizer.from_str(raw.decode())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        leading = _leading(tokenizer)
        # Post-processors trim offsets (byte-level ones take white space out of a token's place) and cut; the text
        # must be mapped as it is. What they add in front is kept as `bos`.
        tokenizer.post_processor = None
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read: {error}; fetch the model again") from None
    return tokenizer, leading, hashlib.sha256(raw).hexdigest()


def _leading(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that the tokenizer puts in front of a text."""
    encoding = tokenizer.encode("a")
    marks = encoding.special_tokens_mask
    return tuple(encoding.ids[: marks.index(0)]) if 0 in marks else ()


def _finished(ids: NDArray[np.int32], answers: Sequence[_Tokens], status: str, reason: str) -> Row:
    if not answers:
        return _dropped(NOTHING_SUPERVISED)
    return Row(
        ids,
        tuple([(answer.start, answer.end) for answer in answers]),
        status,
        reason,
        sum([answer.boundary for answer in answers]),
        sum([not answer.closed for answer in answers]),
    )


def _joined(pieces: Sequence[Row], reason: str) -> Row:
    """Return several rows as one that is split."""
    ends = np.cumsum([len(piece.ids) for piece in pieces]).tolist()
    starts = [0, *ends[:-1]]
    return Row(
        np.concatenate([piece.ids for piece in pieces]),
        tuple((at + a, at + b) for at, piece in zip(starts, pieces, strict=True) for a, b in piece.spans),
        SPLIT,
        reason,
        sum(piece.boundary_tokens for piece in pieces),
        sum(piece.open_turns for piece in pieces),
        tuple(starts[1:]),
    )


def _exchanges(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """Return the leading system turns, and the rest as exchanges: each from a question through its last answer."""
    first = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    exchanges: list[list[Message]] = [[]]
    for message in messages[first:]:
        answered = any(turn.role == "assistant" for turn in exchanges[-1])
        if answered and message.role in ("user", "system"):
            exchanges.append([])
        exchanges[-1].append(message)
    return tuple(messages[:first]), [tuple(turns) for turns in exchanges]


def _parts(example: Example) -> Iterator[Example]:
    """Yield each exchange, under the leading system turns, as an example."""
    head, exchanges = _exchanges(example.messages)
    return (_part(example, (*head, *exchange)) for exchange in exchanges)


def _part(example: Example, messages: tuple[Message, ...]) -> Example:
    return Example(messages, (), example.path, example.line, example.tools)


def _dropped(reason: str) -> Row:
    return Row(np.zeros(0, np.int32), (), DROPPED, reason)


def _too_long(example: Example, tokens: str, limit: int) -> DataError:
    return DataError(
        f"the row has {tokens} tokens, max_length is {limit}; "
        f"set max_length: {tokens.removeprefix('at least ')} or more, or too_long: trim, split or drop",
        path=example.path,
        line=example.line if example.path else 0,
    )


def _one_of(what: str, value: str, possible: Sequence[str]) -> None:
    if value not in possible:
        raise ValueError(f"{what} is {value!r}.{did_you_mean(value, possible)}")
