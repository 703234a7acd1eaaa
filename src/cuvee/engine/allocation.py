"""What the C library does with freed memory while models are at work.

Every pass frees its activations, and the next asks for as many. By itself glibc gives large pieces back at once, and
the system clears every page again when it is next touched: 2 % of the time of a small training on a quiet CPU, up to
10 % beside other work.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of malloc.h."""

_PIECE = 32 << 20
"""Larger pieces still come from the system one by one; glibc takes no larger threshold."""


def keep_freed() -> None:
    """Let the process keep the memory that tensors free; nothing is done where the C library is not glibc."""
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _PIECE)
        library.mallopt(_TRIM_THRESHOLD, ctypes.c_int(2**31 - 1))


def give_back() -> None:
    """Give what is free to the system, between one piece of work and the next."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
