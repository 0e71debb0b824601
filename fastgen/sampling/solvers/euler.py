"""Euler: first order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.sampling.solvers.base import Solver


@dataclass(frozen=True)
class Euler(Solver):
    """First order (Song et al. 2020, 2010.02502): DDIM on VP, Euler on EDM and flows, a rotation on TrigFlow."""

    def evaluations(self, steps: int) -> int:
        return steps

    def step(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
        return denoiser.process.jump(self.predict(denoiser, x_t, t, condition), s)
