"""What a check before training says: a level, a sentence, numbers, and rows as evidence.

    Finding("end_token", "fail", source="3f9a...", text="12 of 400 turns end with no end token")
    named(finding, {"3f9a...": "math"}).name  # 'end_token/math'

A finding holds ids of load stages where a name is meant, so that renaming a source changes no artefact.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

LATER, OK, WARN, FAIL = LEVELS = ("later", "ok", "warn", "fail")
"""From the least to the worst; what is ``later`` has not run yet and says nothing for or against the data."""
FILE = "findings.json"

SHOWN = 5
"""Rows of evidence that a finding keeps."""

EXCERPT = 200
"""Characters of a row's text that a finding keeps."""


@dataclass(frozen=True)
class Finding:
    """What one check found in one source, or in the whole recipe.

    Args:
        check: its name.
        level: ``ok``, ``warn``, ``fail`` (no training may start unless it is accepted), or ``later``: the check is made
            where the training runs.
        source: load stage id; empty when the whole recipe is meant.
        benchmark: load stage id of what the source was compared with; empty without one.
        text: one sentence; ``{source}`` and ``{benchmark}`` stand for the names.
        numbers: what was counted.
        rows: evidence, at most `SHOWN`: ``{path, line, id, text}``.
    """

    check: str
    level: str
    source: str = ""
    benchmark: str = ""
    text: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """What it is accepted by, such as ``overlap/math/gsm8k``; of use when `named`."""
        return "/".join(part for part in (self.check, self.source, self.benchmark) if part)


def named(finding: Finding, names: Mapping[str, str]) -> Finding:
    """Return the finding with names in place of load stage ids; an id without a name is shortened."""
    source, benchmark = (names.get(one, one[:16]) for one in (finding.source, finding.benchmark))
    text = finding.text.replace("{source}", source).replace("{benchmark}", benchmark)
    return replace(finding, source=source, benchmark=benchmark, text=text)


def write(folder: Path, findings: Iterable[Finding]) -> dict[str, Any]:
    """Write the findings and return how many there are of each level."""
    found = list(findings)
    text = json.dumps([{**vars(one), "rows": list(one.rows)} for one in found], indent=1, ensure_ascii=False)
    (folder / FILE).write_text(clean(text) + "\n", encoding="utf-8")
    return {level: sum(one.level == level for one in found) for level in LEVELS}


def read(folder: Path) -> list[Finding]:
    """Return the findings of a finished preflight."""
    data = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return [Finding(**{**one, "rows": tuple(one["rows"])}) for one in data]


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with what it counts: ``1 row``, ``2 rows``; `many` is for words that take more than an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def verb(number: int, does: str) -> str:
    """Return what so many do: ``1 of 3 rows holds``, ``2 of 3 rows hold``."""
    return f"{does}s" if number == 1 else does


def summary(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each level; those still to come are counted apart."""
    levels = Counter(one.level for one in findings)
    now = ", ".join(f"{levels[level]} {level}" for level in LEVELS if level != LATER)
    later = f"; {levels[LATER]} later, in the training" if levels[LATER] else ""
    return f"{counted(len(findings) - levels[LATER], 'finding')}: {now}{later}"


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 1] + "…"


def evidence(path: str, line: int, row_id: str, text: str) -> dict[str, Any]:
    """Return one row of evidence; broken surrogates, which no file and no terminal takes, are shown as escapes."""
    return {"path": clean(path), "line": line, "id": row_id, "text": clean(text)}


def clean(text: str) -> str:
    """Return the text as UTF-8 can hold it."""
    return text.encode("utf-8", "backslashreplace").decode()


def reasons(counts: Mapping[str, int] | Sequence[tuple[str, int]]) -> str:
    """Return counted reasons as text, the most frequent first: ``12 × too long; 3 × broken JSON``."""
    pairs = counts.items() if isinstance(counts, Mapping) else counts
    return "; ".join(f"{count:,} × {reason}" for reason, count in sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
