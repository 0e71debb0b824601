"""TrigFlow: the time is an angle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes.base import Process


@dataclass(frozen=True)
class TrigFlow(Process):
    """x_t = cos(t) x0 + sin(t) sigma_data noise (Lu & Song 2024, arXiv 2410.11081, eq. 4).

    Args:
        sigma_data: Standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        checks.positive(self, sigma_data=self.sigma_data)

    @property
    def t_max(self) -> float:
        return math.pi / 2

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # In fp32 pi/2 is rounded up and its cosine is negative, which would turn the ratio's sign.
        return torch.cos(t).clamp(min=0.0), self.sigma_data * torch.sin(t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.sin(t), self.sigma_data * torch.cos(t)

    def time(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio / self.sigma_data)
