"""How the network of a role is made from the frozen teacher, without a description of its own."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from fastgen.configuration.components import Component
from fastgen.denoisers.base import Denoiser
from fastgen.precision import at_least_float32


class FromTeacher(Component, ABC):
    """What makes the network of a role from the frozen teacher; give one instead of a network.

    Attributes:
        source: The role that it is made from.
    """

    source: ClassVar[str] = "teacher"

    @abstractmethod
    def build(self, teacher: Denoiser) -> Denoiser:
        """The role's network, which learns. The teacher is not changed."""


@dataclass(frozen=True)
class CopyOfTeacher(FromTeacher):
    """A copy of the teacher with all its weights, in fp32 or higher."""

    def build(self, teacher: Denoiser) -> Denoiser:
        return at_least_float32(copy.deepcopy(teacher)).requires_grad_(True).train()


@dataclass(frozen=True)
class CopyOfStudent(CopyOfTeacher):
    """A copy of the student as it begins, for the critic of a student that is smaller than its teacher."""

    source: ClassVar[str] = "student"
