"""Memory of a training on a CPU: what an update frees, the next one needs again; and pages are large."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

# Options of glibc's mallopt (malloc.h); NEVER is a threshold.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, NEVER = -1, -2, -3, -1
LARGEST = 32 << 20
"""Bytes from which a tensor has pages of its own anyway: glibc takes no larger threshold."""
AHEAD, USUAL_AHEAD = (2 << 30) - 1, 128 << 10
"""Bytes by which the heap grows: once, to have large pages there, and else. They cost nothing until they are used."""


def glibc() -> Any | None:
    """The running C library, if its ``malloc`` can be told how to work."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        return None
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.malloc.argtypes = library.malloc_trim.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.sbrk.argtypes = [ctypes.c_ssize_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def keep_freed_memory() -> None:
    """Have the process keep what it frees, on large pages, until :func:`give_back_freed_memory`.

    The graph of an update is freed as a whole. By default glibc gives such memory back to the system, which then clears
    every page anew for the next update: up to 8 % of a student update of DMD2 on a small U-Net. On pages of 2 MB
    instead of 4 kB, if the system has them, it takes another 3 to 5 % less, for addresses are found faster. The peak
    stays what it is. Other C libraries are left as they are.
    """
    if (library := glibc()) is None:
        return
    library.mallopt(TRIM_THRESHOLD, NEVER)
    library.mallopt(MMAP_THRESHOLD, LARGEST)
    library.mallopt(TOP_PAD, AHEAD)
    end = library.sbrk(0)
    pieces: list[int | None] = []
    while library.sbrk(0) == end and len(pieces) < AHEAD // LARGEST:  # what is free already comes first
        pieces.append(library.malloc(LARGEST - mmap.PAGESIZE))
    if (grown := library.sbrk(0)) > end and (last := pieces[-1]):
        begin = -(-last // mmap.PAGESIZE) * mmap.PAGESIZE
        library.madvise(begin, grown - begin, mmap.MADV_HUGEPAGE)  # advice, which may be refused
    for piece in pieces:
        library.free(piece)
    library.mallopt(TOP_PAD, USUAL_AHEAD)


def give_back_freed_memory() -> None:
    """Give the system what is free now, and later what is free in large pieces, as glibc does by itself."""
    if (library := glibc()) is not None:
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
        library.malloc_trim(0)
