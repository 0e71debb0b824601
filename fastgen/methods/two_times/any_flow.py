"""AnyFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.wrappers.second_time import GatedTime, SecondTimeForm
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.flow_maps.eulerian import EulerianDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.two_times.running_mean import LastMean
from fastgen.objectives.flow_maps import head
from fastgen.objectives.tangents import Derivative, FiniteDifference, same_randomness
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.shapes import expand
from fastgen.times import FlowTime, JumpLaw, SortedTimes

BETA = 4.0 / 15.0
"""The mean of ``t sqrt(1 - t)`` on [0, 1]."""


class AnyFlow(EulerianDistiller):
    """AnyFlow (Gu et al. 2026, arXiv 2605.13724; github.com/NVlabs/AnyFlow), for any number of calls.

    Stage one: mean flows whose student is the guided one. Its output is taken apart before it is compared,
    ``u = (u(c) - (1 - g) u(null)) / g`` with u(null) constant, and so is the derivative, ``du(c)/dt / g``, by two plain
    passes along the sample's velocity; ``|u - sg[v - (t - s) du/dt]|^2`` has the weight ``t sqrt(1 - t)`` over its
    mean, and each sample that jumps is scaled to the mean loss of those that do not. Stage two, from its student
    (``--init_from``): the same loss with ``extras: [DistributionMatching]`` on ``ThreeJumpSampler``.

    The second time enters by AnyFlow's gate, so that a Wan student has a pipeline in diffusers.

    Differs from the code: which samples have s = t is drawn for each, not by place; the mean loss of those is that of
    the update before; a difference is one-sided where it would leave the times of the network.

    Args:
        times: Law of t and s: two uniform ones in order, half s = t, a quarter s = 0, shifted by 5.
        coordinates: Its time must run from 0 to 1.
        sampler: Several ``times`` are jumps from each to the next.
        second_time: How the student is told where a jump ends.
        derivative: Differences of 0.005.
        fused_guidance: g, what the student's own guidance is to be.
        condition_dropout: Probability of training on the null condition.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = SortedTimes(FlowTime(0.0, 1.0, 5.0), diagonal=0.5, to_data=0.5),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        second_time: SecondTimeForm = GatedTime(),
        derivative: Derivative = FiniteDifference(),
        fused_guidance: float = 3.0,
        condition_dropout: float = 0.1,
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-5, beta2=0.95),
        **kwargs: Any,
    ) -> None:
        checks.positive(self, fused_guidance=fused_guidance)
        super().__init__(
            times=times,
            coordinates=coordinates,
            sampler=sampler,
            second_time=second_time,
            derivative=derivative,
            condition_dropout=condition_dropout,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.fused_guidance = fused_guidance

    def build_roles(self) -> None:
        super().build_roles()
        self.still_loss = LastMean()

    def unconditional(self, state: MapState) -> Tensor:
        """The student's velocity (B, ...) of the same jump without the condition, constant."""
        null = self.student.null_condition(state.condition)
        with torch.no_grad(), same_randomness(state.x_t.device):
            return self.predict(self.student, state.x_t, state.times.t, state.times.s, state, null).velocity

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        t, s, g = state.times.t, state.times.s, self.fused_guidance if state.condition else 1.0
        velocity, weights = self.velocity.at(self.networks, state.x_t, t, state), head(self.coordinates, t, s)
        product = self.on_jumping_rows(state, self.product, velocity, weights.a * weights.b) / g
        uncond = self.unconditional(state) if g != 1.0 else 0.0
        output = (self.predict(self.student, state.x_t, t, s, state).velocity - (1.0 - g) * uncond) / g
        target = output + self.tangent(weights, state.x_t, velocity, output, product)
        error = (output - target.detach()).square().flatten(1).mean(1)
        error = error * (t * (1.0 - t).clamp(min=0.0).sqrt() / BETA).to(error.dtype)
        still = s == t
        self.still_loss.see(error.detach(), still)
        scale = torch.where(still, 1.0, self.still_loss.mean / (error.detach() + 1e-5))
        return {"flow_map": (expand(scale, error) * error).mean()}

    def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        super().before_update(role, parts)
        self.still_loss.begin()

    def after_update(self, role: str) -> None:
        super().after_update(role)
        if role == "student":
            self.still_loss.settle(lambda total: self.trainer.strategy.reduce(total, reduce_op="sum"))
