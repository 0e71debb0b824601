"""TraFlow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.distiller.averaging import ConstantEMA
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.methods.flow_maps.transition import TeacherSpan, Transition
from fastgen.objectives.tangents import same_randomness
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import FlowTime, JumpLaw, JumpTimes, SortedTimes


class TraFlow(FlowMapDistiller):
    """Trajectory distillation of a rectified flow (Wu et al. 2025, arXiv 2502.16972; no code, no text of the losses).

    Three squared errors, derived from the abstract: the end of a jump against the end of the teacher's path; the
    velocity at s = t against the teacher's, which makes the path straight where it can be; and one jump against two by
    the averaged student. Weights, solver and optimizer are not verified.

    Args:
        times: Law of t, r and s; uniform, r anywhere between.
        coordinates: As of any flow map.
        sampler: Several ``times`` are jumps from each to the next.
        target: Who makes the two jumps.
        path: The teacher's path from t to s.
        output_weight: Factor of the end's error.
        velocity_weight: Factor of the velocity's.
        consistency_weight: Factor of the two jumps'.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = SortedTimes(FlowTime(1e-2, 1.0), diagonal=0.0, middle=None),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        target: TargetNetwork = EMATarget(ConstantEMA(0.999)),
        path: Transition = TeacherSpan(),
        output_weight: float = 1.0,
        velocity_weight: float = 1.0,
        consistency_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        weights = {"output_weight": output_weight, "velocity_weight": velocity_weight}
        checks.not_negative(self, **weights, consistency_weight=consistency_weight)
        super().__init__(times=times, coordinates=coordinates, sampler=sampler, target=target, **kwargs)
        self.path = path
        self.output_weight = output_weight
        self.velocity_weight = velocity_weight
        self.consistency_weight = consistency_weight

    def needs_teacher(self) -> bool:
        return True

    @torch.no_grad()
    def two_jumps(self, state: MapState) -> Tensor:
        """Where the target network goes by way of r, (B, ...)."""
        network, (t, r, s) = self.target_network(), (state.times.t, state.times.r, state.times.s)
        with same_randomness(state.x_t.device):
            x_r = self.coordinates.jump(self.predict(network, state.x_t, t, r, state), r)
        with same_randomness(state.x_t.device):
            return self.coordinates.jump(self.predict(network, x_r, r, s, state), s)

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        x, t, s = state.x_t, state.times.t, state.times.s
        there = self.path.step(self.networks, replace(state, times=JumpTimes(t, s, s)))
        velocity = self.networks.guided_teacher(state)(x, t, state.condition).velocity.detach()
        two = self.two_jumps(state)
        with same_randomness(x.device):
            end = self.coordinates.jump(self.predict(self.student, x, t, s, state), s)
        still = self.predict(self.student, x, t, t, state).velocity
        return {
            "output": self.output_weight * (end - there).square().mean(),
            "velocity": self.velocity_weight * (still - velocity).square().mean(),
            "consistency": self.consistency_weight * (end - two).square().mean(),
        }
