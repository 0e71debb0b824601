"""Solver: many-step sampling of a teacher, on any process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.configuration.components import Component
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import guided
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws


@dataclass(frozen=True)
class Solver(Component, ABC):
    """A sampler of the probability flow, or of a process with the same marginals.

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

    def solve(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        condition: Condition,
        steps: int | None = None,
        draws: Draws | None = None,
    ) -> Tensor:
        """Integrate from standard normal ``noise`` (B, ...) to x0 (B, ...).

        Args:
            denoiser: The network.
            noise: Where it begins.
            condition: What is asked for.
            steps: Number of steps; default as configured.
            draws: Random numbers of the samples, for solvers that add noise on the way.
        """
        x, times = self.begin(denoiser.process, noise, steps)
        *_, last = self.path(denoiser, x, times, condition, draws)
        return last

    def path(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Sequence[Tensor],
        condition: Condition,
        draws: Draws | None = None,
    ) -> Iterator[Tensor]:
        """The states (B, ...) after each step from ``x`` (B, ...), which is at the first of some times, each (B,)."""
        for t, s in pairwise(times):
            x = self.step(denoiser, x, t, s, condition)
            yield x

    def begin(self, process: Process, noise: Tensor, steps: int | None) -> tuple[Tensor, list[Tensor]]:
        """The first state (B, ...), and the times (B,) from there to data: one more than steps."""
        grid = [*process.solver_grid(steps or self.steps), process.t_clean]
        times = [torch.full((len(noise),), time, dtype=torch.float64, device=noise.device) for time in grid]
        return process.solver_start(noise, times[0]), times

    def predict(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """One guided call, by the family's own rule."""
        return guided(denoiser, x_t, t, condition, self.guidance)
