"""Rectified flow: straight lines from data to noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes.base import Process


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """x_t = (1 - t) x0 + t noise; the velocity is noise - x0.

    Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747.

    Args:
        shift: Factor s of sampling grids, t -> s t / (1 + (s - 1) t) (Esser et al. 2024, arXiv 2403.03206).
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, shift=self.shift)

    @property
    def t_max(self) -> float:
        return 1.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - t, t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)

    def time(self, ratio: Tensor) -> Tensor:
        return torch.where(torch.isinf(ratio), torch.ones_like(ratio), ratio / (1.0 + ratio))

    def grid(self, steps: int, start: float | None = None) -> list[float]:
        shifted = self.t_max if start is None else start
        first = shifted / (self.shift - (self.shift - 1.0) * shifted)
        linear = (first * (1.0 - i / steps) for i in range(steps))
        return [self.shift * t / (1.0 + (self.shift - 1.0) * t) for t in linear]
