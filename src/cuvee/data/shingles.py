"""Texts as sets of hashed word n-grams, the form in which duplicates and overlap compare them.

    bag = shingles([folded("Add 2 and 3."), folded("add 2, and 3")], 3)
    bag.row(0)  # equal to bag.row(1): (add 2 and), (2 and 3) as sorted 52-bit hashes

Words: the text is normalised (NFKC) and lower-cased. A word is a run of letters, digits and marks; a character of a
script that is written without spaces (Chinese, Japanese, Thai, ...) is a word; so is each of + * / % ^ < = > & | ! and
every other mathematical sign but ~, for 5 + 3 is not 5 / 3. A minus, - or its own sign U+2212, is one where neither a
letter nor another minus touches it: in 5 - 3, 5-3 and (-3), not in well-known, GPT-4 or a line of dashes. All else
parts words. A text with fewer words than n has one shingle, all its words; a text without words has none.

Hashes are the same on every machine and in every process. A word's hash is a polynomial in its UTF-8 bytes modulo
2^64 (Karp and Rabin 1987), so that whole batches are hashed by numpy; 52 bits of a mixed sum of n of them are kept.
Two sets of 200 shingles share a false one with a probability of about 1e-11.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

BITS = 52
"""Bits of a shingle's hash; with the row's number in front it fits 64, so one sort orders a whole batch."""
ROWS = 1 << (64 - BITS)
"""Most rows in one batch."""
BYTES = 1 << 21
"""Bytes of text at which a batch ends."""

SYMBOLS = b"+-*/%^<=>&|!"

_HYPHEN = re.compile(r"-(?:(?=-|[^\W\d_])|(?<=[^\W\d_]-)|(?<=--))")
"""A minus that is no word; it begins with its sign so that the search jumps from one to the next."""

_MINUS = "\N{MINUS SIGN}"


# -------------------------------------------------------------------------------------------------- words


class _Characters(dict[int, str]):
    """What becomes of a character that is not ASCII, found when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _character(chr(code))
        return found


def _character(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind == "Sm" or (kind[0] in "LM" and unicodedata.name(letter, "").startswith(_UNSPACED)):
        return f" {letter} "
    return letter if kind[0] in "LNM" else " "


_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE")

_ASCII = bytes(
    code if chr(code).isalnum() or code in SYMBOLS else ord(" ")
    for code in map(ord, (chr(code).lower() for code in range(128)))
) + bytes(range(128, 256))

_CHARACTERS = _Characters({code: chr(code) for code in range(128)})


def folded(text: str) -> bytes:
    """Return the text's words as UTF-8, lower-cased, with spaces in place of all that parts words."""
    plain = text.isascii()
    if not plain:
        text = unicodedata.normalize("NFKC", text).lower().replace(_MINUS, "-")
    if "-" in text:
        text = _HYPHEN.sub(" ", text)
    return (text if plain else text.translate(_CHARACTERS)).encode("utf-8", "replace").translate(_ASCII)


def words(text: bytes) -> bytes:
    """Return a folded text with exactly one space between two words and none at the ends."""
    for symbol in SYMBOLS:
        sign = bytes((symbol,))
        if sign in text:
            text = text.replace(sign, b" " + sign + b" ")
    return b" ".join(text.split())


# ------------------------------------------------------------------------------------------------- hashing


@dataclass(frozen=True)
class Bags:
    """Sets of shingles of several rows: row i has ``hashes[ends[i - 1]:ends[i]]``, ascending, each once."""

    hashes: Hashes
    ends: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of shingles of each row."""
        return np.diff(self.ends, prepend=0)

    def owners(self) -> NDArray[np.int64]:
        """Return the row of each hash."""
        return np.repeat(np.arange(len(self.ends)), self.sizes)

    def row(self, index: int) -> Hashes:
        """Return the set of one row."""
        return self.hashes[self.ends[index - 1] if index else 0 : self.ends[index]]


def batches(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield folded texts in lists small enough for `shingles`."""
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == ROWS or size >= BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def shingles(texts: Sequence[bytes], length: int, short: bool = True) -> Bags:
    """Return the set of word n-grams of each folded text.

    Args:
        texts: what `folded` returned, at most `ROWS`.
        length: words in a shingle.
        short: whether a text with fewer words has one shingle, all its words; else it has none.
    """
    if len(texts) > ROWS:
        raise ValueError(f"{len(texts)} texts, at most {ROWS} at once")
    hashes, starts = _word_hashes(b" ".join(texts) + b" ")
    text_ends = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)
    word_ends = np.searchsorted(starts, text_ends)
    counts = np.diff(word_ends, prepend=0)
    row = np.repeat(np.arange(len(texts)), counts)
    left = word_ends[row] - np.arange(len(hashes))  # words from here to the end of the row
    whole = left >= length
    if short:
        whole |= (left == counts[row]) & (left < length)
    at = np.flatnonzero(whole)
    found = np.zeros(len(at), dtype=np.uint64)
    for step in range(length):
        inside = left[at] > step
        word = hashes[np.minimum(at + step, len(hashes) - 1)]
        found += np.where(inside, word, _PAD) * _PLACES[step % len(_PLACES)] ** np.uint64(step // len(_PLACES) + 1)
    packed = (_mixed(found) >> np.uint64(64 - BITS)) | (row[at].astype(np.uint64) << np.uint64(BITS))
    packed.sort()
    packed = packed[np.concatenate([[True], packed[1:] != packed[:-1]])] if len(packed) else packed
    ends = np.cumsum(np.bincount((packed >> np.uint64(BITS)).astype(np.int64), minlength=len(texts)))
    return Bags(packed & np.uint64((1 << BITS) - 1), ends.astype(np.int64))


def _word_hashes(text: bytes) -> tuple[Hashes, NDArray[np.int64]]:
    """Return hash and first byte of every word in a folded text that ends with a space."""
    letters = np.frombuffer(text, dtype=np.uint8)
    kinds = _KINDS[letters]
    before = np.concatenate([np.zeros(1, dtype=np.uint8), kinds[:-1]])
    inside = np.flatnonzero(kinds)
    first = np.flatnonzero((kinds[inside] != before[inside]) | (kinds[inside] == 2))
    if not len(first):
        return np.zeros(0, dtype=np.uint64), first
    lengths = np.diff(first, append=len(inside))
    place = np.arange(len(inside)) - np.repeat(first, lengths)
    terms = _LETTERS[letters[inside]] * _powers(1 << max(6, int(lengths.max()).bit_length()))[place]
    return _mixed(np.add.reduceat(terms, first)), inside[first]


def _mixed(values: Hashes) -> Hashes:
    """Return the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@lru_cache(maxsize=2)
def _powers(length: int) -> Hashes:
    """Return the powers of the polynomial's base modulo 2^64."""
    factors = np.full(length, _BASE, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _constants(purpose: str, count: int) -> Hashes:
    """Return odd numbers that look random and are the same everywhere."""
    digests = (blake2b(f"{purpose} {number}".encode(), digest_size=8).digest() for number in range(count))
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64) | np.uint64(1)


_BASE = 0x9E3779B97F4A7C13  # 3 modulo 8: its powers differ by few factors of two
_LETTERS = _constants("letter", 256)
_PLACES = _constants("place", 16)
_PAD = _constants("pad", 1)[0]
_KINDS = np.array([2 if code in SYMBOLS else 0 if code == 32 else 1 for code in range(256)], dtype=np.uint8)
