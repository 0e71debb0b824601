"""What makes a checkpoint trustworthy: the version of its format, and digests of everything that it must hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fastgen.digests import digest_of
from fastgen.errors import UserError

FORMAT = 2
"""Format 2 added digests, the roles, and the hyper-parameters that the optimizers were built with."""
READABLE = (1, 2)

FROZEN = ("teacher.", "codec.")
"""Prefixes of what was not trained and is therefore never saved."""

OWN = "fastgen"
"""The part of a checkpoint that describes the others and holds their digests, and that of itself without them."""

PARTS = {
    "state_dict": "its networks",
    "optimizer_states": "its optimizers' states",
    "lr_schedulers": "its learning-rate schedules' states",
    "callbacks": "its callbacks' states",
    "loops": "its counters of batches",
    "global_step": "its counter of student updates",
}
"""Parts that every training checkpoint has, in words."""


def seal(checkpoint: dict[str, Any]) -> None:
    """Note the digest of every part; the last thing to do before a checkpoint is written."""
    checkpoint[OWN]["digests"] = {part: digest_of_part(checkpoint, part) for part in checkpoint}


def digest_of_part(checkpoint: Mapping[str, Any], part: str) -> str:
    """The digest of a part of a checkpoint."""
    value = checkpoint[part]
    return digest_of({name: entry for name, entry in value.items() if name != "digests"} if part == OWN else value)


def in_words(part: str) -> str:
    """What a part of a checkpoint is to a user."""
    if part == OWN:
        return "its counters and its configuration"
    return PARTS.get(part, f"its position in the data, or another state of '{part}'")


def refuse_other_formats(checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Raise a ``UserError`` for a checkpoint of another program, or of a version that is not known here."""
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get(OWN), Mapping):
        raise UserError(f"'{path}' was not written by fastgen; give a checkpoint of 'fastgen fit'.")
    found = checkpoint[OWN].get("format")
    if found not in READABLE:
        raise UserError(
            f"'{path}' has the format {found}, and this version of fastgen reads {' and '.join(map(str, READABLE))}; "
            "use the version that wrote it."
        )
    missing = [part for part in ("state_dict", "global_step") if part not in checkpoint]
    missing += [f"{OWN}.{part}" for part in ("method", "iteration", "averages") if part not in checkpoint[OWN]]
    if missing:
        raise UserError(f"'{path}' lacks {missing[0]}; use an earlier checkpoint.")
    iteration, averages = checkpoint[OWN]["iteration"], checkpoint[OWN]["averages"]
    if not isinstance(iteration, int) or iteration < 0:
        raise UserError(f"'{path}' has no whole number of iterations; use an earlier checkpoint.")
    if not isinstance(averages, list) or not all(isinstance(name, str) for name in averages):
        raise UserError(f"'{path}' has no list of the names of its averages; use an earlier checkpoint.")
    refuse_contradictions(checkpoint, path)


def refuse_contradictions(checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Raise a ``UserError`` if what a checkpoint says of itself is not what it holds."""
    own, state = checkpoint[OWN], checkpoint["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"'{path}' holds no table of tensors as its networks; use an earlier checkpoint.")
    held = {str(name).split(".")[1] for name in state if str(name).startswith("averages.")}
    if wrong := held ^ set(own["averages"]):
        raise UserError(
            f"'{path}' contradicts itself about the average '{min(wrong)}', which it either names or holds but not "
            "both; use an earlier checkpoint."
        )
    if (recipe := own.get("recipe")) is None:
        return  # trained from Python
    built = recipe.get("class_path") if isinstance(recipe, Mapping) else None
    if not isinstance(built, str) or built.rpartition(".")[2] != str(own["method"]).rpartition(".")[2]:
        raise UserError(
            f"'{path}' holds the weights of {own['method']} but the configuration of {built or 'nothing'}; use an "
            "earlier checkpoint."
        )


def refuse_damaged(
    checkpoint: Mapping[str, Any], path: str | os.PathLike[str], parts: Iterable[str] | None = None
) -> None:
    """Raise a ``UserError`` if parts of a checkpoint are missing or are not what was written.

    Args:
        checkpoint: As read. A file of format 1 has no digests and is believed.
        path: Its name in the sentence.
        parts: What to look at; default everything. Only these are read if the file is mapped into memory.
    """
    if checkpoint[OWN]["format"] < 2:
        return
    digests = checkpoint[OWN].get("digests")
    if not isinstance(digests, Mapping):
        raise UserError(f"'{path}' lacks the digests of its parts; use an earlier checkpoint, or copy it again.")
    wanted = list(digests) if parts is None else [part for part in parts if part in digests]
    for part in wanted:
        if part not in checkpoint:
            raise UserError(f"'{path}' lacks {in_words(part)}; use an earlier checkpoint.")
    for part in wanted:
        if digest_of_part(checkpoint, part) != digests[part]:
            raise UserError(
                f"'{path}' is damaged ({in_words(part)} differ from what was written); use an earlier checkpoint, or "
                "copy it again."
            )


def refuse_incomplete(
    checkpoint: Mapping[str, Any],
    path: str | os.PathLike[str],
    roles: Iterable[str],
    data: str | None,
) -> None:
    """Raise a ``UserError`` that names what a run of these roles and data would miss.

    Args:
        checkpoint: As read.
        path: Its name in the sentence.
        roles: The roles that train, in the order of their optimizers.
        data: Class name of the data module, if it has a position to restore.
    """
    own = checkpoint[OWN]
    for part in PARTS:
        if part not in checkpoint:
            raise UserError(f"'{path}' lacks {in_words(part)}; use an earlier checkpoint.")
    if "fit_loop" not in checkpoint["loops"]:
        raise UserError(f"'{path}' lacks {in_words('loops')}; use an earlier checkpoint.")
    wanted, saved = list(roles), own.get("roles")
    if saved is not None and list(saved) != wanted:
        raise UserError(
            f"'{path}' trained {', '.join(saved)}, and this config trains {', '.join(wanted)}; use the config it was "
            "trained with, or start a new run from its weights with --init_from."
        )
    count = len(checkpoint["optimizer_states"])
    if count != len(wanted):
        named = ", ".join(f"'{role}'" for role in wanted[count:]) or "another role"
        raise UserError(f"'{path}' lacks the optimizer's state of {named}; use an earlier checkpoint.")
    for role, state in zip(wanted, checkpoint["optimizer_states"], strict=True):
        if not isinstance(state, Mapping) or not {"state", "param_groups"} <= state.keys():
            raise UserError(f"'{path}' lacks the optimizer's state of '{role}'; use an earlier checkpoint.")
    scheduled = [role for role, entry in own.get("configured", {}).items() if entry["schedule"] is not None]
    if len(checkpoint["lr_schedulers"]) < len(scheduled):
        named = ", ".join(f"'{role}'" for role in scheduled[len(checkpoint["lr_schedulers"]) :])
        raise UserError(f"'{path}' lacks the learning-rate schedule's state of {named}; use an earlier checkpoint.")
    if gone := [name for name in own.get("callbacks", ()) if name not in checkpoint["callbacks"]]:
        raise UserError(f"'{path}' lacks the state of the callback '{gone[0]}'; use an earlier checkpoint.")
    if data is not None and own.get("data", data) == data and data not in checkpoint:
        raise UserError(f"'{path}' lacks its position in the data ('{data}'); use an earlier checkpoint.")
