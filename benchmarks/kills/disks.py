"""A disk of a few kilobytes, to be filled."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mount(*words: str) -> bool:
    """``mount WORDS``; whether that is possible here."""
    try:
        return subprocess.run(["mount", *words], capture_output=True).returncode == 0
    except OSError:
        return False


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Inside, ``folder`` is a tmpfs of ``size`` bytes; yields False where such a mount is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def resize(folder: Path, size: int) -> None:
    """Give the disk at ``folder`` another size."""
    mount("-o", f"remount,size={size}", str(folder))


def can_mount() -> bool:
    """Whether small disks can be had here."""
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder), 1 << 16) as mounted:
        return mounted


def used(folder: Path) -> int:
    """Bytes that the files in ``folder`` take on a disk, each counted once."""
    found = {stat.st_ino: stat.st_blocks * 512 for path in folder.rglob("*") if (stat := path.stat())}
    return sum(found.values())
