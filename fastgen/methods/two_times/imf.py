"""Improved mean flows."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.mean_flow import MeanFlow
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.velocity import Velocity
from fastgen.methods.two_times.own_guidance import OwnGuidance
from fastgen.objectives.tangents import same_randomness
from fastgen.optimizers import BetasAdam
from fastgen.times import JumpLaw, SortedTimes


class IMF(MeanFlow):
    """Improved mean flows (Geng et al. 2025, arXiv 2512.02012; github.com/Lyy-iiis/imeanflow).

    ``V = u + (t - s) sg[du/dt]`` learns the velocity v, so the regression's target is free of the network; and the
    derivative runs along the student's own velocity instead of the sample's, which is no function of ``x_t``. The
    velocity is learned by itself too. Both squared errors are weighted by ``1 / (error + c)^p``. Guidance is an input:
    its scale is drawn, v is pushed by the student's own guidance at that scale (``OwnGuidance``).

    Differs from the code: the student's own velocity is ``u(x_t, t, t)``, the paper's boundary form, not a head of its
    own, and learns as such where s < t; the interval of guidance is one for all and no input; one token of time instead
    of several in context.

    Args:
        times: Law of t and s; MeanFlow's, half of them with s = t.
        velocity: What V learns.
        guidance: Scales from 1 to 8, uniform in the logarithm, told to the student; 7.5 when it generates.
        condition_dropout: Probability of training on the null condition, with plain v.
        own_weight: Factor of the term of the student's own velocity.
    """

    def __init__(
        self,
        times: JumpLaw = SortedTimes(diagonal=0.5),
        velocity: Velocity = OwnGuidance(),
        guidance: TeacherGuidance = TeacherGuidance(low=1.0, high=8.0, embedded=True, sampling=7.5, power=1.0),
        condition_dropout: float = 0.1,
        own_weight: float = 1.0,
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4, beta2=0.95),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, own_weight=own_weight)
        super().__init__(
            times=times,
            velocity=velocity,
            guidance=guidance,
            condition_dropout=condition_dropout,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.own_weight = own_weight

    def own_velocity(self, state: MapState) -> Tensor:
        """The student's velocity (B, ...) of the jump that goes nowhere, with its graph."""
        return self.predict(self.student, state.x_t, state.times.t, state.times.t, state).velocity

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        velocity = self.velocity.at(self.networks, state.x_t, state.times.t, state)
        with same_randomness(state.x_t.device):
            own = self.on_jumping_rows(state, self.own_velocity)
        u, tangent = self.field_and_tangent_along(state, velocity, own.detach())
        still = (state.times.s == state.times.t).reshape(-1, *[1] * (u.ndim - 1))
        own = torch.where(still, u, own)
        return {
            "mean_flow": self.weighted(u, tangent),
            "velocity": self.own_weight * self.weighted(own, (velocity - own).detach(), "own_velocity"),
        }
