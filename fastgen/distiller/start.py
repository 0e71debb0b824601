"""Starting a new run from the weights of a checkpoint."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen.checkpoints.seals import FROZEN, refuse_damaged
from fastgen.errors import UserError
from fastgen.fitting import misfits, refuse_diverged
from fastgen.sharding import local, sharded_like

if TYPE_CHECKING:
    from fastgen.distiller.state import MethodState

NETWORKS = ("student", "averages", "extras")
"""Besides the trained roles, what holds networks in a method; its other state counts, and a new run counts from 0."""


def part_of(name: str) -> str:
    """The network to which a tensor of a state dict belongs: ``student``, ``critic``, ``averages.ema``, ..."""
    words = name.split(".")
    return ".".join(words[:2]) if words[0] in ("averages", "extras") else words[0]


def by_part(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A state dict without frozen networks, network by network."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if not name.startswith(FROZEN):
            parts.setdefault(part_of(name), {})[name] = value
    return parts


@torch.no_grad()
def start_from(method: MethodState, path: str) -> None:
    """Give the networks of a new run the weights of a checkpoint; counters, optimizers and data begin anew.

    An average that the checkpoint lacks begins as the student. What else is missing on either side is said.

    Raises:
        UserError: If the student does not fit, or the run had diverged.
    """
    from fastgen.checkpoints.reading import read_checkpoint

    checkpoint = read_checkpoint(path)
    refuse_damaged(checkpoint, path, ["state_dict"])
    refuse_diverged(method, checkpoint["state_dict"], path)
    own, given = by_part(method.state_dict()), by_part(checkpoint["state_dict"])
    own = {part: tensors for part, tensors in own.items() if part.split(".")[0] in (*NETWORKS, *method.roles())}
    said: list[str] = []
    for part, tensors in own.items():
        source = given.pop(part, {})
        if not source and part.startswith("averages."):
            source = {f"{part}.{name}": value for name, value in given_student(checkpoint["state_dict"]).items()}
        if not source and part != "student":
            said.append(f"it has no {part}, which begins as in any new run")
        elif wrong := misfits(tensors, source):
            if part == "student":
                raise UserError(
                    f"--init_from '{path}': its student does not fit this one, first in '{wrong[0]}'; use the network "
                    "that it was trained with."
                )
            said.append(f"its {part} does not fit this one, which begins as in any new run")
        else:
            for name, value in tensors.items():
                local(value).copy_(local(sharded_like(source[name], value)))
    expected = ("averages.", "extras.", "target_weights")
    unused = [part for part, tensors in given.items() if not part.startswith(expected) and is_network(tensors)]
    if unused:
        said.append(f"its {', '.join(unused)} has no place in this run")
    if method.trainer.is_global_zero:
        print(f"fastgen: starts from the weights of '{path}'" + "".join(f"; {line}" for line in said), file=sys.stderr)


def given_student(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's student by their names in the network."""
    return {name.removeprefix("student."): value for name, value in state.items() if name.startswith("student.")}


def is_network(tensors: dict[str, Tensor]) -> bool:
    """Whether a part has tensors below a name of its own; a counter has none."""
    return any("." in name for name in tensors)
