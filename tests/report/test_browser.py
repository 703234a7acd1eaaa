"""The report in a real headless Chromium: figures are drawn, tables sort, nothing is asked of any network."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cuvee.report.page import write

pytestmark = pytest.mark.real


class Browser:
    """Chromium over its debugging pipe: JSON messages that end with a zero byte, on file descriptors 3 and 4."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self.out = os.pipe()
        self.inp, theirs_out = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        command = [program, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # The shell puts the two pipes where Chromium looks for them.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.numbers, self.left, self.events, self.session = itertools.count(1), b"", [], ""

    def call(self, method: str, **params: Any) -> Any:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 120
        while time.monotonic() < end:
            for answer in self.read(1.0):
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]
                self.events.append(answer)
        raise TimeoutError(method)

    def read(self, seconds: float) -> list[Any]:
        if select.select([self.inp], [], [], seconds)[0]:
            self.left += os.read(self.inp, 1 << 20)
        *whole, self.left = self.left.split(b"\0")
        return [json.loads(each) for each in whole]

    def value(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, path: Path) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + 120
        while self.value("document.readyState") != "complete" and time.monotonic() < end:
            time.sleep(0.2)

    def seen(self, method: str) -> list[Any]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def close(self) -> None:
        os.close(self.out)
        os.close(self.inp)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)


@pytest.fixture(scope="module")
def page(report: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("browser")
    write(report, folder / "out")
    browser = Browser(program, folder / "profile")
    try:
        browser.open(folder / "out" / "report.html")
        yield browser
    finally:
        browser.close()


def test_figures_are_drawn_and_named(page: Browser) -> None:
    sizes = page.value(
        "[...document.querySelectorAll('section > figure svg')].map(s => "
        "[s.getBoundingClientRect().width, s.querySelectorAll('path').length, s.getAttribute('aria-label').length])"
    )
    assert len(sizes) >= 5
    assert all(width > 300 and paths > 10 and label > 20 for width, paths, label in sizes)


def test_no_request_leaves_the_page_and_nothing_is_wrong_in_the_console(page: Browser) -> None:
    asked = [event["request"]["url"] for event in page.seen("Network.requestWillBeSent")]
    assert len(asked) == 1
    assert asked[0].startswith("file:")
    assert page.seen("Runtime.exceptionThrown") == []
    assert page.seen("Runtime.consoleAPICalled") == []
    assert page.seen("Log.entryAdded") == []


def test_tables_sort_by_number_both_ways_and_by_key(page: Browser) -> None:
    column = """(() => {
        const table = document.querySelector('#verdict').parentElement.querySelector('table');
        const header = table.tHead.rows[0].cells[1];
        const read = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[1].textContent));
        header.click(); const up = read();
        header.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true})); const down = read();
        return [up, down, header.getAttribute('aria-sort')];
    })()"""
    up, down, said = page.value(column)
    assert len(up) > 5
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    assert said == "descending"


def test_the_arrow_keys_walk_the_points_and_a_tip_says_them(page: Browser) -> None:
    walk = """(() => {
        const figure = document.querySelector('figure.drawn'), svg = figure.querySelector('svg');
        const press = key => svg.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
        svg.focus(); press('ArrowRight'); const first = figure.querySelector('.tip').textContent;
        press('ArrowRight'); const second = figure.querySelector('.tip').textContent;
        press('ArrowLeft'); const back = figure.querySelector('.tip').textContent;
        press('Escape');
        return [first, second, back, figure.querySelector('.tip').hidden];
    })()"""
    first, second, back, hidden = page.value(walk)
    assert len(first.splitlines()) == 3
    assert (first != second, first == back, hidden) == (True, True, True)


def test_a_pointer_on_a_point_gets_its_numbers(page: Browser) -> None:
    place = """(() => {
        const figure = document.querySelector('figure.drawn'), svg = figure.querySelector('svg');
        svg.scrollIntoView({block: 'center'});
        const {points, series} = JSON.parse(figure.querySelector('script').textContent);
        const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
        return [box.left + points[0][1] * scale, box.top + points[0][2] * scale, series[points[0][0]], points[0][5]];
    })()"""
    x, y, series, value = page.value(place)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tip = page.value("document.querySelector('figure.drawn .tip').textContent")
    assert tip.startswith(series)
    assert f"{value:.4g}" in tip
    # The point's own mark lies there: what is told is what is drawn.
    drawn = page.value(
        f"document.elementsFromPoint({x}, {y}).some(e => e.closest && e.closest('[id*=\"-series-0-\"]') !== null)"
    )
    assert drawn


def test_the_data_travels_with_the_page(page: Browser) -> None:
    """What a click gives away is what lies in the folder, also where the page was sent alone."""
    links = page.value(
        "[...document.querySelectorAll('figure.drawn a[download]')].map(a => [a.download, a.href.split(',')[0], "
        "decodeURIComponent(a.href.slice(a.href.indexOf(',') + 1))])"
    )
    folder = Path(page.value("decodeURIComponent(location.pathname)")).parent / "figures"
    assert len(links) >= 5
    for name, kind, text in links:
        assert kind == "data:text/csv;charset=utf-8"
        told, stored = (list(csv.reader(each.splitlines())) for each in (text, (folder / name).read_text("utf-8")))
        assert [[_value(cell) for cell in row] for row in told] == [[_value(cell) for cell in row] for row in stored]


def _value(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def test_a_legend_entry_hides_and_shows_its_series(page: Browser) -> None:
    script = """(() => {
        const svg = document.querySelector('figure.drawn svg');
        const entry = svg.querySelector('[id$="-legend-0"]');
        const parts = [...svg.querySelectorAll('[id*="-series-0-"]')];
        const seen = () => parts.filter(part => getComputedStyle(part).display !== 'none').length;
        const before = seen();
        entry.dispatchEvent(new MouseEvent('click', {bubbles: true}));
        const off = seen(), said = entry.getAttribute('aria-pressed');
        entry.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
        return [before, off, said, seen()];
    })()"""
    before, off, said, after = page.value(script)
    assert before > 0
    assert (off, said, after) == (0, "false", before)


def test_a_phone_shows_the_page_without_scrolling_sideways(page: Browser) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    try:
        assert page.value("document.documentElement.scrollWidth") <= 390
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_dark_and_light_have_enough_contrast(page: Browser) -> None:
    for scheme in ("dark", "light"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colours = page.value("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        ink, paper = (_luminance(colour) for colour in colours)
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7
        assert (paper < 0.2) == (scheme == "dark")


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 has it."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_prints_to_pages(page: Browser) -> None:
    printed = page.call("Page.printToPDF", printBackground=True)["data"]
    assert len(printed) > 50_000
