"""MDT-dist."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.flow_maps.eulerian import EulerianDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.velocity import TeacherVelocity, Velocity
from fastgen.objectives.flow_maps import head, normalised
from fastgen.objectives.tangents import Derivative, FiniteDifference, same_randomness
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Process, RectifiedFlow
from fastgen.shapes import expand
from fastgen.times import JumpLaw, LogitNormalTime, ToData


class MDTDist(EulerianDistiller):
    """Marginal-data transport distillation (Zhou et al. 2025, arXiv 2509.04406; github.com/Zanue/MDT-dist), for images.

    Velocity matching: the student's mean velocity to data learns ``u* = v - t d / (|d| + c)``, d its derivative along
    the guided teacher's velocity v. Velocity distillation, without a critic: at noisy copies of its one-call samples
    x_f the student's own gap ``v_student - u*`` is what its velocity at pure noise learns from: the student is its own
    fake score. Both are mean squared errors with the same weight.

    Differs from the code: the derivative is a central difference where there is room, not a backward one; both terms
    have one guidance scale (the code's classes have 41 and 101 in our convention, and its configs decide).

    Args:
        times: Law of t, of both terms; jumps go to data.
        velocity: The guided teacher's.
        coordinates: Its time must run from 0 to 1.
        derivative: Differences of 0.01.
        c: Constant of the derivative's normalisation.
        distillation_weight: Factor of the second term.
    """

    def __init__(
        self,
        times: JumpLaw = ToData(LogitNormalTime(1.0, 1.0)),
        velocity: Velocity = TeacherVelocity(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        derivative: Derivative = FiniteDifference(0.01),
        c: float = 0.1,
        distillation_weight: float = 1.0,
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-8),
        **kwargs: Any,
    ) -> None:
        checks.positive(self, c=c)
        checks.not_negative(self, distillation_weight=distillation_weight)
        super().__init__(
            times=times,
            velocity=velocity,
            coordinates=coordinates,
            derivative=derivative,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.c = c
        self.distillation_weight = distillation_weight

    def gap(self, state: MapState) -> Tensor:
        """``v_student - u*`` (B, ...); only the student's velocity carries a graph."""
        x, t, s = state.x_t, state.times.t, state.times.s
        velocity, weights = self.velocity.at(self.networks, x, t, state), head(self.coordinates, t, s)
        slope = normalised(self.product(state, velocity, torch.ones_like(t)), self.c)
        output = self.predict(self.student, x, t, s, state).velocity
        product = expand(weights.a * weights.b, slope) * slope
        target = output.detach() + self.tangent(weights, x, velocity, output.detach(), product)
        return output - target

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        return {"matching": self.gap(state).square().mean()}

    def distillation(self, part: MicroBatch, state: MapState) -> Tensor:
        """What one call from pure noise learns of the student's own gap at its noisy samples."""
        draws, process = part.draws.scoped("student/distillation"), self.coordinates
        first = torch.full_like(state.times.t, self.t_max)
        start = process.start(draws.normal("start", state.x_t.shape[1:], state.x_t.dtype), first)
        with same_randomness(start.device):
            made = self.predict(self.student, start, first, state.times.s, state)
        noise = draws.normal("noise", start.shape[1:], start.dtype)
        with torch.no_grad():
            x_t = process.add_noise(process.jump(made, state.times.s), noise, state.times.t)
            gap = self.gap(replace(state, x_t=x_t, x0=None, noise=noise))
        return (gap + made.velocity - made.velocity.detach()).square().mean()

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Match the velocity, then distil it into one call."""
        state = self.state(part)
        losses = self.map_loss(state)
        return losses | {"distillation": self.distillation_weight * self.distillation(part, state)}
