"""Sampler: how a student generates, in training and afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.configuration.components import Component
from fastgen.denoisers.base import Denoiser
from fastgen.processes import Prediction
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout


class Sampler(Component, ABC):
    """Makes samples with a few calls of a student, and rollouts: samples that gradients reach.

    Samplers are frozen dataclasses: what they are is their arguments, and all of those are printed with their values.
    They keep no state; all that is random comes from ``draws``.

    Attributes:
        moves: How it gets from one call to the next, in the words of diffusers' schedulers: ``renoise`` adds fresh
            noise to the predicted x0, ``jump`` keeps the predicted noise (DDIM, Euler); ``None`` is neither.
        asks_teacher: Whether samples need the teacher beside the student; it is then given both (``WithTeacher``).
    """

    moves: ClassVar[Literal["renoise", "jump"] | None] = None
    asks_teacher: ClassVar[bool] = False

    @abstractmethod
    def schedule(self, denoiser: Denoiser, steps: int | None = None) -> list[float]:
        """The times of ``steps`` calls (default: as trained), decreasing, in the units of the denoiser's process.

        Raises:
            UserError: If the denoiser cannot be called at the times that it is trained for.
        """

    @abstractmethod
    def trained_steps(self) -> int:
        """Number of calls that the student is trained for."""

    def evaluations(self, steps: int | None = None) -> int:
        """Network calls per sample (NFE) of :meth:`sample`."""
        return steps or self.trained_steps()

    @abstractmethod
    def sample(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Generate x0 (B, ...) with ``steps`` calls (default: as trained)."""

    @abstractmethod
    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """What the student makes of the first ``noise`` (B, ...), which is drawn in ``dtype`` unless it is given.

        The call that made ``x0`` records a graph if gradients are enabled; whether earlier ones do is the sampler's.
        """


def call(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, end: float) -> Prediction:
    """One call of a student; a flow map is told the time ``end`` at which its prediction will be used."""
    s = torch.full_like(t, end) if denoiser.takes_second_time else None
    return denoiser(x_t, t, condition, s)
