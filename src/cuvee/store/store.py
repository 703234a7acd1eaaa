"""Has, get, commit: present means complete.

Work is done in a folder of its own, flushed, given its manifest, and renamed into place while its lock is held.
A kill at any moment leaves either no stage or a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cuvee.canonical import ID_LENGTH
from cuvee.errors import StoreError, UsageError
from cuvee.store import leases

VERSION = 1
MANIFEST = "manifest.json"
_OWN = ("store.json", "pins.json")
"""Files that may lie in a folder before it is a store."""


class Store:
    """A folder of finished stages.

    Args:
        folder: made on the first write.

    Raises:
        StoreError: the folder is no store, or one written by a newer version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._root = str(self.folder)
        self._check()

    def _check(self) -> None:
        mark = self.folder / "store.json"
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise StoreError(f"{self.folder} is a file, not a store; give another --store")
        if not mark.exists():
            foreign = [p.name for p in self.folder.iterdir() if not p.name.lstrip(".").startswith(_OWN)]
            # Another process may have made the store between the two looks.
            if foreign and not mark.exists():
                raise StoreError(
                    f"{self.folder} is not empty and not a store (no store.json); give another --store, "
                    "or an empty folder"
                )
            return
        try:
            version = json.loads(mark.read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{mark} cannot be read ({error}); restore it or give another --store") from None
        if not isinstance(version, int) or version > VERSION:
            raise StoreError(
                f"{self.folder} was written by a newer cuvee (layout {version}, this one knows {VERSION}); "
                "upgrade cuvee, or give another --store"
            )

    def prepare(self) -> None:
        """Make the store's folders; needed before the first write.

        Raises:
            StoreError: the place cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            mark = self.folder / "store.json"
            if not mark.exists():
                write_whole(mark, json.dumps({"version": VERSION}))
            for name in ("work", "locks", "logs"):
                (self.folder / name).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written: {error.strerror}; give another --store") from None

    @property
    def pins(self) -> Path:
        """File of remembered hashes."""
        return self.folder / "pins.json"

    def path(self, kind: str, stage_id: str) -> Path:
        """Return the folder of a finished stage, present or not."""
        return self.folder / kind / stage_id[:ID_LENGTH]

    def work(self, short: str) -> Path:
        """Return the folder where a stage is being made."""
        return self.folder / "work" / short

    def lock(self, short: str) -> FileLock:
        """Return the lock that the writer of a stage holds; the system frees it when the process dies."""
        return FileLock(self.folder / "locks" / f"{short}.lock")

    def has(self, kind: str, stage_id: str) -> bool:
        """Return whether the stage is complete."""
        # Plain strings: a plan of 10,000 stages asks this often.
        return os.path.exists(f"{self._root}/{kind}/{stage_id[:ID_LENGTH]}/{MANIFEST}")

    def manifest(self, kind: str, stage_id: str) -> dict[str, Any]:
        """Return the manifest of a finished stage.

        Raises:
            StoreError: it is damaged, or belongs to another stage.
        """
        return _read_manifest(self.path(kind, stage_id), stage_id)

    def commit(self, kind: str, stage_id: str, work: Path, manifest: dict[str, Any]) -> Path:
        """Make `work` the finished stage: flush its files, write the manifest last, rename.

        The caller holds the stage's lock.
        """
        target = self.path(kind, stage_id)
        flush_tree(work)
        write_whole(work / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # Only a stage whose weights were given up (see `shed`) is made again.
            shutil.rmtree(target)
        os.replace(work, target)
        flush_folder(target.parent)
        return target

    def amend(self, kind: str, stage_id: str, **facts: Any) -> None:
        """Add facts to a finished stage's manifest; never to what its id hashes."""
        manifest = {**self.manifest(kind, stage_id), **facts}
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        write_whole(self.path(kind, stage_id) / MANIFEST, text)

    def shed(self, kind: str, stage_id: str, part: str) -> int:
        """Delete a sub-folder of a finished stage (a model's weights) and say so in its manifest.

        Only a stage that was made to be given up (``disposable`` in its manifest), that no run of another process
        needs and nobody is making is touched.

        Returns:
            Bytes freed.
        """
        try:
            with self.lock(f"{kind}-{stage_id[:ID_LENGTH]}").acquire(blocking=False):
                manifest = self.manifest(kind, stage_id)
                if not manifest.get("disposable") or manifest.get("shed") or stage_id in self.leased():
                    return 0
                folder = self.path(kind, stage_id) / part
                freed = tree_size(folder)
                self.amend(kind, stage_id, shed=part)
                shutil.rmtree(folder, ignore_errors=True)
                return freed
        except Timeout:
            return 0

    def lease(self, ids: Iterable[str]) -> AbstractContextManager[None]:
        """Keep stages from being deleted by others while the context is open."""
        return leases.lease(self.folder / "leases", ids)

    def leased(self) -> set[str]:
        """Return ids that runs of other processes need."""
        return leases.leased(self.folder / "leases")

    def stages(self, kind: str = "*") -> Iterator[dict[str, Any]]:
        """Yield the manifests of all finished stages, or of one kind, oldest first; damaged ones are left out."""
        found = []
        for path in self.folder.glob(f"{kind}/*/{MANIFEST}"):
            if path.parts[-3] == "work":
                continue
            try:
                found.append(_read_manifest(path.parent))
            except StoreError:
                continue
        yield from sorted(found, key=lambda manifest: (manifest.get("finished", 0), manifest["id"]))

    def remove(self, kind: str, stage_id: str) -> int:
        """Delete a finished stage; returns the bytes freed. The caller holds its lock."""
        folder = self.path(kind, stage_id)
        freed = tree_size(folder)
        # Without its manifest it is no stage any more, so a kill halfway leaves nothing that looks complete.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        return freed

    def journal(self, event: str, short: str, **facts: Any) -> None:
        """Append one line to the journal; one write, so that several processes do not mix."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, "stage": short, "pid": os.getpid(), **facts})
        with (self.folder / "journal.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def events(self) -> list[dict[str, Any]]:
        """Return the journal's lines, oldest first; a line cut short by a kill is left out."""
        try:
            lines = (self.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def resolve(self, text: str) -> tuple[str, str]:
        """Return (kind, id) of the one finished stage that `text` names: ``train-3f9a``, ``3f9a`` or a path.

        Raises:
            UsageError: none or several match; says which.
        """
        wanted = text.rstrip("/").split("/")[-1]
        kind, _, start = wanted.rpartition("-")
        matches = [
            (path.parts[-3], path.parts[-2])
            for path in self.folder.glob(f"{kind or '*'}/{start[:ID_LENGTH]}*/{MANIFEST}")
            if path.parts[-3] != "work"
        ]
        if len(matches) == 1:
            name, short = matches[0]
            return name, _read_manifest(self.folder / name / short)["id"]
        if not matches:
            raise UsageError(f"no stage '{text}' in {self.folder}; `cuvee list` shows what there is")
        shown = ", ".join(f"{name}-{short}" for name, short in sorted(matches)[:5])
        raise UsageError(f"'{text}' names {len(matches)} stages: {shown}; give more of the id")


def _read_manifest(folder: Path, stage_id: str | None = None) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known = data["id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder / MANIFEST} is damaged ({error}); delete {folder} and run again to make the stage anew"
        ) from None
    if stage_id is not None and known != stage_id:
        raise StoreError(f"{folder} holds stage {known}, not {stage_id}; delete it and run again")
    return data


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder under `folder` to the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            with (Path(root) / name).open("rb") as stream:
                os.fsync(stream.fileno())
        flush_folder(Path(root))


def flush_folder(folder: Path) -> None:
    """Flush a folder's own entries to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tree_size(folder: Path) -> int:
    """Return the bytes of all files under `folder`."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
