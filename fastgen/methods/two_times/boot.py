"""BOOT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.sources import NoiseOnly, StateSource
from fastgen.methods.flow_maps.state import MapState
from fastgen.objectives.tangents import same_randomness
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.shapes import expand
from fastgen.times import FromNoise, JumpLaw


class BOOT(FlowMapDistiller):
    """Data-free distillation by bootstrapping along the signal ODE (Gu et al. 2023, arXiv 2306.05544; no public code).

    The student's x0 at the destination s is the clean signal y(z, s) of the teacher's path from noise z. From r to
    s < r: ``y(s) = sg[y(r) + d (x0_teacher(alpha_r y(r) + sigma_r z, r) - y(r))]`` with
    ``d = 1 - alpha_r sigma_s / (sigma_r alpha_s)``, weighted by 1 / d^2, and at ``t_max`` the teacher's own x0. The
    step is re-derived from DDIM; the weight of the boundary and the optimizer are not verified.

    Args:
        times: Law of s, and of r so much before it.
        states: Pure noise.
        sampler: One call from noise to data.
        boundary_weight: Factor of the term at ``t_max``.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = FromNoise(step=0.04),
        states: StateSource = NoiseOnly(),
        sampler: Sampler = JumpSampler(),
        boundary_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, boundary_weight=boundary_weight)
        super().__init__(times=times, states=states, sampler=sampler, **kwargs)
        self.boundary_weight = boundary_weight

    def needs_teacher(self) -> bool:
        return True

    def signal(self, state: MapState, at: Tensor) -> Tensor:
        """y(z, at), (B, ...)."""
        return self.predict(self.student, state.x_t, state.times.t, at, state).x0

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        t, r, s = state.times.t, state.times.r, state.times.s
        teacher = self.networks.guided_teacher(state)
        step = expand(1.0 - self.coordinates.ratio(s) / self.coordinates.ratio(r).clamp(max=1e6), state.x_t)
        with torch.no_grad(), same_randomness(state.x_t.device):
            before = self.signal(state, r)
            seen = teacher(self.coordinates.add_noise(before, state.noise, r), r, state.condition).x0
            target = before + step * (seen - before)
            first = teacher(state.x_t, t, state.condition).x0
        with same_randomness(state.x_t.device):
            error = ((self.signal(state, s) - target) / step).square().mean()
        boundary = (self.signal(state, t) - first).square().mean()
        return {"bootstrap": error, "boundary": self.boundary_weight * boundary}
