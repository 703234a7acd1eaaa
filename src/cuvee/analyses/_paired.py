"""Many paired comparisons of one analysis: tested on the same items, corrected together, read in words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cuvee.analyses._chance import draws_for
from cuvee.analyses._results import LEVEL, Measure
from cuvee.analyses._stats import Comparison, Sample, compare_all, holm

BETTER, WORSE, UNSEEN, APART = "better", "worse", "no difference seen", "seeds disagree"
SIGNS = {BETTER: "▲", WORSE: "▼", UNSEEN: "·", APART: "≠"}
LEGEND = "▲ better, ▼ worse (Holm-corrected p < 0.05), ≠ seeds disagree on the sign, · no difference seen."

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Tested:
    """A difference `new - old` with its corrected p.

    Args:
        measure: what it is a difference in.
        comparison: the difference, its uncorrected interval and p.
        p: corrected (Holm) over all comparisons of the table.
        smallest: the true difference that would have been found four times in five after the correction.
    """

    measure: Measure
    comparison: Comparison
    p: float
    smallest: float

    @property
    def reading(self) -> str:
        """One of BETTER, WORSE, UNSEEN, APART."""
        if self.p >= LEVEL:
            return UNSEEN
        if not self.comparison.one_direction:
            return APART
        return BETTER if self.measure.scale.better(self.comparison.difference) else WORSE

    @property
    def gain(self) -> float:
        """The difference, positive where `new` is better."""
        return self.comparison.difference * self._sign

    @property
    def gain_ends(self) -> tuple[float, float]:
        """The uncorrected 95 % interval of the gain."""
        ends = (self.comparison.low * self._sign, self.comparison.high * self._sign)
        return min(ends), max(ends)

    @property
    def _sign(self) -> int:
        return 1 if self.measure.higher_is_better else -1

    def columns(self, what: str) -> dict[str, Any]:
        """Return the columns of a table about this difference, called `what`."""
        to, both = self.measure.scale, self.comparison
        return {
            what: to.signed(both.difference),
            "95 % interval": f"{to.signed(both.low)}..{to.signed(both.high)}",
            "p (Holm)": self.p,
            "smallest visible": to.text(self.smallest),
            "reading": self.reading,
        }


Pairs = Mapping[Key, tuple[Measure, Sample, Sample]]


def tested(pairs: Pairs[Key], resamples: int, seed: int) -> tuple[dict[Key, Tested], list[Key]]:
    """Compare pairs `(measure, new, old)`; the keys of those on different items come back apart."""
    kept = {
        key: pair
        for key, pair in pairs.items()
        if pair[1].items == pair[2].items and (pair[1].weights == pair[2].weights).all()
    }
    asked = [(new, old) for _, new, old in kept.values()]
    compared = compare_all(asked, resamples=draws_for(len(asked), resamples), seed=seed)
    corrected = holm([each.p for each in compared])
    alpha = LEVEL / max(1, len(kept))
    found = {
        key: Tested(measure, each, p, each.smallest(alpha))
        for (key, (measure, _, _)), each, p in zip(kept.items(), compared, corrected, strict=True)
    }
    return found, [key for key in pairs if key not in kept]


def test_note(count: int) -> str:
    """Return how the differences of a table were tested."""
    many = "comparisons" if count != 1 else "comparison"
    return (
        "Differences are on the same items; exact McNemar test for 0/1 scores of one seed, paired permutation test "
        f"otherwise; p Holm-corrected over the {count} {many} of this table; intervals are 95 % each, over items, "
        "uncorrected: what another training would give is not in them, and with several seeds a difference has to keep "
        "its sign in each. A true difference below the smallest visible one would be missed more than one time in five."
    )
