"""Files appear whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgen.checkpoints.reading import CheckpointFiles
from fastgen.errors import UserError
from fastgen.storage.files import save_tensors, write_text
from fastgen.storage.writing import folder_written_atomically, remove_leftovers, write_atomically

FORK = multiprocessing.get_context("fork")
TENSOR = torch.arange(100_000.0)

WRITERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint": lambda path: CheckpointFiles().save_checkpoint({"a": TENSOR}, path),
    "safetensors": lambda path: save_tensors(path, {"a": TENSOR}),
    "text": lambda path: write_text(path, "x" * 400_000),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_limit_on_file_sizes_is_a_sentence_and_leaves_the_old_file(kind: str, tmp_path: Path):
    path = tmp_path / "file.ckpt"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError, match=r"file\.ckpt' is larger than a file may be here; .*ulimit -f"):
            WRITERS[kind](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old" and names(tmp_path) == ["file.ckpt"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "because the disk is full"),
        (errno.EDQUOT, "your share"),
        (errno.EROFS, "may only be read"),
        (errno.EACCES, "may not be written"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(number: int, says: str, tmp_path: Path):
    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match=says):
        write_atomically(tmp_path / "file.txt", write)
    with pytest.raises(UserError, match=says), folder_written_atomically(tmp_path / "folder") as folder:
        write(folder / "file.txt")
    assert names(tmp_path) == []


def test_a_file_in_the_way_of_a_folder(tmp_path: Path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="is in the way, because it is a file"):
        write_text(tmp_path / "runs" / "a.txt", "")


def test_other_mistakes_stay_what_they_are(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "a.txt", lambda path: (tmp_path / "missing").read_text())
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/source")
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a.txt", lambda path: (_ for _ in ()).throw(elsewhere).send(None))


def test_a_folder_appears_at_once(tmp_path: Path):
    with folder_written_atomically(tmp_path / "out") as folder:
        (folder / "part").mkdir()
        (folder / "part" / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "part" / "file").read_text() == "x" and names(tmp_path) == ["out"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def writes_for_ever(path: Path, pipe: Any) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        pipe.send(None)
        signal.pause()

    write_atomically(path, write)


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path):
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=writes_for_ever, args=(tmp_path / "file.txt", theirs))
    process.start()
    ours.recv()
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".file.txt-")
    remove_leftovers(tmp_path)
    assert len(names(tmp_path)) == 1
    process.kill()
    process.join()
    (tmp_path / ".hidden").write_text("of the user")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden"]


def test_a_file_is_replaced_and_as_open_as_any_other(tmp_path: Path):
    """Whoever has the old file open, or another name of it, keeps the old one."""
    target, other, plain = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"
    for path in (target, plain):
        path.write_text("old")
    os.link(target, other)
    write_atomically(target, lambda path: path.write_text("new"))
    assert (target.read_text(), other.read_text()) == ("new", "old")
    assert target.stat().st_mode == plain.stat().st_mode

    def broken(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no end")

    with pytest.raises(RuntimeError, match="no end"):
        write_atomically(target, broken)
    assert target.read_text() == "new" and sorted(tmp_path.iterdir()) == [target, other, plain]
