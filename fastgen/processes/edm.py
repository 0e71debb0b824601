"""EDM: noise is added, the time is its level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes.base import Process


@dataclass(frozen=True)
class EDM(Process):
    """x_t = x0 + t noise (Karras et al. 2022, arXiv 2206.00364).

    Args:
        sigma_min: Lowest noise level of sampling grids.
        sigma_max: Highest noise level.
        rho: Exponent of the sampling grid, eq. 5.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        checks.positive(self, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)
        checks.strictly_ascending(self, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    @property
    def t_max(self) -> float:
        return self.sigma_max

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def time(self, ratio: Tensor) -> Tensor:
        return ratio

    def position(self, u: Tensor) -> Tensor:
        """Noise level at the fraction ``u`` of the rho grid; 0 is ``sigma_min``, 1 is ``sigma_max``."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + u * (high - low)) ** self.rho

    def fraction(self, t: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return ((t.clamp(min=0.0) ** (1 / self.rho) - low) / (high - low)).clamp(0.0, 1.0)

    def grid(self, steps: int, start: float | None = None) -> list[float]:
        first = self.t_max if start is None else start
        low, high = min(self.sigma_min, first) ** (1 / self.rho), first ** (1 / self.rho)
        return [(high + i / max(steps - 1, 1) * (low - high)) ** self.rho for i in range(steps)]

    def student_grid(self, steps: int, start: float | None = None) -> list[float]:
        """Without ``sigma_min``, where there is so little noise that a call changes nothing."""
        return self.grid(steps + 1, start)[:-1]
