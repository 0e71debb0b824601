"""Many-step sampling of a teacher: probability-flow solvers that work on any process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.configuration.components import Component
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import guided_as_sampled


@dataclass(frozen=True)
class Solver(Component, ABC):
    """A deterministic sampler of the probability flow.

    Args:
        steps: Number of steps from ``t_max`` to data.
        guidance: Classifier-free guidance scale; 1 means none.
    """

    steps: int = 18
    guidance: float = 1.0

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)
        checks.not_negative(self, guidance=self.guidance)

    @abstractmethod
    def evaluations(self, steps: int) -> int:
        """Network calls per sample (a guided call counts as one)."""

    @abstractmethod
    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
        """Move ``x_t`` (B, ...) from times ``t`` (B,) to ``s`` (B,)."""

    def solve(self, denoiser: Denoiser, noise: Tensor, condition: Condition, steps: int | None = None) -> Tensor:
        """Integrate from standard normal ``noise`` (B, ...) to x0 (B, ...)."""
        process = denoiser.process
        times = process.solver_grid(steps or self.steps)
        t = torch.full((len(noise),), times[0], dtype=torch.float64, device=noise.device)
        x = process.solver_start(noise, t)
        for end in [*times[1:], process.t_clean]:
            s = torch.full_like(t, end)
            x = self.step(denoiser, x, t, s, condition)
            t = s
        return x


@dataclass(frozen=True)
class Euler(Solver):
    """First order (Song et al. 2020, 2010.02502): DDIM on VP, Euler on EDM and flows, a rotation on TrigFlow."""

    def evaluations(self, steps: int) -> int:
        return steps

    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
        return denoiser.process.jump(guided_as_sampled(denoiser, x_t, t, condition, self.guidance), s)


@dataclass(frozen=True)
class Heun(Solver):
    """Second order, but first order in a step to the clean end (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

    def evaluations(self, steps: int) -> int:
        return 2 * steps - 1

    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
        process = denoiser.process
        first = guided_as_sampled(denoiser, x_t, t, condition, self.guidance)
        x_s = process.jump(first, s)
        arrived = s <= process.t_clean
        if arrived.all():
            return x_s
        # No network is called at the clean end; those rows ask for another time and are replaced.
        asked = torch.where(arrived, t, s)
        second = guided_as_sampled(denoiser, x_s, asked, condition, self.guidance)
        corrected = process.trapezoid(x_t, t, asked, first, second)
        return torch.where(arrived.reshape(-1, *[1] * (x_s.ndim - 1)), x_s, corrected)
