"""TrajectoryDistiller: regression on what the teacher's solver makes of noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras.frozen import beside, keep_frozen
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.sampling.rollout import Rollout
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


class FromPairs(TrajectoryDistiller, ABC):
    """The student's samples are made from the noise of pairs, so that losses and extras may compare them."""

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        noise, _ = self.pair(part)
        draws = part.draws.scoped(self.rollout_scope(role))
        return self.sampler.rollout(self.student, draws, condition, noise.dtype, noise)

    def rollout_sampler(self) -> Sampler:
        return self.sampler


class Perceptual(TrajectoryDistiller, ABC):
    """Regressions that may judge decoded pictures.

    Args:
        perceptual: Builds a distance of decoded pictures, e.g. ``{class_path: LPIPS}``; its weights are frozen and
            enter no checkpoint.
    """

    look: PerceptualDistance

    def __init__(self, perceptual: Callable[[], PerceptualDistance] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.perceptual = perceptual

    def build_roles(self) -> None:
        super().build_roles()
        if self.perceptual is not None:
            keep_frozen(self, "look", self.perceptual)

    def looks(self, made: Tensor, x0: Tensor) -> Tensor:
        """Distances (B,) of the pictures that ``made`` and a target ``x0``, both (B, ...), are decoded to."""
        with torch.no_grad():
            target = self.codec.decode(x0).float()
        with torch.autocast(x0.device.type, enabled=False):
            return beside(self.look, x0)(self.codec.decode(made).float(), target)
