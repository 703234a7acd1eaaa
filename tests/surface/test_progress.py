"""What is seen of a run under way: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cuvee import terminal

STAGE: Any = SimpleNamespace(id="a", short="train-a", kind="train", label="math + code")
FACTS = {"step": 120, "steps": 5000, "loss": 1.2345, "tokens_per_second": 3400.0, "seconds_left": 7560.0}


def progress(monkeypatch: pytest.MonkeyPatch, *, live: bool) -> tuple[terminal.Progress, io.StringIO, list[float]]:
    out, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(terminal.sys, "stderr", SimpleNamespace(isatty=lambda: live, write=out.write, flush=out.flush))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    made = terminal.Progress(3)
    made.console = Console(file=out, force_terminal=live, width=150, soft_wrap=True, highlight=False)
    return made, out, clock


def test_elsewhere_a_training_under_way_has_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, out, clock = progress(monkeypatch, live=False)
    seen.listen("started", STAGE, {})
    for second in range(0, 150, 5):
        clock[0] = float(second)
        seen.listen("progress", STAGE, FACTS)
    lines = out.getvalue().splitlines()
    assert lines == ["train math + code  step 120/5000  loss 1.234  3,400 tokens/s  2.1 h left"] * 2


def test_a_terminal_shows_step_loss_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _, _ = progress(monkeypatch, live=True)
    seen.listen("started", STAGE, {})
    seen.listen("progress", STAGE, FACTS)
    screen = Console(file=io.StringIO(), width=150)
    screen.print(seen.bars.get_renderable())
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for part in ("train math + code", "120/5000", "loss 1.234", "3,400 tokens/s", "2.1 h left"):
        assert part in text
