"""Keep the results of a finished recipe as a small folder to commit: numbers, figures, ids; no rows of any data.

    python scripts/keep_results.py recipes/tiny_studies.yaml docs/results/tiny_studies --store .cuvee
    python scripts/keep_results.py recipes/smollm2_strategies.yaml docs/results/smollm2 --store .cuvee \\
        sources.math.path=gsm8k_train.jsonl.gz

`README.md` holds the sentences, the ledger and the tables of up to 60 rows; longer ones stand beside it as CSV, up to
2,000 rows. Figures are the SVG files of the report up to 300 kB each, those of every
single training left out. `stages.csv` has the ids of the models and of what they were measured by.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from cuvee import api, needs
from cuvee.plan import Plan
from cuvee.recipe import load
from cuvee.report import collect
from cuvee.report.page import escape_markdown as md
from cuvee.report.parts import Block, Drawing, Section
from cuvee.report.sections import sections
from cuvee.runtime import Runtime
from cuvee.store import Store

SHOWN, KEPT = 60, 2_000
LARGEST_FIGURE = 300_000
LEFT_OUT = ("ids", "how-to-read", "loss-curves")
MOST_FIGURES = 40


def main() -> None:
    """Write the folder; an earlier one is replaced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--store", type=Path, default=Path(".cuvee"))
    asked = parser.parse_args()
    plan = api.plan(load(asked.recipe, asked.overrides), Runtime(asked.store))
    store = Store(asked.store)
    data = collect.collect(plan, store)
    found = sections(data)
    text = "\n".join(_page(asked.recipe, asked.overrides, data.title, data.notes, found, plan, store))
    if asked.out.exists():
        shutil.rmtree(asked.out)
    (asked.out / "figures").mkdir(parents=True)
    (asked.out / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", encoding="utf-8")
    for section in found:
        for block in section.blocks:
            if SHOWN < len(block.rows) <= KEPT and section.id not in LEFT_OUT:
                _write_csv(asked.out / _csv_name(block), block.columns, block.rows)
    for drawing in _figures(found):
        (asked.out / drawing.file).write_text(drawing.svg, encoding="utf-8")
    _write_csv(asked.out / "stages.csv", ("kind", "label", "stage", "id"), list(_ids(plan, store)))
    size = sum(path.stat().st_size for path in asked.out.rglob("*") if path.is_file())
    print(f"{asked.out}: {sum(path.is_file() for path in asked.out.rglob('*'))} files, {size / 1e3:,.0f} kB")


def _page(
    recipe: Path,
    overrides: Sequence[str],
    title: str,
    notes: Sequence[str],
    found: Sequence[Section],
    plan: Plan,
    store: Store,
) -> Iterator[str]:
    named = [f"{key}={Path(value).name}" for key, _, value in (each.partition("=") for each in overrides)]
    yield f"# {md(title)}\n"
    yield f"`cuvee run {' '.join([str(recipe), *named])}`, then `python scripts/keep_results.py`. Stage ids are in"
    yield "[stages.csv](stages.csv); they hold for the version that ran it.\n"
    left = needs.wanted(plan, store)
    if left:
        yield f"Not finished: {len(left)} of {len(plan.stages)} stages are missing, and what hangs on them.\n"
    yield from (f"> {md(note)}\n" for note in notes)
    kept = {drawing.name for drawing in _figures(found)}
    for section in found:
        if section.id not in LEFT_OUT:
            yield from _section(section, kept)


def _section(section: Section, kept: set[str]) -> Iterator[str]:
    yield f"\n## {md(section.title)}\n"
    yield from (f"**{md(sentence)}**\n" for sentence in section.lead)
    yield from (f"{md(sentence)}\n" for sentence in section.text)
    yield from (f"- {md(sentence)}" for sentence in section.points)
    if section.preformatted:
        yield f"```yaml\n{section.preformatted.rstrip()}\n```\n"
    yield from _drawn(section.drawings, kept)
    for block in section.blocks:
        yield f"\n### {md(block.title)}\n"
        yield from _table(block)
        yield ""
        yield from (f"- {md(note)}" for note in (*block.further, *block.notes))
        yield ""
        yield from _drawn(block.drawings, kept)


def _table(block: Block) -> Iterator[str]:
    if len(block.rows) > KEPT:
        yield f"{len(block.rows):,} rows, not kept here; the report of the store has them."
    elif len(block.rows) > SHOWN:
        yield f"{len(block.rows):,} rows: [{_csv_name(block)}]({_csv_name(block)})"
    elif block.rows:
        yield f"| {' | '.join(md(name) for name in block.columns)} |"
        yield f"|{'|'.join(' ---: ' if right else ' --- ' for right in block.right)}|"
        yield from (f"| {' | '.join(md(cell) for cell in row)} |" for row in block.rows)


def _drawn(drawings: Sequence[Drawing], kept: set[str]) -> Iterator[str]:
    yield from (f"![{md(drawing.title)}]({drawing.file})\n" for drawing in drawings if drawing.name in kept)


def _figures(found: Sequence[Section]) -> list[Drawing]:
    """Return the figures to keep: small ones, none of single trainings, as many of each section if there are many."""
    by_section = [
        [drawing for drawing in section.all_drawings if len(drawing.svg) <= LARGEST_FIGURE]
        for section in found
        if section.id not in LEFT_OUT
    ]
    in_turn = [drawing for turn in zip_longest(*by_section) for drawing in turn if drawing]
    return in_turn[:MOST_FIGURES]


def _ids(plan: Plan, store: Store) -> Iterator[tuple[str, str, str, str]]:
    kinds = ("base", "train", "fold", "merge", "embed", "grade")
    for stage in plan.stages:
        if stage.kind in kinds and store.has(stage.kind, stage.id):
            yield stage.kind, stage.label, stage.short, stage.id


def _csv_name(block: Block) -> str:
    return f"{Path(block.file).stem}.csv"


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(columns)
        out.writerows(rows)


if __name__ == "__main__":
    main()
