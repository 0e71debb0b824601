"""A method from a checkpoint on the device that the user wants."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.cli.commands.parser import shortened
from fastgen.errors import UserError
from fastgen.methods import Distiller
from fastgen.refusals import reason_of


def check_device(name: str) -> None:
    """Raise a :class:`UserError` unless networks can run on a device of this name here."""
    try:
        if torch.device(name).type == "meta":
            raise UserError("--device meta holds no numbers; give cpu or cuda.")
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(f"--device {shortened(name)} cannot be used ({reason_of(error)}); give cpu or cuda.") from error


def method_on(path: str, device: str, with_teacher: bool, trust: Iterable[str] = ()) -> Distiller:
    """Read a checkpoint and bring its method to a device, ready to sample.

    Args:
        path: File written by ``fastgen fit``.
        device: As torch names it.
        with_teacher: Read the teacher's weights too.
        trust: Modules whose classes the checkpoint may name, beside those of fastgen.

    Raises:
        UserError: If the checkpoint or the device is unusable.
    """
    check_device(device)
    return method_from_checkpoint(path, with_teacher=with_teacher, trust=trust).to(device)
