"""Reading what a judge wrote, and what several verdicts on one reply come to.

Expressions and rules are those of Zheng et al., arXiv 2306.05685, as their code has them (FastChat, `llm_judge`):

    [[rating]]               the first ``[[7.5]]``; where there is none, the first ``[7.5]`` (the fallback)
    [[A]]                    ``[[A]]``, else ``[[B]]``, else ``[[C]]`` for a tie, wherever they stand
    [[rating_a,rating_b]]    the first ``[[8,7]]``, else ``[8,7]``; nearer than 0.1 is a tie
    rating_a rating_b        two numbers in the first line, as the reviews of the Vicuna announcement have them

The fallback takes any number in brackets: of a judge that cites a source as ``[3]`` and rates in no stated form, the
source is its rating. So it is counted, and can be left out (`fallback: false`).

What differs: the published code makes an unreadable rating -1 and drops it from its report without a word; here it is
a failure with a reason. It stops at ``[[007]]`` with an error, and takes ``[[95]]`` for a rating; both are failures
here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from cuvee.protocols import Grade, Judgement, Verdict

RATING = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
"""The published expression and its fallback."""

RATINGS = (
    re.compile(r"\[\[(\d+\.?\d*),\s?(\d+\.?\d*)\]\]"),
    re.compile(r"\[(\d+\.?\d*),\s?(\d+\.?\d*)\]"),
)
"""The same for two ratings at once."""

HIGHEST = 10.0
"""End of the scale. A judge is asked for 1 at least; a 0 is a rating, as it is in published scores."""

NEAR = 0.1
"""Ratings that differ by no more are a tie (FastChat)."""

WINNERS = {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}

FORMATS = ("[[rating]]", "[[A]]", "[[rating_a,rating_b]]", "rating_a rating_b")
"""Forms of a verdict: what a judge prompt's `output_format` may say."""

UNREADABLE, OUT_OF_SCALE, CUT, EMPTY, REFUSED = "unreadable", "out of scale", "cut", "empty", "refused"
"""Why an answer holds no verdict."""


class NoVerdict(Exception):
    """An answer holds no verdict; the text is the reason."""


def read(judgement: Judgement, fallback: bool) -> Verdict:
    """Return a judgement's verdict: a rating, or ``A``, ``B`` or ``tie``; a failure with its reason.

    Args:
        judgement: what the judge answered, and in which of `FORMATS` it was asked to.
        fallback: whether the weaker expression may find a verdict.
    """
    at = (judgement.item, judgement.turn, judgement.order, judgement.repeat)
    if judgement.text is None:
        return Verdict(*at, None, judgement.failure)
    try:
        value, weak = _READERS[judgement.format](judgement.text, fallback)
    except NoVerdict as error:
        return Verdict(*at, None, _reason(judgement, str(error)))
    return Verdict(*at, value, fallback=weak)


def _reason(judgement: Judgement, found: str) -> str:
    """Return the nearest reason: an answer that was cut may have had its verdict still to come."""
    if judgement.finish == "content_filter":
        return REFUSED
    if judgement.finish == "length" and found == UNREADABLE:
        return CUT
    return found if (judgement.text or "").strip() else EMPTY


def rating(text: str, fallback: bool = True) -> tuple[float, bool]:
    """Return (rating, whether only the fallback found it).

    Raises:
        NoVerdict: there is none, or it is none of the scale.
    """
    match, weak = _search(RATING, text, fallback)
    return _number(match.group(1)), weak


def winner(text: str, fallback: bool = True) -> tuple[str, bool]:
    """Return (``A``, ``B`` or ``tie``, False).

    Raises:
        NoVerdict: there is none.
    """
    for mark, side in WINNERS.items():
        if mark in text:
            return side, False
    raise NoVerdict(UNREADABLE)


def ratings_winner(text: str, fallback: bool = True) -> tuple[str, bool]:
    """Return (the side with the higher of two ratings, whether only the fallback found them).

    Raises:
        NoVerdict: there are none, or one is none of the scale.
    """
    match, weak = _search(RATINGS, text, fallback)
    return _higher(*map(_number, match.groups())), weak


def first_line_winner(text: str, fallback: bool = True) -> tuple[str, bool]:
    """Return (the side with the higher of the first line's two ratings, False).

    Raises:
        NoVerdict: the first line is no two numbers.
    """
    return _higher(*first_line(text)), False


def first_line(text: str) -> tuple[float, float]:
    """Return the two ratings that a review of the Vicuna announcement begins with: ``9 8.5`` or ``9, 8.5``.

    Raises:
        NoVerdict: the first line is no two numbers.
    """
    parts = text.split("\n", 1)[0].replace(",", " ").split()
    if len(parts) != 2 or not all(re.fullmatch(r"\d+\.?\d*", part) for part in parts):
        raise NoVerdict(UNREADABLE)
    return _number(parts[0]), _number(parts[1])


def _search(expressions: tuple[re.Pattern[str], re.Pattern[str]], text: str, fallback: bool) -> tuple[Any, bool]:
    strong, weak = expressions
    if match := strong.search(text):
        return match, False
    if fallback and (match := weak.search(text)):
        return match, True
    raise NoVerdict(UNREADABLE)


def _number(text: str) -> float:
    if re.match(r"0\d", text):
        raise NoVerdict(UNREADABLE)  # 007 is no number to the published code either
    value = float(text)
    if value > HIGHEST:
        raise NoVerdict(OUT_OF_SCALE)
    return value


def _higher(first: float, second: float) -> str:
    if abs(first - second) <= NEAR:
        return "tie"
    return "A" if first > second else "B"


_READERS: Mapping[str, Callable[[str, bool], tuple[float | str, bool]]] = {
    "[[rating]]": rating,
    "[[A]]": winner,
    "[[rating_a,rating_b]]": ratings_winner,
    "rating_a rating_b": first_line_winner,
}


# ----------------------------------------------------------------------------------------------- combining


def mean_rating(verdicts: Sequence[Verdict]) -> Grade | None:
    """Return the mean over the readable verdicts of one reply, with their spread; None where there is none.

    `spread` is the standard deviation between repeated verdicts.
    """
    values = [float(one.value) for one in verdicts if one.value is not None]
    if not values:
        return None
    spread = stdev(values) if len(values) > 1 else None
    return Grade(fmean(values), extra={"spread": spread, **_counts(verdicts)})


def preference(verdicts: Sequence[Verdict]) -> Grade | None:
    """Return how far the judged model is preferred to the other: 1 a win, 0.5 a tie, 0 a loss; None without a verdict.

    Both orders of a repeat must be readable to count. Where they disagree the repeat is a tie and `inconsistent`. A
    repeat that was asked in one order only is what it says.
    """
    repeats: dict[int, list[Verdict]] = {}
    for one in verdicts:
        repeats.setdefault(one.repeat, []).append(one)
    found = [outcome([_side(one) for one in each]) for each in repeats.values() if all(one.value for one in each)]
    if not found:
        return None
    scores = [SCORES[one] for one in found]
    extra: dict[str, Any] = {name: found.count(name) for name in SCORES}
    extra["first_preferred"] = sum(one.value == "A" for one in verdicts)
    spread = stdev(scores) if len(scores) > 1 else None
    return Grade(fmean(scores), extra={**extra, "spread": spread, **_counts(verdicts)})


SCORES = {"win": 1.0, "tie": 0.5, "inconsistent": 0.5, "loss": 0.0}
"""What the outcomes of a comparison count."""


def outcome(sides: Sequence[str]) -> str:
    """Return the outcome of one comparison from the side preferred in each order: ours, other or tie."""
    if len(set(sides)) > 1:
        return "inconsistent"
    return {"ours": "win", "other": "loss", "tie": "tie"}[sides[0]]


def _side(verdict: Verdict) -> str:
    if verdict.value == "tie":
        return "tie"
    ours = "A" if verdict.order == "AB" else "B"
    return "ours" if verdict.value == ours else "other"


def win_rate(counts: Mapping[str, int]) -> float:
    """Return (wins + half of the ties) / all; inconsistent comparisons are ties."""
    return sum(SCORES[name] * count for name, count in counts.items()) / sum(counts.values())


def _counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {
        "verdicts": len(verdicts),
        "failed": sum(one.value is None for one in verdicts),
        "fallback": sum(one.fallback for one in verdicts),
    }
