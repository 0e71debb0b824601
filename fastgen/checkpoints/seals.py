"""What makes a checkpoint trustworthy: the version of its format, and digests of everything that it must hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fastgen.checkpoints.restoring import Forms, is_count, is_counts, is_names, is_table, is_tables, refuse_misshapen
from fastgen.errors import UserError
from fastgen.storage.digests import digest_of

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
    "epoch": "its counter of epochs",
}
"""Parts that every training checkpoint has, in words."""


LIGHTNING = "pytorch-lightning_version"
"""Lightning looks at its own version before anything else."""


def is_configured(value: Any) -> bool:
    """How the optimizer and the schedule of every role were built."""
    return is_tables(value) and all({"optimizer", "groups", "schedule"} <= entry.keys() for entry in value.values())


NEEDED = ("method", "iteration", "averages", "bad_steps_total")
"""What every checkpoint says of itself."""

OWN_FORMS: Forms = {
    "iteration": (is_count, "whole number of iterations"),
    "averages": (is_names, "list of the names of its averages"),
    "bad_steps_total": (is_count, "number of updates that were skipped"),
    "updates": (is_counts, "numbers of updates by role"),
    "roles": (is_names, "list of the names of its roles"),
    "callbacks": (is_names, "list of the names of its callbacks"),
    "configured": (is_configured, "table of how its optimizers were built"),
    "settings": (lambda value: value is None or is_table(value), "table of its settings"),
}
FORMS: Forms = {
    "global_step": (is_count, "whole number of student updates"),
    "epoch": (is_count, "whole number of epochs"),
    "loops": (is_tables, "counters of batches"),
    "callbacks": (is_table, "table of its callbacks' states"),
    "optimizer_states": (lambda value: isinstance(value, list), "list of its optimizers' states"),
    "lr_schedulers": (lambda value: isinstance(value, list), "list of its schedules' states"),
    LIGHTNING: (lambda value: isinstance(value, str), "version of Lightning that wrote it"),
}


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
    missing = [part for part in ("state_dict", "global_step", LIGHTNING) if part not in checkpoint]
    missing += [f"{OWN}.{part}" for part in NEEDED if part not in checkpoint[OWN]]
    if missing:
        raise UserError(f"'{path}' lacks {missing[0]}; use an earlier checkpoint.")
    refuse_misshapen(checkpoint[OWN], OWN_FORMS, path)
    refuse_misshapen(checkpoint, FORMS, path)
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
