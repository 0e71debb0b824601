"""Heun: second order, two calls a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.sampling.solvers.base import Solver


@dataclass(frozen=True)
class Heun(Solver):
    """Second order, but first order in a step to the clean end (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

    def evaluations(self, steps: int) -> int:
        return 2 * steps - 1

    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
        process = denoiser.process
        first = self.predict(denoiser, x_t, t, condition)
        x_s = process.jump(first, s)
        arrived = s <= process.t_clean
        if arrived.all():
            return x_s
        # No network is called at the clean end; those rows ask for another time and are replaced.
        asked = torch.where(arrived, t, s)
        second = self.predict(denoiser, x_s, asked, condition)
        corrected = process.trapezoid(x_t, t, asked, first, second)
        return torch.where(arrived.reshape(-1, *[1] * (x_s.ndim - 1)), x_s, corrected)
