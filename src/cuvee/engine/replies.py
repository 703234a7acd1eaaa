"""Finished replies on disk: a kill costs the unfinished ones only.

    {"fingerprint": "9f0c..."}
    {"id": "gsm8k/17", "sample": 0, "prompt": "41aa...", "ids": [318, 42], "finish": "stop"}

The first line says what made the replies; a journal of another model or other settings is not used. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cuvee.engine.decoding import Decoding, Prompt
from cuvee.engine.disk import Journal, write_text
from cuvee.protocols import Progress, Reply


def fingerprint(folder: Path, precision: str, settings: Decoding, stop_ids: Sequence[int]) -> str:
    """Return a digest of what decides a reply besides its prompt; files count by name, size and time.

    `samples` is left out: asking for more of them keeps the ones that are there.
    """
    files = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(folder.glob("*")) if p.is_file()]
    how = {key: value for key, value in asdict(settings).items() if key != "samples"}
    data = [files, precision, how, sorted(set(map(int, stop_ids)))]
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=16).hexdigest()


def _digest(prompt: Prompt) -> str:
    return hashlib.blake2b(array("q", map(int, prompt.ids)).tobytes(), digest_size=8).hexdigest()


class ReplyJournal:
    """Replies by request id and sample number.

    Args:
        path: a file of JSON lines, made if need be; None keeps nothing.
        fingerprint: what makes the replies, from `fingerprint`.
        progress: told {"note"} when replies are taken over, or when the file belongs to something else.
    """

    def __init__(self, path: Path | None, fingerprint: str, progress: Progress) -> None:
        self._journal = Journal(path) if path is not None else None
        self._found: dict[tuple[str, int], Mapping[str, Any]] = {}
        if self._journal is None or path is None:
            return
        records = list(self._journal.records())
        if records and records[0].get("fingerprint") != fingerprint:
            progress({"note": f"{path.name} holds replies of another model or other settings; it is begun anew"})
            records = []
        elif len(records) > 1:
            progress({"note": f"{len(records) - 1} replies were there already"})
        self._found = {(record["id"], record["sample"]): record for record in records[1:]}
        # Written anew, as a kill may have left a part of a line at its end.
        kept = [{"fingerprint": fingerprint}, *records[1:]]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))

    def get(self, prompt: Prompt, sample: int) -> Reply | None:
        """Return the reply to this very prompt, if it is there."""
        record = self._found.get((prompt.id, sample))
        if record is None or record["prompt"] != _digest(prompt):
            return None
        return Reply(tuple(record["ids"]), record["finish"])

    def add(self, prompt: Prompt, sample: int, reply: Reply) -> None:
        """Keep a finished reply; it survives the process from now on."""
        if self._journal is not None:
            record = {"id": prompt.id, "sample": sample, "prompt": _digest(prompt)}
            self._journal.append({**record, "ids": list(reply.ids), "finish": reply.finish})

    def close(self) -> None:
        """Flush to disk."""
        if self._journal is not None:
            self._journal.close()
