"""The writes of a process, numbered: noted down, or ended by a fault."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastgen.storage.writing

Write = Callable[[Path], Any]
Fault = Callable[[], None]
"""Sets a trap in the process that calls it."""


def replace(make: Callable[[Callable[..., Path]], Callable[..., Path]]) -> None:
    """Have all of fastgen write files by ``make(write_atomically)``."""
    original = fastgen.storage.writing.write_atomically
    changed = make(original)
    for module in list(sys.modules.values()):
        if getattr(module, "write_atomically", None) is original:
            module.write_atomically = changed  # type: ignore[attr-defined]


def at(number: int, what: Callable[[Callable[..., Path], Any, Write, bool], Path]) -> None:
    """Have ``what(write_atomically, path, write, durable)`` in place of write ``number`` of this process."""

    def make(original: Callable[..., Path]) -> Callable[..., Path]:
        count = -1

        def counted(path: Any, write: Write, durable: bool = True) -> Path:
            nonlocal count
            count += 1
            return what(original, path, write, durable) if count == number else original(path, write, durable)

        return counted

    replace(make)


def noted_in(record: Path) -> Fault:
    """Note of every write the CPU time of the process when it began and the size of the file, a line of JSON each."""

    def make(original: Callable[..., Path]) -> Callable[..., Path]:
        def noted(path: Any, write: Write, durable: bool = True) -> Path:
            began = time.process_time()
            found = original(path, write, durable)
            with record.open("a") as file:
                file.write(json.dumps({"cpu": began, "name": found.name, "bytes": found.stat().st_size}) + "\n")
            return found

        return noted

    return lambda: replace(make)


def killed_after_write(number: int, cpu_seconds: float) -> Fault:
    """The process dies when it has computed for so long after a write, however busy the machine is.

    The timer's signal is not SIGKILL, but nothing catches it either: the system ends the process at once.
    """

    def what(original: Callable[..., Path], path: Any, write: Write, durable: bool) -> Path:
        found = original(path, write, durable)
        signal.setitimer(signal.ITIMER_PROF, max(cpu_seconds, 1e-6))
        return found

    return lambda: at(number, what)


def killed_in_write(number: int, stage: int) -> Fault:
    """SIGKILL in a write: with half of the file there (stage 0), before it gets its name (1), right after that (2)."""

    def what(original: Callable[..., Path], path: Any, write: Write, durable: bool) -> Path:
        def half(temporary: Path) -> None:
            write(temporary)
            if stage == 0 and temporary.stat().st_nlink == 1:  # another name of a file is never half there
                os.truncate(temporary, temporary.stat().st_size // 2)
            if stage < 2:
                os.kill(os.getpid(), signal.SIGKILL)

        found = original(path, half, durable)
        os.kill(os.getpid(), signal.SIGKILL)
        return found

    return lambda: at(number, what)


def full_disk(number: int) -> Fault:
    """Write ``number`` finds the disk full when half of the file is there."""

    def what(original: Callable[..., Path], path: Any, write: Write, durable: bool) -> Path:
        def half(temporary: Path) -> None:
            write(temporary)
            os.truncate(temporary, temporary.stat().st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return original(path, half, durable)

    return lambda: at(number, what)


def limited_from(number: int, size: int) -> Fault:
    """From write ``number`` on no file may be larger than ``size`` bytes (``ulimit -f``)."""

    def what(original: Callable[..., Path], path: Any, write: Write, durable: bool) -> Path:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return original(path, write, durable)

    return lambda: at(number, what)
