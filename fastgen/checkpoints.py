"""Reading checkpoints without executing anything, and building a method from one."""

from __future__ import annotations

import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from fastgen.denoisers.adapters import Adapter
from fastgen.errors import UserError
from fastgen.files import resolve
from fastgen.messages import one_sentence

if TYPE_CHECKING:
    from fastgen.methods.base import Distiller


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint file of ``fastgen fit``, memory-mapped on the CPU.

    Raises:
        UserError: If it is missing, cut short, holds pickled objects or was written by something else.
    """
    found = resolve(path)
    if found.is_dir():
        raise UserError(f"'{path}' is a folder; give the checkpoint file in it, e.g. last.ckpt.")
    if not zipfile.is_zipfile(found):
        raise UserError(
            f"'{path}' is cut short or is no checkpoint; use an earlier one from the same folder, or copy it again."
        )
    try:
        checkpoint = torch.load(found, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' holds pickled Python objects, which fastgen never loads; give a checkpoint that "
            "'fastgen fit' wrote."
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"'{path}' cannot be read ({reason}); use an earlier checkpoint.") from error
    if not isinstance(checkpoint, dict) or "fastgen" not in checkpoint:
        raise UserError(f"'{path}' was not written by fastgen; give a checkpoint of 'fastgen fit'.")
    return checkpoint


def method_from_checkpoint(path: str | os.PathLike[str], with_teacher: bool = False) -> Distiller:
    """Rebuild the method that wrote a checkpoint, ready to sample; needs no config.

    Args:
        path: File written by ``fastgen fit``.
        with_teacher: Read the teacher's weights too, so that ``sample(role="teacher")`` works.

    Raises:
        UserError: If the checkpoint is unusable or does not know how its method was built.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from fastgen.methods import Distiller

    checkpoint = read_checkpoint(path)
    saved = checkpoint["fastgen"]
    if saved["recipe"] is None:
        raise UserError(
            f"'{path}' was trained from Python and does not know its configuration; build the method yourself and call "
            "load_state_dict, or train with 'fastgen fit --config'."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Distiller, "model")
    try:
        method: Distiller = parser.instantiate_classes(parser.parse_object({"model": saved["recipe"]})).model
    except (ArgumentError, ValueError, TypeError) as error:
        reason = one_sentence(str(error)).rstrip(".")
        raise UserError(
            f"The configuration inside '{path}' cannot be built ({reason}); import the module that defines its "
            "classes, or use the fastgen version that wrote it."
        ) from error
    with_teacher = with_teacher or method.samples_with_teacher
    shared = isinstance(method.factories["student"], Adapter)  # the student runs the teacher's weights
    method.read_weights = with_teacher or shared
    for name in saved["averages"]:
        method.request_average(name)
    method.configure_model()
    if not (with_teacher or shared):
        method.teacher = None  # its weights were not read
    method.on_load_checkpoint(checkpoint)
    method.load_state_dict(checkpoint["state_dict"])
    return method.eval()
