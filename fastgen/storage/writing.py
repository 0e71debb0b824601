"""Writing files and folders whole or not at all.

A result grows under a hidden name beside its target, reaches the disk and is then renamed, so that a reader, or whoever
comes after a crash, sees the old file or the new one. A kill leaves the hidden name behind; the next write into that
folder removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastgen.errors import UserError
from fastgen.refusals import WRITING, number_of, unwritable

try:
    import fcntl
except ImportError:  # Windows, where leftovers stay
    fcntl = None  # type: ignore[assignment]

MARK = ".unfinished"
"""Ends the names of what is being written, or was when a process was killed."""


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, what the system refuses about ``path`` is a ``UserError``; other mistakes stay what they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # torch speaks of the state in which the failed write left it
        cause = error.__context__ if isinstance(error, RuntimeError) and error.__context__ is not None else error
        place = getattr(cause, "filename", None)
        elsewhere = place is not None and not Path(os.fsdecode(place)).is_relative_to(Path(path).parent)
        if elsewhere or isinstance(cause, FileNotFoundError) or number_of(cause) not in WRITING:
            raise
        raise unwritable(path, cause) from error


def lock(handle: int, wait: bool = True) -> bool:
    """Hold an open file or folder for as long as it is open; whether it could be had."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process holds it, or the file system knows no locks
        return False
    return True


def remove(path: Path) -> None:
    """Delete a file, a folder or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half written in ``folder``; what a living one writes stays."""
    for path in folder.glob(f".*{MARK}*"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if lock(handle, wait=False):
                    remove(path)
            finally:
                os.close(handle)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(handle)


@contextmanager
def unfinished(target: Path, folder: bool = False) -> Iterator[Path]:
    """A hidden name beside ``target``, locked while it is written and gone afterwards."""
    prefix, suffix = f".{target.name}-", MARK + target.suffix  # some writers choose the format by the suffix
    handle: int | None = None
    path: Path | None = None
    try:
        while handle is None:
            if folder:
                path = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=suffix))
                handle = os.open(path, os.O_RDONLY)
            else:
                handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=suffix)
                path = Path(name)
            lock(handle)
            if not path.exists():  # taken for a leftover before it was locked
                os.close(handle)
                handle = None
        assert path is not None
        yield path
    finally:
        if path is not None:
            remove(path)
        if handle is not None:
            os.close(handle)


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], Any], durable: bool = True) -> Path:
    """Call ``write(temporary)`` and rename the result to ``path``, so that nobody ever sees half a file.

    Args:
        path: The file. Its folder is made if need be.
        write: Writes the file that it is given.
        durable: Wait until the file is on the disk; of no use for what is quickly made again, e.g. pictures.

    Raises:
        UserError: If the disk is full or the place cannot be written to; an older file stays as it was.
    """
    target = Path(path)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(target) as temporary:
            write(temporary)
            temporary.chmod(ordinary_mode(0o666))  # temporary files are private
            if durable:
                sync(temporary)
            os.replace(temporary, target)
        if durable:
            sync(target.parent)
    return target


@contextmanager
def folder_written_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Inside, fill the folder that is given; it becomes ``path``, which is new or an empty folder, at the end.

    Raises:
        UserError: As :func:`write_atomically`.
    """
    target = Path(path)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        with unfinished(target, folder=True) as temporary:
            yield temporary
            temporary.chmod(ordinary_mode(0o777))
            for file in (*(p for p in temporary.rglob("*") if not p.is_symlink()), temporary):
                sync(file)
            os.replace(temporary, target)
        sync(target.parent)


def give_name(source: Path, target: Path) -> None:
    """Give a finished file another name: a hard link where the disk has them, else a copy."""
    write_atomically(target, lambda temporary: link(source, temporary))


def link(source: Path, target: Path) -> None:
    """Make ``target``, which may exist, another name of a file, or a copy of it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def ordinary_mode(mode: int) -> int:
    """The permissions that an ordinary new file has."""
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask
