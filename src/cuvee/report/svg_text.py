"""SVG as matplotlib writes it to SVG as a page carries it: the same picture in about a third of the text.

Ids that nothing uses go, equal styles are said once as classes, numbers have two digits after the point, and groups
without a meaning are taken apart. What is kept by id are references and the parts that a page's script looks for.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import count
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

SVG = "http://www.w3.org/2000/svg"
KEPT = re.compile(r"(series|legend)-\d")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NUMBERS = ("d", "x", "y", "width", "height", "transform")


def compact(text: str, *, prefix: str, said: str) -> str:
    """Return an SVG's text made small, with ids and classes that begin with `prefix` and `said` for screen readers."""
    root = ElementTree.fromstring(text)  # noqa: S314  our own drawing
    for part in root.iter():
        part.tag = part.tag.partition("}")[2]
        part.attrib = {name.rpartition("}")[2]: value for name, value in part.attrib.items()}
    _drop(root, {"metadata", "style"})
    _rename(root, prefix)
    for part in root.iter():
        _shorten(part)
    _flatten(root)
    _share(root)
    _classes(root, prefix)
    attributes = {"role": "img", "aria-label": said, "xmlns": SVG, **root.attrib}
    root.attrib = {**attributes, "stroke-linejoin": "round", "font-family": FONT}
    return ElementTree.tostring(root, encoding="unicode")


def _drop(parent: Element, tags: set[str]) -> None:
    for child in list(parent):
        if child.tag in tags:
            parent.remove(child)
        else:
            _drop(child, tags)


def _rename(root: Element, prefix: str) -> None:
    """Give every id that is used a short name of the figure's own, and drop the others."""
    referred = [value.removeprefix("#") for part in root.iter() for name, value in part.items() if name == "href"]
    referred += [each for part in root.iter() for value in part.attrib.values() for each in _REFERENCE.findall(value)]
    short = {old: f"{prefix}-{number}" for number, old in enumerate(dict.fromkeys(referred))}
    for part in root.iter():
        id = part.attrib.pop("id", "")
        if id in short or KEPT.match(id):
            part.set("id", short.get(id, f"{prefix}-{id}"))
        for name, value in part.items():
            if name == "href":
                part.set(name, f"#{short[value.removeprefix('#')]}")
            elif "url(#" in value:
                part.set(name, _REFERENCE.sub(lambda found: f"url(#{short[found[1]]})", value))


def _shorten(part: Element) -> None:
    """Round coordinates, drop turns by nothing, indents and the font that the root says."""
    if part.tag != "text":
        part.text = None
    part.tail = None
    for name in _NUMBERS:
        if name in part.attrib:
            part.set(name, _rounded(part.attrib[name]))
    if part.get("transform", "").startswith("rotate(0 "):
        del part.attrib["transform"]
    said = [each.strip() for each in part.attrib.pop("style", "").split(";")]
    style = ";".join(re.sub(r":\s+", ":", each) for each in said if each and not each.startswith("font-family"))
    if style:
        part.set("style", style)


def _rounded(text: str) -> str:
    text = re.sub(r"-?\d+\.\d+|-0\b", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)
    text = re.sub(r"(?<![\d.])-0(?![\d.])", "0", text)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", text).strip() if re.match(r"\s*M", text) else text


def _flatten(parent: Element) -> None:
    """Put a group's parts in its place where the group says nothing."""
    children: list[Element] = []
    for child in parent:
        _flatten(child)
        bare = child.tag in ("g", "defs") and not child.attrib and (child.tag == "g" or not len(child))
        children += list(child) if bare else [child]
    parent[:] = children


def _share(root: Element) -> None:
    """Move a style that all parts of a group have to the group; drawn properties are inherited."""
    for group in root.iter("g"):
        styles = {child.get("style") for child in group if child.tag != "defs"}
        if len(styles) == 1 and None not in styles and "style" not in group.attrib:
            group.set("style", str(styles.pop()))
            for child in group:
                child.attrib.pop("style", None)


def _classes(root: Element, prefix: str) -> None:
    """Say styles that come several times once."""
    times = Counter(style for part in root.iter() if (style := part.get("style")))
    numbers = count()
    names = {style: f"{prefix}-s{next(numbers)}" for style, many in times.items() if many > 1}
    for part in root.iter():
        style = part.get("style", "")
        if style in names:
            del part.attrib["style"]
            part.set("class", names[style])
    if names:
        sheet = Element("style")
        sheet.text = "".join(f".{name}{{{style}}}" for style, name in names.items())
        root.insert(0, sheet)
