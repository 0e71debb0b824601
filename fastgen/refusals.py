"""What the operating system refuses, as one sentence with the mend that fits the cause."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastgen.errors import UserError

PathLike = str | os.PathLike[str]

EVERYWHERE = {
    errno.ENOENT: "does not exist; give the path of an existing {kind}",
    errno.ELOOP: "is a link that leads to itself; replace it by what it should lead to",
    errno.ENAMETOOLONG: "has too long a name; shorten it",
    errno.EMFILE: "cannot be opened, because this process has too many files open; raise the limit (ulimit -n)",
    errno.ENFILE: "cannot be opened, because the machine has too many files open; close some programs",
    errno.EIO: "lies on a disk that does not answer; look after the disk",
    errno.ESTALE: "lies on a network disk that was taken away; mount it again",
}
READING = EVERYWHERE | {
    errno.EACCES: "may not be read; change its permissions or those of the folders above it",
    errno.EPERM: "may not be read; change its permissions or those of the folders above it",
    errno.EISDIR: "is a folder; give a file",
    errno.ENOTDIR: "is not below a folder, as its path says; mend the path",
}
WRITING = EVERYWHERE | {
    errno.ENOENT: "cannot be made there; give another place",
    errno.EACCES: "may not be written; change the permissions of its folder or give another place",
    errno.EPERM: "may not be written; change the permissions of its folder or give another place",
    errno.EROFS: "lies on a disk that may only be read; give another place",
    errno.EISDIR: "is a folder; give the name of a file",
    errno.ENOTDIR: "is not below a folder, as its path says; give another place",
    errno.EEXIST: "is in the way, because it is a file; give another place",
    errno.ENOTEMPTY: "is a folder that holds files; give another place",
    errno.ENOSPC: "does not fit, because the disk is full; free some space or give another place",
    errno.EDQUOT: "does not fit into your share of the disk; free some space or give another place",
    errno.EFBIG: "is larger than a file may be here; raise the limit (ulimit -f) or give another place",
}
"""What follows the quoted path, by the number of the error."""


OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory|std::bad_alloc")
"""What torch says, which has several kinds of exceptions for it."""


def number_of(error: BaseException) -> int | None:
    """The ``errno`` of an error, also of those that safetensors reports in words; ``None`` if it has none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def reason_of(error: BaseException) -> str:
    """The first line of an error's words without an end, or its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0].strip().rstrip(".")[:160] if lines else "") or type(error).__name__


def unreadable(path: PathLike, error: BaseException, kind: str = "file") -> UserError:
    """Why ``path`` cannot be read; ``kind`` is what should lie there."""
    told = READING.get(number_of(error) or 0)
    if told is None:
        return UserError(f"'{path}' cannot be read ({reason_of(error)}); give another {kind}.")
    return UserError(f"'{path}' {told.format(kind=kind)}.")


def unwritable(path: PathLike, error: BaseException) -> UserError:
    """Why ``path`` cannot be written."""
    told = WRITING.get(number_of(error) or 0)
    if told is None:
        return UserError(f"'{path}' cannot be written ({reason_of(error)}); give another place.")
    return UserError(f"'{path}' {told.format(kind='folder')}.")


def refused(error: BaseException) -> UserError | None:
    """An error that nothing closer to its cause has turned into a sentence; ``None`` if it is none of the system's."""
    if isinstance(error, RecursionError):
        return UserError("Something that was given is nested too deeply; write it flatter.")
    if isinstance(error, UnicodeError):
        return UserError(f"Something that was given is no text in UTF-8 ({reason_of(error)}); save it as UTF-8.")
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(reason_of(error)):
        return UserError("There is not enough memory; take smaller batches, fewer samples or a smaller network.")
    if not isinstance(error, OSError):
        return None
    path = error.filename2 or error.filename
    if number_of(error) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EEXIST):
        return unwritable(os.fsdecode(path) if isinstance(path, str | bytes) else "What is written", error)
    if isinstance(path, str | bytes):
        return unreadable(os.fsdecode(path), error)
    return UserError(f"The system refuses something ({reason_of(error)}); mend that and try again.")


@contextmanager
def reading(path: PathLike, kind: str = "file") -> Iterator[None]:
    """Errors of the system inside mean that ``path`` cannot be read."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error, kind) from error
    except ValueError as error:
        if "null byte" in str(error):
            raise UserError(f"{str(path)!r} is no path, because it holds a NUL; mend it.") from error
        raise


def refuse_special(path: PathLike, kind: str = "file") -> None:
    """Raise a :class:`UserError` unless ``path`` is an ordinary file that is there (a pipe would block for ever)."""
    with reading(path, kind):
        mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise UserError(f"'{path}' is a folder; give a {kind}.")
    if not stat.S_ISREG(mode):
        raise UserError(f"'{path}' is no ordinary file; give a {kind}.")


def refuse_unwritable(path: PathLike, folder: bool = False) -> Path:
    """Find out before the work whether ``path`` can be written; nothing is left behind.

    Args:
        path: What will be written.
        folder: Whether it is to be a folder with files in it.

    Raises:
        UserError: If not.
    """
    target = Path(path).expanduser()
    try:
        if target.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if folder and os.path.lexists(target) and not target.is_dir():
            raise UserError(f"'{path}' is a file; give a folder.")
        place = target if folder else target.parent
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is not below a folder")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise unwritable(path, error) from error
    return target
