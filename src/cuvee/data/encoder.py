"""Texts to token ids with their places in the text, a batch at a time.

Two ways give the same ids. The tokenizer itself is always right. `Fast` has tiktoken (extra ``fast``) carry out the
same merges, several times faster; `fast` makes one only where the two are equal by construction:

1. Both cut the text at the same places: at added tokens that need no context, then by the pattern of a byte-level
   tokenizer, or, for one like LLaMA's, before each space that follows something else, where no token reaches across.
2. tiktoken joins any two neighbours whose bytes are a token, the tokenizer only pairs on its list. A token that the
   tokenizer makes of its own text has one last pair; merges inside a token's place are the same whatever stands
   around it, for each was the first in rank there too; so no other pair of neighbours ever has that token's bytes.
   Tokens that the tokenizer does not make of their own text are never made of any, and are left out.
3. Ranks are in the order of the list.

What the proof does not cover goes to the tokenizer, text by text: characters younger than this Python's Unicode
tables (the two engines' tables may differ there), and texts whose tokens do not add up to the text. The first texts
are encoded both ways, and a difference ends the use of `Fast`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How byte-level tokenizers cut a text (GPT-2, encoder.py)."""
SPACE = "▁"
WORDS = f"{SPACE}*[^{SPACE}]+|{SPACE}+"
BYTE = re.compile("<0x[0-9A-F]{2}>")
BETWEEN = "\ue000\ue001\ue000"
"""Stands between two texts that are encoded in one go; a text that holds it is encoded alone."""
WORTH = 4096
CHECKED = 256
"""Texts that are encoded both ways before `Fast` is trusted."""


class Encoded(Protocol):
    """Token ids of one text, and which of them cover a piece of it."""

    @property
    def ids(self) -> NDArray[np.int32]: ...

    def span(self, start: int, end: int) -> tuple[int, int, bool]:
        """Return the tokens [first, after) that reach into characters [start, end), and whether the first of them
        begins before `start`."""


class Encoder:
    """What encodes texts: fast where that is exact, else as the tokenizer does.

    Args:
        tokenizer: a tokenizer without truncation, padding and post-processing.
        worth: texts after which the second or two pay that making `Fast` takes.
    """

    def __init__(self, tokenizer: Tokenizer, worth: int = WORTH) -> None:
        self.tokenizer, self.worth = tokenizer, worth
        self.fast: Fast | None = None
        self._seen, self._unchecked = 0, CHECKED
        self._making = Lock()

    @cached_property
    def longest(self) -> int:
        """Bytes of text that one token stands for at the most; 0 where no bound is known."""
        return _longest(json.loads(self.tokenizer.to_str()))

    def at_least(self, text: str) -> int:
        """Return a number of tokens that the text has at the least, without making them; 0 where none is known."""
        size = len(text) if text.isascii() else len(text.encode())
        return -(-size // self.longest) if self.longest else 0

    def encode(self, texts: Sequence[str]) -> Sequence[Encoded]:
        """Return each text's tokens; special tokens in a text are taken as such. Safe to call from several threads."""
        self._make(len(texts))
        fast = self.fast  # another thread may give it up meanwhile
        if fast is None:
            return self._plain(texts)
        found: list[Encoded | None] = list(fast.encode(texts))
        if self._unchecked > 0 and not self._agree(texts, found):
            self.fast = None
            return self._plain(texts)
        rest = [at for at, one in enumerate(found) if one is None]
        for at, one in zip(rest, self._plain([texts[at] for at in rest]), strict=True):
            found[at] = one
        return [one for one in found if one is not None]

    def expect(self, texts: int) -> None:
        """Say how many texts will come: where they are many, none of them waits for `Fast`."""
        if texts > self.worth and not self._seen:
            self._make(texts)

    def _make(self, texts: int) -> None:
        with self._making:
            before, self._seen = self._seen, self._seen + texts
            if before <= self.worth < self._seen:
                self.fast = fast(self.tokenizer)

    def _agree(self, texts: Sequence[str], found: Sequence[Encoded | None]) -> bool:
        some = [at for at, one in enumerate(found) if one is not None][: self._unchecked]
        self._unchecked -= len(some)
        plain = self._plain([texts[at] for at in some])
        return all(np.array_equal(one.ids, found[at].ids) for at, one in zip(some, plain, strict=True))  # type: ignore[union-attr]

    def _plain(self, texts: Sequence[str]) -> list[Encoded]:
        if not texts:
            return []
        return [ByOffsets(one) for one in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


KEEPING = ("ByteLevel", "Metaspace", "Digits")
SHRINKING = 3
"""How many times fewer bytes a text may have in composed form (NFC): three characters of three bytes make one."""


def _longest(told: Mapping[str, Any]) -> int:
    """Return the bytes of a tokenizer's longest token where tokens leave nothing of any text out, else 0."""
    model, cuts = told["model"], _steps(told["pre_tokenizer"], "pretokenizers")
    if model["type"] != "BPE" or any(token["lstrip"] or token["rstrip"] for token in told["added_tokens"]):
        return 0
    if not all(cut["type"] in KEEPING or (cut["type"] == "Split" and cut["behavior"] != "Removed") for cut in cuts):
        return 0
    forms = _steps(told["normalizer"], "normalizers")
    if not all(form["type"] in ("NFC", "Prepend") or _writes_spaces(form) for form in forms):
        return 0
    vocabulary, by_bytes = model["vocab"], any(cut["type"] == "ByteLevel" for cut in cuts)
    fallback = {f"<0x{number:02X}>" for number in range(256)} if model.get("byte_fallback") else {""}
    if not (_alphabet() if by_bytes else fallback) <= vocabulary.keys():
        return 0  # what has no token may be left out, or a token for the unknown may stand for any length of it
    sizes = [len(token) if by_bytes else len(token.encode()) for token in vocabulary]
    added = [len(token["content"].encode()) for token in told["added_tokens"]]
    return max(sizes + added) * (SHRINKING if any(form["type"] == "NFC" for form in forms) else 1)


def _steps(told: Mapping[str, Any] | None, several: str) -> Sequence[Mapping[str, Any]]:
    if told is None:
        return []
    return list(told[several]) if told["type"] == "Sequence" else [told]


def _writes_spaces(form: Mapping[str, Any]) -> bool:
    return bool(form["type"] == "Replace" and form["pattern"] == {"String": " "} and form["content"] == SPACE)


class ByOffsets:
    """Tokens as the tokenizer gives them, with its own offsets."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.ids = np.array(encoding.ids, np.int32)

    def span(self, start: int, end: int) -> tuple[int, int, bool]:
        places = range(len(self.ids))
        first = bisect_right(places, start, key=lambda at: self._chars(at)[1])
        after = bisect_left(places, end, lo=first, key=lambda at: self._chars(at)[0])
        return first, after, first < after and self._chars(first)[0] < start

    def _chars(self, at: int) -> tuple[int, int]:
        place = self.encoding.token_to_chars(at)
        assert place is not None, "no post-processor adds tokens"
        return place


@dataclass(frozen=True, slots=True)
class ByLengths:
    """Tokens that stand one after another without gap: each token's bytes say where the next one starts.

    Args:
        ids: (n,).
        ends: bytes of the text up to the end of each token, (n,).
        text: the text.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    text: str

    def span(self, start: int, end: int) -> tuple[int, int, bool]:
        if not self.text.isascii():
            start, end = (len(self.text[:at].encode()) for at in (start, end))
        first = int(self.ends.searchsorted(start, "right"))
        # A ``▁`` put in front of a stretch, that merged with nothing, has no bytes and belongs to what follows it.
        while first and self.ends[first - 1] == (self.ends[first - 2] if first > 1 else 0) == start:
            first -= 1
        after = max(first, min(int(self.ends.searchsorted(end, "left")) + 1, len(self.ids)))
        return first, after, first < after and (int(self.ends[first - 1]) if first else 0) < start


# ---------------------------------------------------------------------------------------------------- fast


@dataclass(frozen=True)
class Form:
    """How a tokenizer writes and cuts a text before it merges.

    Args:
        pattern: what matches one piece after another.
        spaces: how many stretches between added tokens get a ``▁`` in front, spaces being written so: ``first`` or
            ``always``; empty for byte-level tokenizers, which write nothing.
        composed: whether texts are brought into Unicode's composed form (NFC) first.
    """

    pattern: str
    spaces: str = ""
    composed: bool = False


@dataclass(frozen=True)
class Fast:
    """A tokenizer's merges in tiktoken.

    Args:
        core: tiktoken's encoding.
        form: how texts are written and cut.
        ids: the tokenizer's id of each of tiktoken's, (m,) int32; -1 where there is none.
        lengths: bytes of text that each of tiktoken's ids stands for, (m,).
        added: matches an added token, in a group; those have tiktoken's last ids.
        first_added: the first of these; `BETWEEN` has the last.
    """

    core: Any
    form: Form
    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    added: re.Pattern[str]
    first_added: int

    def encode(self, texts: Sequence[str]) -> Iterator[ByLengths | None]:
        """Yield each text's tokens, None for a text that only the tokenizer itself can be trusted with."""
        written, fronts = [], []
        for text in texts:
            shown, front = self._written(text)
            written.append(shown)
            fronts += front
        flat = self._flat(BETWEEN.join(written))
        ends = np.append(np.flatnonzero(flat == len(self.ids) - 1), len(flat))
        lengths = self.lengths[flat]
        starts = np.append(0, np.flatnonzero(flat >= self.first_added) + 1)
        if len(ends) != len(texts) or (self.form.spaces and len(starts) != len(fronts)):
            yield from [None] * len(texts)
            return
        lengths[starts[np.flatnonzero(fronts)]] -= 1  # a space in front is not of the text
        ids, total = self.ids[flat], np.cumsum(lengths)
        bad = np.append(0, np.cumsum(ids < 0))
        start = 0
        for text, end in zip(texts, ends.tolist(), strict=True):
            places = total[start:end] - (total[start - 1] if start else 0)
            size = len(text) if text.isascii() else len(text.encode())
            whole = end > start and places[-1] == size and bad[end] == bad[start]
            yield ByLengths(ids[start:end], places, text) if whole and self._known(text) else None
            start = end + 1

    def _flat(self, text: str) -> NDArray[np.int64]:
        try:
            found = self.core.encode_to_numpy(text, allowed_special="all")
        except BaseException as error:
            # What tiktoken raises where its regular expressions give up has no other name, and no Exception above it.
            if type(error).__name__ != "PanicException":
                raise
            return np.zeros(0, np.int64)
        return np.asarray(found, np.int64)

    def _written(self, text: str) -> tuple[str, list[bool]]:
        """Return the text as the merges see it, and for each stretch between added tokens whether it got a space."""
        if not self.form.spaces:
            return text, []
        parts = self.added.split(text)
        fronts = []
        for number in range(0, len(parts), 2):
            part = parts[number]
            front = (number == 0 or self.form.spaces == "always") and bool(part) and part[0] not in (" ", SPACE)
            parts[number] = SPACE * front + part.replace(" ", SPACE)
            fronts.append(front)
        return "".join(parts), fronts

    def _known(self, text: str) -> bool:
        if text.isascii():
            return True
        if (self.form.spaces and SPACE in text) or not _all_known(text):
            return False
        return not self.form.composed or unicodedata.is_normalized("NFC", text)


def fast(tokenizer: Tokenizer) -> Fast | None:
    """Return the tokenizer's merges in tiktoken; None where tiktoken is absent or equality is not certain."""
    text = tokenizer.to_str()
    name = hashlib.sha256(text.encode()).digest()
    with _MAKING:
        if name not in _MADE:
            _MADE.clear()
            _MADE[name] = _fast(tokenizer, text)
        return _MADE[name]


_MADE: dict[bytes, Fast | None] = {}
"""The last one made: a process renders one source after another with it."""
_MAKING = Lock()


def _fast(tokenizer: Tokenizer, text: str) -> Fast | None:
    try:
        import tiktoken
    except ImportError:
        return None
    told = json.loads(text)
    form, vocab = _form(told), told["model"]["vocab"]
    if form is None:
        return None
    spaces = bool(form.spaces)
    added = _added_tokens(told, spaces)
    words = _ranked(told["model"], spaces, _reachable(tokenizer, told["model"]))
    if added is None or words is None:
        return None
    # A character's own token goes before the token of its byte.
    tokens = sorted(told["model"]["vocab"], key=lambda token: not BYTE.fullmatch(token)) if spaces else list(vocab)
    vocabulary = {_bytes(token, spaces): vocab[token] for token in tokens}
    ids = [vocabulary.get(word, -1) for word in words]
    lengths = [len(word.replace(SPACE.encode(), b" ")) if spaces else len(word) for word in words]
    names = [*added, BETWEEN]
    try:
        core = tiktoken.Encoding(
            "cuvee",
            pat_str=form.pattern,
            mergeable_ranks={word: number for number, word in enumerate(words)},
            special_tokens={name: len(words) + number for number, name in enumerate(names)},
        )
    except ValueError:  # a pattern that its regular expressions do not know
        return None
    return Fast(
        core,
        form,
        np.array([*ids, *added.values(), -1], np.int32),
        np.array([*lengths, *(len(name.encode()) for name in names)], np.int64),
        re.compile(f"({'|'.join(map(re.escape, added)) or '(?!)'})"),
        len(words),
    )


def _form(told: Mapping[str, Any]) -> Form | None:
    """Return how texts are written and cut; None for tokenizers that do it in another way."""
    model, cut, normalizer = told["model"], told["pre_tokenizer"] or {}, told["normalizer"]
    extras = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    if model["type"] != "BPE" or any(model.get(name) for name in extras):
        return None
    if cut.get("type") == "Metaspace":
        plain = cut["replacement"] == SPACE and cut["prepend_scheme"] in ("first", "always") and not cut["split"]
        apart = not any(re.search(f"[^{SPACE}]{SPACE}", token) for token in model["vocab"])
        fitting = plain and apart and model.get("byte_fallback") and not normalizer
        return Form(WORDS, cut["prepend_scheme"]) if fitting else None
    if normalizer and normalizer["type"] != "NFC":
        return None
    steps = cut["pretokenizers"] if cut.get("type") == "Sequence" else [cut]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if len(steps) == 1:
        return Form(GPT2, composed=bool(normalizer)) if steps[0]["use_regex"] else None
    split = steps[0]
    if len(steps) > 2 or split["type"] != "Split" or steps[1]["use_regex"]:
        return None
    if split["behavior"] != "Isolated" or split["invert"] or "Regex" not in split["pattern"]:
        return None
    return Form(str(split["pattern"]["Regex"]), composed=bool(normalizer))


def _added_tokens(told: Mapping[str, Any], spaces: bool) -> dict[str, int] | None:
    """Return the added tokens; None where finding them takes more than looking for their text."""
    found = {token["content"]: int(token["id"]) for token in told["added_tokens"]}
    if any(token[flag] for token in told["added_tokens"] for flag in ("single_word", "lstrip", "rstrip")):
        return None
    names = sorted(found)
    if any(b.startswith(a) for a, b in itertools.pairwise(names)):
        return None
    if spaces and any(" " in name or SPACE in name for name in names):
        return None
    return found


def _ranked(model: Mapping[str, Any], spaces: bool, made: set[str]) -> list[bytes] | None:
    """Return the bytes of all tokens that merges make, in order of rank, single bytes first; None without an order."""
    words = dict.fromkeys(bytes([number]) for number in range(256))
    if spaces:
        # Characters are whole before any merge: their bytes are joined first.
        for token in model["vocab"]:
            raw = _bytes(token, spaces)
            if len(token) == 1:
                words.update(dict.fromkeys(raw[:size] for size in range(2, len(raw) + 1)))
    if model.get("ignore_merges") and len(made) < len(model["vocab"]):
        return None  # a token that no merge makes is one where it is a whole word
    last = None
    for left, right in (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]):
        token = left + right
        if token not in made or token == last:
            continue
        word = _bytes(token, spaces)
        if word in words or not word:
            return None  # two places in the order, or none
        words[word] = None
        last = token
    return list(words)


def _reachable(tokenizer: Tokenizer, model: Mapping[str, Any]) -> set[str]:
    """Return the tokens that the merges make of their own text."""
    bare = Tokenizer(tokenizer.model)
    if model.get("ignore_merges"):
        bare = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": {**model, **_ALL_MERGES}}))
    tokens = list(model["vocab"])
    encoded = bare.encode_batch_fast(tokens, add_special_tokens=False)
    return {token for token, one in zip(tokens, encoded, strict=True) if one.ids == [model["vocab"][token]]}


_ALL_MERGES = {"ignore_merges": False}


def _bytes(token: str, spaces: bool) -> bytes:
    """Return the bytes of text that a token stands for; none where it stands for no text."""
    if not spaces:
        return token.translate(_letters()).encode("latin-1") if _alphabet().issuperset(token) else b""
    if BYTE.fullmatch(token):
        return bytes([int(token[3:5], 16)])
    return token.encode()


@cache
def _alphabet() -> frozenset[str]:
    return frozenset(map(chr, _letters()))


@cache
def _letters() -> dict[int, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for (GPT-2, encoder.py)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [number for number in range(256) if number not in shown]
    return {number: number for number in shown} | {256 + at: number for at, number in enumerate(hidden)}


def _all_known(text: str) -> bool:
    """Say whether this Python's Unicode tables know all of a text's characters."""
    fresh = set(text) - _KNOWN
    if any(unicodedata.category(letter) == "Cn" for letter in fresh):
        return False
    _KNOWN.update(fresh)
    return True


_KNOWN: set[str] = set()
