"""TrajectoryDistiller: regression on what the teacher's solver makes of noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.sampling.samplers import JumpSampler, Sampler


class TrajectoryDistiller(Distiller, ABC):
    """The student learns from pairs of noise and what the teacher's solver makes of it; nothing else is trained.

    Pairs lie in files (``fastgen pairs`` writes them, the data module ``Pairs`` reads them); the teacher may then be
    left out. With any other data module the solver makes the pairs inside the step, from its conditions alone.

    Args:
        sampler: How the student generates: one call at ``t_max``; several keep the predicted noise.
    """

    def __init__(self, sampler: Sampler = JumpSampler(), **kwargs: Any) -> None:
        super().__init__(sampler=sampler, **kwargs)

    def pair(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """Standard normal noise and the teacher's x0 for it, both (B, ...); made once."""
        if part.pair is None:
            part.pair = self.make_pair(part)
        return part.pair

    @torch.no_grad()
    def make_pair(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """The pair of the data module, or what the solver makes of drawn noise."""
        if part.noise is not None and part.x0 is not None:
            return part.noise, part.x0
        if self.teacher is None:
            raise UserError(
                f"{type(self).__name__} has neither pairs nor a teacher to make them; give the data module Pairs, or "
                "model.init_args.teacher."
            )
        noise = part.draws.normal("pair", self.teacher.sample_shape, self.noise_dtype())
        return noise, self.solver.solve(self.teacher, noise, part.condition)

    @abstractmethod
    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """The regression."""
