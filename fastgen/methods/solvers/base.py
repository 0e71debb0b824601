"""SolverDistiller: a student that is its teacher, called by a solver with a few numbers of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.distiller.base import Distiller
from fastgen.errors import UserError


class SolverDistiller(Distiller, ABC):
    """What methods have in common that learn how to call a network and leave the network alone.

    A checkpoint holds the numbers alone; whoever samples from it needs the teacher's weights.
    """

    samples_with_teacher = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(self.factories["student"], CopyOfTeacher):
            raise UserError(f"{type(self).__name__} trains no network; leave model.init_args.student out.")
        if self.extras:
            raise UserError(f"{type(self).__name__} trains no network; leave model.init_args.extras out.")

    @abstractmethod
    def build_role(self, role: str) -> Denoiser:
        """The teacher beside the numbers of the solver, as it begins."""

    def frozen_teacher(self) -> Denoiser:
        """The teacher."""
        assert self.teacher is not None  # else there is nothing to make the student from
        return self.teacher

    def noise_dtype_of_teacher(self) -> torch.dtype:
        """The dtype of noise: fp32, or fp64 for fp64 networks."""
        parameter = next(self.frozen_teacher().parameters(), torch.empty(()))
        return torch.promote_types(parameter.dtype, torch.float32)
