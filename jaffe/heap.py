"""Memory that is freed stays with the process, so that the next step need not fetch it from the kernel anew; what
compiling took is given back.

XLA on the CPU takes the temporary memory of a program from ``malloc`` at every call. glibc hands blocks beyond 32 MiB
back to the kernel when they are freed; the next call gets them page by page, zeroed, at a price that is often above
that of the computing itself (``benchmarks/operations.py``). With huge pages
(``GLIBC_TUNABLES=glibc.malloc.hugetlb=1``) most of it is saved too, but that cannot be set from inside a process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import cast

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # malloc.h
_SETTINGS = (
    "GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX",
)


def keep() -> bool:
    """Have glibc's ``malloc`` keep what is freed. Memory in use then stays at its peak; results do not change.

    It works for threads that have not allocated yet, so it comes before JAX's first computation. A user's own setting
    of glibc's ``malloc`` (``GLIBC_TUNABLES``, ``MALLOC_..._``) is left alone, and so is another C library.

    Returns:
        Whether it was done.
    """
    if any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    # One arena for all threads: the others hold at most 64 MiB and map larger blocks whatever they are told.
    return bool(mallopt(_ARENA_MAX, 1) and mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def give_back() -> None:
    """Hand what is free back to the kernel, once: after compiling, which takes much more memory than it leaves in use.

    Steps would not use that again: their temporary memory is one block, and what is free is many small ones.
    """
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """One of glibc's own, or ``None`` with another C library."""
    try:
        return cast("Callable[..., int]", getattr(ctypes.CDLL(None), name))
    except (AttributeError, OSError, TypeError):
        return None
