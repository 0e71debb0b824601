"""Laws of truncated training: noise levels above a boundary, and a share of the samples on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.levels import TimeLaw, time_of_level

POINTS = 4097
"""Of the table of a distribution; its integrand is smooth, so the error is far below that of fp32 times."""


@dataclass(frozen=True)
class TruncatedLevel(TimeLaw):
    """log(sigma / alpha) of Student's t law, cut to an interval (TCM, Lee et al. 2024, arXiv 2410.14895, and its code).

    With ``x = mean + scale sqrt(freedom) sinh y`` the density is ``cosh(y)^-freedom`` in y. The paper's 0.01 degrees of
    freedom make that almost even from the lowest level up: in the logarithm of the logarithm.

    Args:
        mean: Centre of the log noise level.
        scale: Its scale.
        freedom: Degrees of freedom: the tails fall like ``|x|^-(freedom + 1)``.
        low: Lowest noise level.
        high: Highest noise level.
    """

    mean: float = 0.0
    scale: float = 0.2
    freedom: float = 0.01
    low: float = 1.0
    high: float = 80.0

    def __post_init__(self) -> None:
        checks.finite(self, mean=self.mean)
        checks.positive(self, scale=self.scale, freedom=self.freedom, low=self.low, high=self.high)
        checks.strictly_ascending(self, low=self.low, high=self.high)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        width = self.scale * math.sqrt(self.freedom)
        first, last = (math.asinh((math.log(level) - self.mean) / width) for level in (self.low, self.high))
        y = torch.linspace(first, last, POINTS, dtype=torch.float64, device=draws.device)
        mass = torch.cumulative_trapezoid(y.cosh().pow(-self.freedom), y)
        share = torch.cat([mass.new_zeros(1), mass / mass[-1]])
        u = draws.uniform("time")
        above = torch.searchsorted(share, u, right=True).clamp(1, POINTS - 1)
        rest = (u - share[above - 1]) / (share[above] - share[above - 1])
        drawn = y[above - 1] + rest * (y[above] - y[above - 1])
        return time_of_level(process, torch.exp(self.mean + width * drawn.sinh()))


@dataclass(frozen=True)
class BoundaryLevel(TimeLaw):
    """A law above a noise level, with a share of the samples just above it (TCM, arXiv 2410.14895).

    Args:
        law: The law; what it draws below the boundary lies on it.
        level: The boundary sigma / alpha.
        share: Probability of a boundary sample.
    """

    law: TimeLaw = TruncatedLevel()
    level: float = 1.0
    share: float = 0.25

    def __post_init__(self) -> None:
        checks.positive(self, level=self.level)
        checks.between(self, 0.0, 1.0, "()", share=self.share)

    def on_boundary(self, level: Tensor) -> Tensor:
        """Which noise levels (B,) are those of boundary samples."""
        return level <= self.level * (1.0 + 1e-6)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        drawn = self.law.sample(draws, process)
        edge = time_of_level(process, torch.full_like(drawn, self.level * (1.0 + 1e-8)))
        drawn = torch.maximum(drawn, edge)
        return torch.where(draws.uniform("boundary") < self.share, edge, drawn)
