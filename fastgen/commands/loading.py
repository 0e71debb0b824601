"""A method from a checkpoint on the device that the user wants."""

from __future__ import annotations

from collections.abc import Iterable

from fastgen.checkpoints import method_from_checkpoint
from fastgen.errors import UserError
from fastgen.methods import Distiller


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
    method = method_from_checkpoint(path, with_teacher=with_teacher, trust=trust)
    try:
        return method.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} cannot be used ({str(error).splitlines()[0]}).") from error
