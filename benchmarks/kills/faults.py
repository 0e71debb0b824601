"""Faults inside writes: the process dies, or the disk is full."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastgen.checkpoints
import fastgen.files
import fastgen.writing


def kill_in_a_write(number: int, stage: int) -> Callable[[], None]:
    """Sets a trap: in write ``number`` the process is killed, with half of the file there (stage 0), before it gets its
    name (1) or directly afterwards (2).
    """

    def trap(write: Callable[[Path], Any], temporary: Path) -> None:
        write(temporary)
        if stage == 0:
            os.truncate(temporary, temporary.stat().st_size // 2)
        if stage < 2:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: install(number, trap, kill_after=stage == 2)


def full_disk(number: int) -> Callable[[], None]:
    """Sets a trap: write ``number`` finds the disk full when half of the file is there."""

    def trap(write: Callable[[Path], Any], temporary: Path) -> None:
        write(temporary)
        os.truncate(temporary, temporary.stat().st_size // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: install(number, trap)


def install(number: int, trap: Callable[[Callable[[Path], Any], Path], None], kill_after: bool = False) -> None:
    """Have write ``number`` of this process fall into the trap."""
    original = fastgen.writing.write_atomically
    count = -1

    def counted(path: Any, write: Callable[[Path], Any], durable: bool = True) -> Path:
        nonlocal count
        count += 1
        if count != number:
            return original(path, write, durable)
        found = original(path, lambda temporary: trap(write, temporary), durable)
        if kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    for module in (fastgen.writing, fastgen.files, fastgen.checkpoints):
        module.write_atomically = counted  # type: ignore[attr-defined]
