"""Grids that grow: how many noise levels a grid has after so many updates, and neighbours on it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.jumps import JumpLaw, JumpTimes
from fastgen.times.levels import time_of_level


class Curriculum(Component, ABC):
    """How many levels a grid has. It depends on the student updates alone, which every checkpoint knows."""

    @abstractmethod
    def levels(self, update: int) -> int:
        """N, at least 2, after ``update`` student updates."""


@dataclass(frozen=True)
class SquareRootLevels(Curriculum):
    """``N(k) = ceil(sqrt(k / K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1`` (Song et al. 2023, arXiv 2303.01469, appendix C).

    Args:
        first: s0, the number at first.
        last: s1; the grid ends with one level more.
        updates: K, student updates until then: 800000 on ImageNet 64.
    """

    first: int = 2
    last: int = 200
    updates: int = 800000

    def __post_init__(self) -> None:
        checks.whole(self, 2, first=self.first, last=self.last)
        checks.whole(self, updates=self.updates)
        checks.ascending(self, first=self.first, last=self.last)

    def levels(self, update: int) -> int:
        share = min(update / self.updates, 1.0)
        root = math.sqrt(share * ((self.last + 1) ** 2 - self.first**2) + self.first**2)
        return max(math.ceil(root - 1.0), 1) + 1


@dataclass(frozen=True)
class DoublingLevels(Curriculum):
    """``N(k) = min(s0 2^floor(k / K'), s1) + 1`` with K' updates a doubling.

    Song & Dhariwal 2023, iCT, arXiv 2310.14189, section 3.4: ``K' = floor(K / (log2 floor(s1 / s0) + 1))``.

    Args:
        first: s0, the number at first, less one.
        last: s1, the largest, less one.
        updates: K, all student updates: 400000 on CIFAR-10.
    """

    first: int = 10
    last: int = 1280
    updates: int = 400000

    def __post_init__(self) -> None:
        checks.whole(self, first=self.first, last=self.last, updates=self.updates)
        checks.ascending(self, first=self.first, last=self.last)

    @property
    def stage_updates(self) -> int:
        """K'."""
        return max(math.floor(self.updates / (math.log2(self.last // self.first) + 1.0)), 1)

    def levels(self, update: int) -> int:
        doublings = min(update // self.stage_updates, self.last.bit_length())
        return min(self.first * 2**doublings, self.last) + 1


@dataclass(frozen=True)
class GrowingGrid(JumpLaw):
    """Neighbours on a rho grid of more and more noise levels, jumping to its lowest (Song et al. 2023, 2303.01469).

    The lowest level is where a consistency model is the identity: ``s`` there, and ``r`` too for the cleanest pair.

    Args:
        curriculum: How many levels.
        sigma_min: Lowest noise level (sigma / alpha).
        sigma_max: Highest noise level, at most that of ``t_max``; processes that begin at pure noise want a large one.
        rho: Exponent of the grid.
    """

    curriculum: Curriculum = SquareRootLevels()
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        checks.positive(self, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)
        checks.strictly_ascending(self, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def index(self, draws: Draws, levels: Tensor) -> Tensor:
        """Which neighbours of the ascending ``levels`` (N,): the index of ``r``, from 0 to N - 2, (B,)."""
        return draws.integers("time", len(levels) - 1)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        positions = torch.linspace(low, high, self.curriculum.levels(update), dtype=torch.float64, device=draws.device)
        levels = positions.pow(self.rho)
        grid, index = time_of_level(process, levels), self.index(draws, levels)
        return JumpTimes(grid[index + 1], grid[0].expand(len(draws)), grid[index])


@dataclass(frozen=True)
class LogNormalGrid(GrowingGrid):
    """The same with neighbours as often as a log-normal law falls between them (iCT, arXiv 2310.14189, section 3.5).

    ``p(i) ~ erf((log sigma_{i+1} - mean) / (sqrt 2 std)) - erf((log sigma_i - mean) / (sqrt 2 std))``

    Args:
        mean: Mean of the log noise level.
        std: Standard deviation of the log noise level.
    """

    curriculum: Curriculum = DoublingLevels()
    mean: float = -1.1
    std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.finite(self, mean=self.mean)
        checks.positive(self, std=self.std)

    def index(self, draws: Draws, levels: Tensor) -> Tensor:
        below = torch.erf((levels.log() - self.mean) / (math.sqrt(2.0) * self.std))
        share = (below - below[0]) / (below[-1] - below[0])
        return (torch.searchsorted(share, draws.uniform("time"), right=True) - 1).clamp(0, len(levels) - 2)
