"""Going on with a run: the state is the checkpoint's, the hyper-parameters are the config's.

An optimizer's parameter groups and a schedule's state mix the two, so a checkpoint says with which hyper-parameters
they were built. What the config still says alike is restored bit by bit. If a learning rate or a schedule has changed,
the config's schedule is built anew and stepped as often as the old one was.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fastgen.errors import UserError

Groups = list[dict[str, Any]]
"""An optimizer's parameter groups without their parameters."""

SCHEDULED = ("lr", "momentum", "betas")
"""What a schedule may move in a parameter group."""


def groups_of(optimizer: Optimizer) -> Groups:
    """The hyper-parameters of an optimizer's groups."""
    return [
        {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def plain(value: Any) -> Any:
    """A hyper-parameter as a checkpoint holds it: numbers, texts, and tuples of them."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return tuple(plain(part) for part in value)
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def name_of(thing: Any) -> str:
    """The class of an object, with its module."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


class Configured:
    """How the config builds the optimizer of a role and its schedule.

    Args:
        optimizer: As built, before the schedule is.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.groups = groups_of(optimizer)
        self.make_schedule: Callable[[Optimizer], Any] | None = None
        self.schedule: dict[str, Any] | None = None

    def with_schedule(self, make: Callable[[Optimizer], Any]) -> Any:
        """Build the schedule."""
        self.make_schedule = make
        schedule = make(self.optimizer)
        self.schedule = {"class": name_of(schedule), "state": copy.deepcopy(schedule.state_dict())}
        return schedule

    def for_checkpoint(self) -> dict[str, Any]:
        """Plain values that say what was built."""
        return {
            "optimizer": name_of(self.optimizer),
            "groups": [{name: plain(value) for name, value in group.items()} for group in self.groups],
            "schedule": self.schedule,
        }

    # ------------------------------------------------------------------ resuming

    def refuse_another_optimizer(self, role: str, saved: Mapping[str, Any]) -> None:
        """Raise a ``UserError`` if the checkpoint's state belongs to another kind of optimizer."""
        own = self.for_checkpoint()
        if saved["optimizer"] != own["optimizer"]:
            old, new = (entry["optimizer"].rsplit(".", 1)[-1] for entry in (saved, own))
            raise UserError(
                f"The checkpoint holds the state of {old} for the {role}, and the config asks for {new}; ask for "
                f"{old}, or start a new run from the weights with --init_from."
            )
        if len(saved["groups"]) != len(own["groups"]):
            raise UserError(
                f"The optimizer of the {role} had {len(saved['groups'])} parameter groups and now has "
                f"{len(own['groups'])}; use the config it was trained with, or --init_from."
            )

    def restore(
        self, schedule: Any, saved: Mapping[str, Any] | None, state: Mapping[str, Any] | None, steps: int
    ) -> Any:
        """Give the restored optimizer the config's hyper-parameters, and restore or replay the schedule.

        Args:
            schedule: As the config built it, or ``None``.
            saved: What :meth:`for_checkpoint` said when the checkpoint was written; ``None`` if it does not know.
            state: The schedule's state in the checkpoint.
            steps: How often a schedule would have been stepped that the checkpoint does not know.

        Returns:
            The schedule, or ``None``.
        """
        own = self.for_checkpoint()
        theirs = own["groups"] if saved is None else saved["groups"]
        anew = saved is None or own["schedule"] != saved["schedule"]
        for group, values, mine, old in zip(
            self.optimizer.param_groups, self.groups, own["groups"], theirs, strict=True
        ):
            names = {name for name in mine if saved is None or mine[name] != old.get(name)}
            if anew:
                names |= {name for name in SCHEDULED if name in mine}
                for name in group.keys() - values.keys() - {"params"}:
                    del group[name]  # a schedule's, e.g. initial_lr
            for name in names:
                assign(group, name, values[name])
        if self.make_schedule is None:
            return None
        if not anew:
            schedule.load_state_dict(copy.deepcopy(state))
            return schedule
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer makes no steps meanwhile
            schedule = self.make_schedule(self.optimizer)
            for _ in range(steps if state is None else state.get("last_epoch", steps)):
                schedule.step()
        return schedule

    def differences(self, role: str, saved: Mapping[str, Any]) -> Iterator[str]:
        """What the config says otherwise, e.g. ``student lr 1e-06 (checkpoint: 0.0001)``."""
        own = self.for_checkpoint()
        for number, (mine, old) in enumerate(zip(own["groups"], saved["groups"], strict=True)):
            place = f"{role} " if len(own["groups"]) == 1 else f"{role} group {number} "
            yield from (
                difference(place + name, mine[name], old.get(name)) for name in mine if mine[name] != old.get(name)
            )
        new, old = own["schedule"], saved["schedule"]
        if new is None or old is None or new["class"] != old["class"]:
            if new != old:
                names = ["none" if entry is None else entry["class"].rsplit(".", 1)[-1] for entry in (new, old)]
                yield difference(f"{role} lr_scheduler", *names)
            return
        mine, theirs = flat(new["state"]), flat(old["state"])
        for name in sorted(mine.keys() | theirs.keys()):
            public = [
                part.removeprefix("_") if part in ("_schedulers", "_milestones") else part for part in name.split(".")
            ]
            follows = any(part.startswith("_") or part in ("base_lrs", "last_epoch") for part in public)
            if not follows and mine.get(name) != theirs.get(name):
                yield difference(f"{role} lr_scheduler {'.'.join(public)}", mine.get(name), theirs.get(name))


PER_WEIGHT = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")
"""Names under which torch's optimizers keep a number for every weight."""


def refuse_shapes(optimizer: Optimizer) -> None:
    """Look at a restored state.

    Raises:
        ValueError: If a number for every weight is none.
    """
    for parameter, state in optimizer.state.items():
        for name in PER_WEIGHT:
            if isinstance(kept := state.get(name), Tensor) and kept.shape != parameter.shape:
                raise ValueError(f"'{name}' of weights {tuple(parameter.shape)} has shape {tuple(kept.shape)}")


def assign(group: dict[str, Any], name: str, value: Any) -> None:
    """Set a hyper-parameter; one that is a tensor stays the tensor that the optimizer knows."""
    if isinstance(group.get(name), Tensor):
        group[name].fill_(float(value))
    else:
        group[name] = value


def difference(what: str, new: Any, old: Any) -> str:
    """``WHAT NEW (checkpoint: OLD)``."""
    return f"{what} {in_words(new)} (checkpoint: {in_words(old)})"


def in_words(value: Any) -> str:
    """A value as in a config."""
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted names."""
    if not isinstance(value, Mapping | list):
        return {place: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    found: dict[str, Any] = {}
    for name, part in items:
        found |= flat(part, f"{place}.{name}" if place else str(name))
    return found


def differences(new: Any, old: Any, place: str) -> Iterator[str]:
    """Where two configurations differ, optimizers and schedules left out.

    A part of another class is one difference, whatever its arguments.
    """
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        if new.get("class_path") != old.get("class_path"):
            yield difference(place, new.get("class_path"), old.get("class_path"))
            return
        for name in {**old, **new}:
            if not name.endswith(("optimizer", "lr_scheduler")):
                inner = place if name == "init_args" else f"{place}.{name}"
                yield from differences(new.get(name), old.get(name), inner)
    elif isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        for number, parts in enumerate(zip(new, old, strict=True)):
            yield from differences(*parts, f"{place}.{number}")
    elif new != old:
        yield difference(place, new, old)
