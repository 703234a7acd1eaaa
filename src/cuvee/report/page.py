"""The pages: a report's sections as HTML, Markdown, SVG and Parquet, written in one go.

    write(data, Path("report"))    # report.html, report.md, figures/*.svg, *.png, *.csv, *.parquet; tables/*.parquet

The HTML is one file that opens from disk: styles, figures and the data behind them are inline, nothing is loaded, and
everything that is not ours is escaped. Two scripts of ours sort tables and let figures answer a pointer; without them
the page only does not.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cuvee.errors import UsageError
from cuvee.protocols import Table
from cuvee.report import curves
from cuvee.report.data import ReportData
from cuvee.report.parts import FEW, Section
from cuvee.report.sections import sections

CONTENTS = frozenset({"report.html", "report.md", "figures", "tables", "stamp.json"})
"""What a report folder holds; a folder with anything else in it is never replaced."""


def write(data: ReportData, folder: Path) -> list[Path]:
    """Write the report and return its files, sorted.

    Everything is written to a temporary folder beside `folder`, which then takes its place.

    Raises:
        UsageError: `folder` holds something that is no report, or cannot be made.
    """
    check_folder(folder)
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise _impossible(folder, error.strerror or str(error)) from None
    try:
        _fill(data, work)
        work.chmod(0o755)  # mkdtemp makes private folders; a report is there to be shown
        _take_place(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def html(data: ReportData) -> str:
    """Return the HTML page alone: the whole report in one file."""
    return _html(data, sections(data))


def markdown(data: ReportData) -> str:
    """Return the Markdown page alone; it refers to files in ``figures/`` and ``tables/``."""
    return _markdown(data, sections(data))


# ------------------------------------------------------------------------------------------------- folders


def check_folder(folder: Path) -> None:
    """Refuse a folder that `write` would refuse; makes nothing, and can be asked before hours of work.

    Raises:
        UsageError: it is a file, lies below one or where nothing may be written, or holds other files.
    """
    folder = folder.absolute()
    above = next(path for path in folder.parents if _exists(path))
    if not above.is_dir():
        raise _impossible(folder, f"{above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _impossible(folder, f"{above} may not be written to")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the report")
    if folder.is_dir() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise _impossible(folder, "it may not be replaced")
    foreign = sorted(path.name for path in folder.glob("*") if path.name not in CONTENTS) if folder.is_dir() else []
    if foreign:
        raise UsageError(
            f"{folder} holds files that are no report ({', '.join(foreign[:3])}) and would be replaced; "
            "name a new or empty folder"
        )


def _exists(path: Path) -> bool:
    """Whether something is there; what lies below a file or behind a closed door counts as absent."""
    try:
        return path.exists()
    except OSError:
        return False


def _impossible(folder: Path, why: str) -> UsageError:
    return UsageError(f"the report cannot be written to {folder}: {why}; name another folder")


def _fill(data: ReportData, work: Path) -> None:
    found = sections(data)
    (work / "figures").mkdir()
    (work / "tables").mkdir()
    (work / "report.html").write_text(_html(data, found), encoding="utf-8")
    (work / "report.md").write_text(_markdown(data, found), encoding="utf-8")
    for section in found:
        for drawing in section.all_drawings:
            (work / drawing.file).write_text(drawing.svg, encoding="utf-8")
            (work / drawing.file).with_suffix(".png").write_bytes(drawing.drawn.png)
            (work / drawing.csv_file).write_text(drawing.csv, encoding="utf-8")
            write_parquet(drawing.table, (work / drawing.file).with_suffix(".parquet"))
        for block in section.blocks:
            write_parquet(block.table, work / block.file)
    if data.curves or data.source_curves:
        curves.write(data, work / curves.FILE)


def _take_place(work: Path, folder: Path) -> None:
    """Rename `work` to `folder`; an earlier report stands aside first and comes back if that fails."""
    if not folder.exists():
        work.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    old = aside / "report"
    folder.rename(old)
    try:
        work.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


# --------------------------------------------------------------------------------------------------- pages


def _html(data: ReportData, found: Sequence[Section]) -> str:
    page = environment(autoescape=True).get_template("template.html")
    return page.render(data=data, sections=found, inline=_inline, few=FEW)


def _markdown(data: ReportData, found: Sequence[Section]) -> str:
    page = environment(autoescape=False).get_template("template.md")
    text = page.render(data=data, sections=found, fence=_fence(data.recipe_text))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def environment(*, autoescape: bool) -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(
        loader=loader,
        autoescape=autoescape,  # noqa: S701  off for Markdown alone, which has its own escaping
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["md"] = escape_markdown
    made.filters["md_prose"] = markdown_prose
    made.filters["prose"] = html_prose
    return made


def _inline(svg: str) -> Markup:
    """An SVG of ours as part of the page; inside HTML it needs no namespace."""
    return Markup(svg.replace(' xmlns="http://www.w3.org/2000/svg"', ""))  # noqa: S704  names are escaped


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, in a paragraph and in a table's cell."""
    return re.sub(r"\s+", " ", _escaped(text)).strip()


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


CODE = re.compile(r"`([^`\n]+)`")


def html_prose(text: str) -> Markup:
    """Return a sentence for HTML, what stands between backticks as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704  escaped first


def markdown_prose(text: str) -> str:
    """Return a sentence for Markdown, what stands between backticks as it is."""
    parts = CODE.split(re.sub(r"\s+", " ", text))
    spaced = [f"`{part}`" if number % 2 else _escaped(part) for number, part in enumerate(parts)]
    return "".join(spaced).strip()


def _fence(text: str) -> str:
    """A code fence longer than any run of backticks in the text."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))


# ------------------------------------------------------------------------------------------------- parquet


def write_parquet(table: Table, path: Path) -> None:
    """Write a table's raw values; title and notes go to the file's metadata.

    A column of mixed types becomes text, because Parquet has one type a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: _column([row.get(name) for row in table.rows]) for name in table.columns}
    made = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(made.replace_schema_metadata({"title": table.title, "notes": "\n".join(table.notes)}), path)


def _column(values: Sequence[Any]) -> list[Any]:
    values = [str(v) if isinstance(v, Fraction | Mapping) else v for v in values]
    values = [", ".join(map(str, v)) if isinstance(v, list | tuple) else v for v in values]
    types = {type(v) for v in values if v is not None}
    if len(types) < 2:
        return values
    if types == {int, float}:
        return [None if v is None else float(v) for v in values]
    return [None if v is None else str(v) for v in values]
