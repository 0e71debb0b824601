"""SDEStep: a stochastic step of the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastgen import checks
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.methods.flow_maps.transition import Transition
from fastgen.sampling.solvers import DDIM


@dataclass(frozen=True)
class SDEStep(Transition):
    """Some steps of the guided teacher with fresh noise, from ``t`` to ``r`` (SCott, arXiv 2403.01505).

    DDIM with eta (Song et al. 2020, arXiv 2010.02502, eq. 16): 0 is the flow, 1 the reverse diffusion (DDPM).

    Args:
        steps: Number of steps, even in the levels that networks are trained at.
        eta: Share of the noise.
    """

    needs_teacher: ClassVar[bool] = True
    steps: int = 3
    eta: float = 0.3

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)
        checks.fraction(self, eta=self.eta)

    @torch.no_grad()
    def step(self, networks: MapNetworks, state: MapState) -> Tensor:
        process, teacher, draws = networks.coordinates, networks.guided_teacher(state), state.fresh(self)
        x, t, r, solver = state.x_t, state.times.t, state.times.r, DDIM(eta=self.eta)
        first, last = process.fraction(t), process.fraction(r)
        for number in range(1, self.steps + 1):
            s = process.position(first + (last - first) * (number / self.steps)) if number < self.steps else r
            s = torch.minimum(torch.maximum(s, r), t)
            prediction = teacher(x, t, state.condition)
            noise = draws.normal(f"step{number}", x.shape[1:], x.dtype)
            x, t = solver.noisy_step(prediction, s, noise), s
        return x
