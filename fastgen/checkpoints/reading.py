"""Reading checkpoints without executing anything, and building a method from one."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from fastgen.checkpoints.seals import refuse_damaged, refuse_other_formats
from fastgen.denoisers.wrappers.lora import Adapter
from fastgen.errors import UserError
from fastgen.fitting import refuse_diverged
from fastgen.refusals import refuse_special
from fastgen.storage.files import resolve
from fastgen.storage.writing import remove, write_atomically

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


class CheckpointFiles(CheckpointIO):
    """Checkpoints as files that are written in place, whole or not at all, and read without executing anything.

    Lightning's own pass through the memory twice and through the system's folder of temporary files.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: If the disk is full or the place cannot be written to; an older file stays as it was.
        """

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)

        write_atomically(path, write)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See :func:`read_checkpoint`; into memory, because what is loaded goes on being changed."""
        return read_checkpoint(path, mapped=False)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        remove(Path(path))


def refuse_damaged_record(path: Path) -> None:
    """Raise if the record that says what the tensors are is not what was written."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                archive.read(name)  # checks its sum


def read_checkpoint(path: str | os.PathLike[str], mapped: bool = True) -> dict[str, Any]:
    """A checkpoint file of ``fastgen fit`` on the CPU; its tensors are not looked at yet.

    Args:
        path: The file.
        mapped: Leave tensors on the disk until they are used.

    Raises:
        UserError: If it is missing, cut short, holds pickled objects or was written by something else.
    """
    found = resolve(path)
    if found.is_dir():
        raise UserError(f"'{path}' is a folder; give the checkpoint file in it, e.g. last.ckpt.")
    refuse_special(found)
    if not zipfile.is_zipfile(found):
        raise UserError(
            f"'{path}' is cut short or is no checkpoint; use an earlier one from the same folder, or copy it again."
        )
    try:
        refuse_damaged_record(found)
        checkpoint = torch.load(found, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' holds pickled Python objects, which fastgen never loads; give a checkpoint that "
            "'fastgen fit' wrote."
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"'{path}' cannot be read ({reason}); use an earlier checkpoint.") from error
    refuse_other_formats(checkpoint, path)
    return checkpoint


def method_from_checkpoint(
    path: str | os.PathLike[str], with_teacher: bool = False, trust: Iterable[str] = ()
) -> Distiller:
    """Rebuild the method that wrote a checkpoint, ready to sample; needs no config.

    What only training needs (optimizers, critics, extras) is not built. Nothing is run but classes of fastgen and of
    modules that are trusted, however the checkpoint was made.

    Args:
        path: File written by ``fastgen fit``.
        with_teacher: Read the teacher's weights too, so that ``sample(role="teacher")`` works.
        trust: Names of modules whose classes the checkpoint may name, e.g. of a method or a teacher of your own.

    Raises:
        UserError: If the checkpoint is unusable, names classes that are not trusted, or does not know how its method
            was built.
    """
    from fastgen.methods.recipes import generator_from

    checkpoint = read_checkpoint(path)
    saved = checkpoint["fastgen"]
    if saved.get("recipe") is None:
        raise UserError(
            f"'{path}' was trained from Python and does not know its configuration; build the method yourself and call "
            "load_state_dict, or train with 'fastgen fit --config'."
        )
    try:
        method = generator_from(saved["recipe"], trust)
    except UserError as error:
        raise UserError(f"The configuration inside '{path}' cannot be built: {error}") from error
    with_teacher = with_teacher or method.samples_with_teacher or method.sampler.asks_teacher
    shared = isinstance(method.factories["student"], Adapter)  # the student runs the teacher's weights
    method.read_weights = with_teacher or shared
    for name in map(str, saved["averages"]):
        method.request_average(name)
    method.configure_for_sampling()
    if not (with_teacher or shared):
        method.teacher = None  # its weights were not read
    refuse_damaged(checkpoint, path, ["state_dict"])
    refuse_diverged(method, checkpoint["state_dict"], path)
    method.on_load_checkpoint(checkpoint)
    method.load_generator(checkpoint["state_dict"])
    return method.eval()
