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
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from cuvee.data import masks, templates
from cuvee.errors import DataError, ModelError, did_you_mean
from cuvee.values import Example, Message

KEPT, TRIMMED, DROPPED = STATUSES = ("kept", "trimmed", "dropped")
MASKS = ("all", "last")
TOO_LONG = ("trim", "drop", "error")

NOTHING_SUPERVISED = "no supervised token"


@dataclass(frozen=True, slots=True)
class Row:
    """One rendered example.

    Args:
        ids: token ids, (length,) int32; empty when dropped.
        spans: supervised token ranges as [start, end), in order.
        status: ``kept``, ``trimmed`` or ``dropped``.
        reason: why it is not as it was.
        boundary_tokens: supervised tokens that begin before their answer.
        open_turns: supervised turns that the template closes with no special token.
    """

    ids: NDArray[np.int32]
    spans: tuple[tuple[int, int], ...]
    status: str = KEPT
    reason: str = ""
    boundary_tokens: int = 0
    open_turns: int = 0

    @property
    def num_supervised(self) -> int:
        """Number of supervised tokens."""
        return sum(end - start for start, end in self.spans)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer's place in the text: where it starts, where its turn ends, whether an end token closes it."""

    start: int
    end: int
    closed: bool


@dataclass(frozen=True, slots=True)
class _Tokens:
    """An answer's place among the tokens."""

    start: int
    end: int
    boundary: bool
    closed: bool


class Chat:
    """A tokenizer with a template, a mask rule and a length rule.

    Args:
        model_folder: a folder with ``tokenizer.json``.
        template: ``tokenizer`` for the folder's own, or a built-in name (`templates.BUILT_IN`).
        mask: ``all`` supervises every assistant turn, ``last`` the last one.
        max_length: tokens a row may have, beginning-of-sequence token included; None for no limit.
        too_long: ``trim`` cuts after the last answer that fits, ``drop`` leaves the row out, ``error`` raises.

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
        self.tokenizer, self.bos, self._tokenizer_hash = _load(self.folder)
        self.tokens = templates.special_tokens(self.folder)
        self.template = templates.find(self.folder, template)
        self._check_tokens()
        if template == templates.TOKENIZER:
            # The ecosystem's rule: a tokenizer's own template writes its special tokens itself.
            self.bos = ()
        self._render = templates.compile(self.template, self.tokens)
        self._special = self._special_pattern()

    # ------------------------------------------------------------------------------------------ rendering

    def render(self, examples: Sequence[Example]) -> list[Row]:
        """Return one row an example, in order; rows the template refuses come back as dropped.

        Raises:
            DataError: an answer cannot be found in the rendered text, or a row is too long under ``error``; names
                file and line.
            ModelError: the template cannot be used at all.
        """
        drafts = [self._placed(example) for example in examples]
        texts = [text for text, _ in drafts if text is not None]
        encoded = iter(self.tokenizer.encode_batch(texts, add_special_tokens=False))
        rows = []
        for example, (text, found) in zip(examples, drafts, strict=True):
            if isinstance(found, str) or text is None:
                rows.append(_dropped(str(found)))
            else:
                rows.append(self._row(example, next(encoded), found))
        return rows

    def _placed(self, example: Example) -> tuple[str | None, list[_Answer] | str]:
        try:
            return self._draft(example, self.mask)
        except ValueError as error:
            raise _fault(example, str(error)) from None

    def _draft(self, example: Example, mask: str) -> tuple[str | None, list[_Answer] | str]:
        """Return the text and the answers in it, or None and the reason why there is no text.

        Raises:
            ValueError: an answer cannot be found in the text.
        """
        messages = [message.as_dict() for message in example.messages]
        try:
            text = self._render(messages, False)
            text.encode()
        except UnicodeEncodeError:
            return None, "broken Unicode"
        except ValueError as error:
            return None, str(error)
        wanted = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
        try:
            return text, self._answers(messages, text, wanted[-1:] if mask == "last" else wanted)
        except masks.NotShown as error:
            return None, str(error)

    def _answers(self, messages: list[dict[str, Any]], text: str, wanted: Sequence[int]) -> list[_Answer]:
        spans = masks.answers(self._render, messages, text, wanted, self._special)
        found = []
        for index, (start, end) in zip(wanted, spans, strict=True):
            if start == end:
                continue
            follower = str(messages[index + 1]["content"]) if index + 1 < len(messages) else ""
            closing = masks.end_of_turn(text, end, self._special, self.tokens.get("eos_token", ""), follower)
            found.append(_Answer(start, closing, closing > end))
        return found

    def _row(self, example: Example, encoding: Encoding, answers: Sequence[_Answer]) -> Row:
        ids = np.array([*self.bos, *encoding.ids], dtype=np.int32)
        if self.max_length is not None and len(ids) > self.max_length:
            return self._shortened(example, encoding, ids)
        return _finished(ids, self._locate(encoding, answers), KEPT, "")

    def _shortened(self, example: Example, encoding: Encoding, ids: NDArray[np.int32]) -> Row:
        limit = self.max_length or 0
        reason = f"longer than {limit} tokens"
        if self.too_long == "error":
            raise _fault(
                example,
                f"the row has {len(ids)} tokens, max_length is {limit}; "
                f"set max_length: {len(ids)} or more, or too_long: trim or drop",
            )
        if self.too_long == "drop":
            return _dropped(reason)
        try:
            _, answers = self._draft(example, "all")
        except ValueError as error:
            raise _fault(example, str(error)) from None
        assert not isinstance(answers, str)
        fitting = [answer for answer in self._locate(encoding, answers) if answer.end <= limit]
        if not fitting:
            return _dropped(f"no whole answer within {limit} tokens")
        # The cut comes first and the mask rule then looks at what is left of the conversation.
        shown = fitting[-1:] if self.mask == "last" else fitting
        return _finished(ids[: fitting[-1].end], shown, TRIMMED, reason)

    def _locate(self, encoding: Encoding, answers: Sequence[_Answer]) -> list[_Tokens]:
        """Map character spans to token spans by the tokenizer's offsets, beginning-of-sequence tokens counted."""
        places = range(len(encoding))
        shift = len(self.bos)
        found = []
        for answer in answers:
            first = bisect_right(places, answer.start, key=lambda at: _chars(encoding, at)[1])
            after = bisect_left(places, answer.end, lo=first, key=lambda at: _chars(encoding, at)[0])
            if first < after:
                boundary = _chars(encoding, first)[0] < answer.start
                found.append(_Tokens(first + shift, after + shift, boundary, answer.closed))
        return found

    # ----------------------------------------------------------------------------------------- generation

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids that an answer to `messages` follows; never with an end token.

        Raises:
            ValueError: the template refuses the conversation.
        """
        text = self._render([message.as_dict() for message in messages], True)
        return [*self.bos, *self.tokenizer.encode(text, add_special_tokens=False).ids]

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
            try:
                text, found = self._draft(Example(turns * times), "all")
            except ValueError:
                continue
            if text is not None and not isinstance(found, str):
                return [(text, answer) for answer in found]
        return []

    def _gap(self) -> str:
        asked = [{"role": "user", "content": "Hi"}]
        try:
            text, found = self._draft(Example((Message("user", "Hi"), Message("assistant", "Hello"))), "all")
            prompt = self._render(asked, True)
        except ValueError:
            return ""
        if text is None or isinstance(found, str) or not found or not text.startswith(prompt):
            return ""
        return text[len(prompt) : found[0].start]

    def _special_pattern(self) -> re.Pattern[str]:
        added = self.tokenizer.get_added_tokens_decoder().values()
        names = {token.content for token in added if token.special} | {self.tokens.get("eos_token", "")}
        ordered = sorted(names - {""}, key=lambda name: (-len(name), name))
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


def _load(folder: Path) -> tuple[Tokenizer, tuple[int, ...], str]:
    """Return the tokenizer without truncation, padding and post-processing, its BOS ids, and its hash."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json; make one with transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    raw = path.read_bytes()
    try:
        whole = Tokenizer.from_str(raw.decode())
        # Post-processors trim offsets (byte-level ones take white space out of a token's place) and cut; the text
        # must be mapped as it is. What they add in front is kept as `bos`.
        bare = json.loads(raw)
        for key in ("post_processor", "truncation", "padding"):
            bare[key] = None
        tokenizer = Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read: {error}; fetch the model again") from None
    return tokenizer, _leading(whole), hashlib.sha256(raw).hexdigest()


def _leading(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that the tokenizer puts in front of a text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoding = tokenizer.encode("a")
    marks = encoding.special_tokens_mask
    return tuple(encoding.ids[: marks.index(0)]) if 0 in marks else ()


def _chars(encoding: Encoding, at: int) -> tuple[int, int]:
    place = encoding.token_to_chars(at)
    assert place is not None, "no post-processor adds tokens"
    return place


def _finished(ids: NDArray[np.int32], answers: Sequence[_Tokens], status: str, reason: str) -> Row:
    if not answers:
        return _dropped(NOTHING_SUPERVISED)
    return Row(
        ids,
        tuple((answer.start, answer.end) for answer in answers),
        status,
        reason,
        sum(answer.boundary for answer in answers),
        sum(not answer.closed for answer in answers),
    )


def _dropped(reason: str) -> Row:
    return Row(np.zeros(0, np.int32), (), DROPPED, reason)


def _fault(example: Example, message: str) -> DataError:
    return DataError(message, path=example.path, line=example.line if example.path else 0)


def _one_of(what: str, value: str, possible: Sequence[str]) -> None:
    if value not in possible:
        raise ValueError(f"{what} is {value!r}.{did_you_mean(value, possible)}")
