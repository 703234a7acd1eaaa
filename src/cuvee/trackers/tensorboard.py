"""TensorBoard: event files, shown by ``tensorboard --logdir STORE/tracking/tensorboard``.

Written by the package `tensorboard` itself, which needs no TensorFlow for it.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cuvee.protocols import Tracker

PACKAGE = "tensorboard"
EXTRA = "tensorboard"


class _Events:
    """An event file."""

    def __init__(self, folder: Path) -> None:
        proto = "tensorboard.compat.proto"
        self._event = importlib.import_module(f"{proto}.event_pb2").Event
        self._summary = importlib.import_module(f"{proto}.summary_pb2").Summary
        writer: Any = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self._writer = writer.EventFileWriter(str(folder), flush_secs=10)

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Write the values of one step."""
        points = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(self._event(wall_time=seconds, step=step, summary=self._summary(value=points)))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def start(folder: Path, title: str) -> Tracker:
    """Begin the curves of one training anew.

    Args:
        folder: its event files; emptied.
        title: without use here: TensorBoard shows the folder's name.
    """
    shutil.rmtree(folder, ignore_errors=True)
    return _Events(folder)
