"""TrajectoryDistiller: regression on what the teacher's solver makes of noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
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

    @abstractmethod
    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """The regression."""
