"""Networks: how the roles of a method come into being."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

from lightning.pytorch.cli import OptimizerCallable

from fastgen.configuration.building import building
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.distiller.roles import Roles
from fastgen.errors import UserError
from fastgen.precision import Averages, built_to_learn
from fastgen.sampling.samplers import Sampler
from fastgen.sharding import parameters_without_storage

if TYPE_CHECKING:
    pass


class Networks(Roles):
    """Builds teacher, student, the method's other networks, the extras and the averages.

    Attributes:
        codec: Between what people see and what the networks see.
        factories: What builds the network of a role.
        optimizer_factories: What builds the optimizer of a role.
        built_roles: The roles that exist already while the extras are built.
    """

    codec: Codec
    sampler: Sampler
    factories: dict[str, Callable[[], Denoiser] | FromTeacher | None]
    optimizer_factories: dict[str, OptimizerCallable]
    built_roles: list[str]

    def configure_for_sampling(self) -> None:
        """Build what samples need: no critic, no extra, nothing that only training knows."""
        self.build_teacher()
        self.build_student()
        self.build_averages()

    def build_all(self) -> None:
        """Build teacher, student, the method's other roles and the extras."""
        self.build_teacher()
        with built_to_learn():
            self.build_student()
            self.build_roles()
            self.built_roles = list(self.trained_modules())
            for extra in self.each_extra():
                extra.build(self.itself)
                self.built_roles += [role for role in extra.trained_modules() if role not in self.built_roles]
                if taken := set(extra.optimizers()) & set(self.optimizer_factories):
                    raise UserError(f"Two parts of the method bring the role '{min(taken)}'; keep one of these extras.")
                self.optimizer_factories |= extra.optimizers()
        self.build_averages()
        self.list_trained_parameters()

    def build_teacher(self) -> None:
        """The frozen teacher and its codec, all that it takes to sample from it."""
        teacher = cast("Callable[[], Denoiser] | None", self.factories["teacher"])
        self.teacher = self.build(teacher).requires_grad_(False).eval() if teacher else None
        if self.teacher is not None:
            self.codec = self.teacher.make_codec().requires_grad_(False).eval()

    def build_student(self) -> None:
        """The student as it generates, and the codec if it has no teacher."""
        self.student = self.build_role("student")
        if self.teacher is None:
            self.codec = self.student.make_codec().requires_grad_(False).eval()
        self.prepare_student()
        self.sampler.schedule(self.student)  # refuses times that the student's process does not have

    def prepare_student(self) -> None:
        """What a method changes about its student before it learns and before it generates, e.g. a new input."""

    def build_roles(self) -> None:
        """Build what a method owns besides teacher and student, to train it."""

    def build_averages(self) -> None:
        """The copies of the student that EMA callbacks asked for."""
        self.averages = Averages({name: self.average_of_student() for name in self.requested_averages})

    def build(self, factory: Callable[[], Denoiser]) -> Denoiser:
        """Build a network and, unless a checkpoint is about to fill it, read its weights."""
        with (
            building(f"A network of {type(self).__name__}"),
            parameters_without_storage() if self.receives_weights else nullcontext(),
        ):
            network = factory()
        if self.read_weights and not self.receives_weights:
            network.load_weights()
        return network

    def build_role(self, role: str) -> Denoiser:
        """The network of a role."""
        return self.build_from(cast("Callable[[], Denoiser] | FromTeacher", self.factories[role]), role)

    def build_from(self, maker: Callable[[], Denoiser] | FromTeacher, role: str) -> Denoiser:
        """A network that learns, from its factory or from the frozen teacher."""
        if not isinstance(maker, FromTeacher):
            return self.build(maker)
        if (source := getattr(self, maker.source, None)) is None:
            raise UserError(f"There is no {maker.source} to make the {role} from; give model.init_args.{maker.source}.")
        return maker.build(source)

    def average_of_student(self) -> Denoiser:
        """A frozen fp32 copy of the student, to be moved by an EMA callback."""
        return copy.deepcopy(self.student).float().requires_grad_(False).eval()
