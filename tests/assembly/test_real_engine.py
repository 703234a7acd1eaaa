"""The whole chain with the real engine: interrupted twenty times, the same bits come out."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.assembly.test_runner import interrupt
from tests.conftest import SMALL, journal


def weights(store: Path) -> dict[str, str]:
    found = store.glob("train/*/model/model.safetensors")
    return {path.parts[-3]: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.real
def test_twenty_kills_at_random_moments_change_no_bit_and_repeat_no_stage(tmp_path: Path) -> None:
    text = SMALL.replace("fake:test", "builtin:tiny").replace("count: 60", "count: 360")
    arguments = ("--workers", "2", "--threads", "1", "--checkpoint-steps", "4")
    places = [tmp_path / "whole", tmp_path / "killed"]
    for place in places:
        place.mkdir()
        (place / "r.yaml").write_text(text, encoding="utf-8")
    whole, killed = places
    assert interrupt(whole, 900, *arguments) == 0
    draw = random.Random(11)
    kills = 0
    while kills < 20:
        assert interrupt(killed, draw.uniform(0.5, 8.5), *arguments) != 0, f"it ended before kill {kills + 1}"
        kills += 1
    assert interrupt(killed, 900, *arguments) == 0
    finished = journal(killed / ".cuvee", "finished")
    assert len(finished) == len(set(finished))
    assert journal(killed / ".cuvee", "resumed")
    assert weights(killed / ".cuvee") == weights(whole / ".cuvee")
    assert len(weights(whole / ".cuvee")) == 5
