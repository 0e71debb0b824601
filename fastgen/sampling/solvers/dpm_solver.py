"""DPM-Solver++: second order with one call a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastgen.processes import Process
from fastgen.sampling.solvers.multistep import Answer, Multistep, second_order


@dataclass(frozen=True)
class DPMSolverPP(Multistep):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2; github.com/LuChengTHU/dpm-solver).

    ``x_s = (sigma_s / sigma_t) x_t + w D``, ``w = alpha_s - alpha_t sigma_s / sigma_t``, ``D = D_t + (h / 2 h_before)
    (D_t - D_before)`` with the steps h of ``log(alpha / sigma)``: second order. The first step and the one to data are
    of first order, as in diffusers' ``DPMSolverMultistepScheduler``.
    """

    def advance(self, known: Sequence[Answer], process: Process, s: Tensor) -> Tensor:
        return second_order(known, process, s)
