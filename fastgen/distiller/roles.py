"""Roles: who learns, whose turn it is, and what is found under which name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from torch import nn

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.routed import Routed
from fastgen.distiller.extra import Extra
from fastgen.distiller.state import MethodState
from fastgen.errors import UserError
from fastgen.precision import Averages

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.score_term import ScoreTerm


class Roles(MethodState):
    """Who learns, and when.

    Attributes:
        teacher: The frozen network that is distilled, if there is one.
        student: The network that learns to do the same in fewer calls.
        averages: Moving averages of the student, by the names of the EMA callbacks.
        extras: Further loss terms.
        trained_parameters: What each role trains.
    """

    teacher: Denoiser | None
    student: Denoiser
    averages: Averages
    extras: nn.ModuleList
    trained_parameters: dict[str, list[nn.Parameter]]

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        """The modules that each role trains, in the order of the optimizers."""
        return {"student": [self.student]}

    def all_trained_modules(self) -> dict[str, list[nn.Module]]:
        """``trained_modules`` with what the extras add."""
        modules = {role: list(own) for role, own in self.trained_modules().items()}
        for extra in self.each_extra():
            for role, more in extra.trained_modules().items():
                modules.setdefault(role, []).extend(more)
        return modules

    def roles(self) -> tuple[str, ...]:
        """Names of the trained roles: the student, the method's others, those of the extras."""
        return tuple(self.all_trained_modules())

    def turns(self, iteration: int) -> tuple[str, ...]:
        """Roles of the method to update in this iteration, in order."""
        return ("student",)

    def all_turns(self, iteration: int) -> tuple[str, ...]:
        """``turns`` with the own roles of the active extras."""
        turns = self.turns(iteration)
        for extra in self.active_extras():
            turns = extra.turns(turns, iteration)
        return turns

    @property
    def itself(self) -> Distiller:
        """The whole method, as extras know it."""
        return cast("Distiller", self)

    def each_extra(self) -> list[Extra]:
        """The extras; those that read what others bring come last, wherever they stand in the config."""
        return sorted(cast(list[Extra], list(self.extras)), key=lambda extra: extra.reads_others)

    def active_extras(self) -> list[Extra]:
        """The extras that have started."""
        return [extra for extra in self.each_extra() if self.global_step >= extra.start]

    def score_term(self) -> ScoreTerm | None:
        """The first term that compares a teacher with a critic; ``None`` if there is none."""
        return next((term for extra in self.each_extra() if (term := extra.score_term()) is not None), None)

    def network(self, role: str) -> Denoiser:
        """A network by role.

        ``student``, ``teacher``, ``average`` (the first EMA, or the student if there is none) or an EMA's name; of a
        student that is several networks, ``student/1`` and ``average/1`` are the second alone.
        """
        name, _, number = role.partition("/")
        if number and isinstance(whole := self.network(name), Routed):
            if number.isdecimal() and int(number) < len(whole.networks):
                return whole.part(int(number))
            raise UserError(f"The {name} has the networks {name}/0 to {name}/{len(whole.networks) - 1}, not '{role}'.")
        if role in ("student", "teacher") and getattr(self, role) is not None:
            return getattr(self, role)
        if role == "average":
            return cast(Denoiser, next(iter(self.averages.values()), self.student))
        if role in self.averages:
            return cast(Denoiser, self.averages[role])
        known = ["student", *(["teacher"] if self.teacher is not None else []), "average", *self.averages]
        raise UserError(f"There is no network '{role}' here; choose one of: {', '.join(known)}.")

    def list_trained_parameters(self) -> None:
        """Note what each role trains; once more if the parameters were replaced, e.g. by their shards."""
        self.trained_parameters = {
            role: [p for module in modules for p in module.parameters() if p.requires_grad]
            for role, modules in self.all_trained_modules().items()
        }

    @contextmanager
    def only(self, role: str) -> Iterator[None]:
        """Inside, one role trains: the others are frozen and in eval mode."""
        modules = self.all_trained_modules()
        for name, parameters in self.trained_parameters.items():
            for module in modules[name]:
                module.train(name == role)
            for parameter in parameters:
                parameter.requires_grad_(name == role)
        try:
            yield
        finally:
            for parameters in self.trained_parameters.values():
                for parameter in parameters:
                    parameter.requires_grad_(True)
