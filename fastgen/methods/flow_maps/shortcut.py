"""Shortcut models."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.objectives.flow_maps import two_leg_target
from fastgen.objectives.tangents import same_randomness
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import DyadicTimes


class Shortcut(FlowMapDistiller):
    """Shortcut models, without a teacher (Frans et al. 2024, arXiv 2410.12557; github.com/kvfrans/shortcut-models).

    One network learns the flow (s = t, most of the batch) and jumps of length 1, 1/2, .. 1/64, each equal to two jumps
    of half the length made by itself. The halves of the shortest jump are the flow itself. One mean squared error.

    Differs from the code: the student sees s instead of log2 of the length; samples are assigned to the two tasks
    independently instead of by their place in the batch; the target network is the student (``target: EMATarget`` is
    the other choice of the code).

    Args:
        times: Law of the jumps.
        coordinates: Its time must run from 0 to 1.
        sampler: Several ``times`` are jumps from each to the next.
        guidance_scale: Classifier-free guidance, in the halves of the shortest jump only, so that it enters once (1.5
            on ImageNet). It needs ``condition_dropout``, 0.1 in the code.
        bound: Largest size of the elements of points and targets; 4 in the code, ``None`` for none.
    """

    two_times = True
    times: DyadicTimes

    def __init__(
        self,
        times: DyadicTimes = DyadicTimes(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        guidance_scale: float = 1.0,
        bound: float | None = None,
        student_optimizer: OptimizerCallable = lambda parameters: BetasAdamW(parameters, lr=1e-4, decay=0.1),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, guidance_scale=guidance_scale)
        checks.positive(self, bound=bound)
        super().__init__(
            times=times,
            coordinates=coordinates,
            sampler=sampler,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.guidance_scale = guidance_scale
        self.bound = bound

    def clipped(self, x: Tensor) -> Tensor:
        """``x`` within the bounds."""
        return x if self.bound is None else x.clamp(-self.bound, self.bound)

    def leg(self, x: Tensor, t: Tensor, s: Tensor, shortest: Tensor, state: MapState) -> Tensor:
        """The velocity of one half: of the flow, guided, where it is half of the shortest jump."""

        def ask(condition: Condition) -> Tensor:
            with same_randomness(x.device):
                asked = torch.where(shortest, t, s)
                return self.predict(self.target_network(), x, t, asked, state, condition).velocity

        cond = ask(state.condition)
        if self.guidance_scale == 1.0 or not state.condition:
            return cond
        uncond = ask(self.student.null_condition(state.condition))
        guided = uncond + self.guidance_scale * (cond - uncond)
        return torch.where(shortest.reshape(-1, *[1] * (x.ndim - 1)), guided, cond)

    @torch.no_grad()
    def two_halves(self, state: MapState) -> Tensor:
        """The velocity of the jump from t to s by way of the middle; meaningless where s = t."""
        t, r, s = state.times.t, state.times.r, state.times.s
        shortest = t - s < 1.5 * self.times.shortest
        first = self.leg(state.x_t, t, r, shortest, state)
        x_r = self.clipped(state.x_t - (t - r).to(first.dtype).reshape(-1, *[1] * (first.ndim - 1)) * first)
        second = self.leg(x_r, r, s, shortest, state)
        return self.clipped(two_leg_target(self.coordinates, t, r, s, state.x_t, first, second))

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        t, s = state.times.t, state.times.s
        halves = self.on_jumping_rows(state, self.two_halves)
        flow = self.velocity.at(self.networks, state.x_t, t, state)
        jump = (s < t).reshape(-1, *[1] * (flow.ndim - 1))
        output = self.predict(self.student, state.x_t, t, s, state).velocity
        return {"shortcut": (output - torch.where(jump, halves, flow)).square().mean()}
