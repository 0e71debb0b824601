"""FreeFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher, FromTeacher
from fastgen.distiller.extra import Extra
from fastgen.extras.distribution_matching import DistributionMatching
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.sources import NoiseOnly, StateSource
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.velocity import TeacherVelocity, Velocity
from fastgen.objectives.error_weights import AdaptiveWeight, ErrorWeight
from fastgen.objectives.flow_maps import head, lagrangian_target
from fastgen.objectives.maps.forms import VelocityGapForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.tangents import same_randomness, value_and_jvp
from fastgen.objectives.weights import UniformWeight
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import FlowTime, FromNoise, JumpLaw, LogitNormalTime


class FreeFlow(FlowMapDistiller):
    """Flow map distillation without data (Tong et al. 2025, arXiv 2511.19428; its repository has no training).

    Prediction: ``|F(z, s) - sg[u(f(z, s), s) + (1 - s) dF/ds]|^2`` from noise z, the Lagrangian rule with the teacher's
    velocity u at the destination. Correction: on one-call samples the velocity v of the student's own distribution,
    which a critic learns by flow matching, must be the teacher's; ``sg[v - u]`` at noise levels near 1 pulls F(z, 0).
    Both are weighted by ``1 / (mean square + c)^k``.

    By a detailed note on the paper. Differs: the correction is on all samples of a batch, not on a quarter of it, and
    its weight is a number, not the running ratio of the two gaps; the interval of guidance is one for all.

    Args:
        times: Law of s.
        states: Pure noise.
        velocity: Of the destination.
        coordinates: As of any flow map.
        sampler: One call from noise to data.
        weight: Weight of the prediction's error; k = 1.
        critic: Builds the critic of the correction, or says how it is made from the frozen teacher.
        critic_optimizer: Builds its optimizer.
        guidance_of_correction: Guidance scales of the correction's teacher and critic.
        extras: Further loss terms; ``published`` is the correction, a ``DistributionMatching``.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = FromNoise(FlowTime(0.0, 1.0)),
        states: StateSource = NoiseOnly(),
        velocity: Velocity = TeacherVelocity(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        weight: ErrorWeight = AdaptiveWeight(c=1e-3, power=1.0),
        critic: Callable[[], Denoiser] | FromTeacher = CopyOfTeacher(),
        critic_optimizer: OptimizerCallable = torch.optim.Adam,
        guidance_of_correction: Guidance = Guidance(),
        extras: Sequence[Extra] | Literal["published"] = "published",
        **kwargs: Any,
    ) -> None:
        if isinstance(extras, str):
            extras = [
                DistributionMatching(
                    critic=critic,
                    critic_optimizer=critic_optimizer,
                    critic_updates=1,
                    renoise_time=LogitNormalTime(1.4, 1.0),
                    critic_time=FlowTime(),
                    critic_objective=DenoisingLoss("velocity", UniformWeight()),
                    guidance=guidance_of_correction,
                    form=VelocityGapForm(),
                )
            ]
        super().__init__(
            times=times,
            states=states,
            velocity=velocity,
            coordinates=coordinates,
            sampler=sampler,
            extras=extras,
            **kwargs,
        )
        self.weight = weight

    @torch.no_grad()
    def goal(self, state: MapState) -> Tensor:
        """The F (B, ...) whose jump follows the teacher when its destination moves."""
        x, t, s = state.x_t, state.times.t, state.times.s

        def field(s: Tensor) -> Tensor:
            return self.predict(self.student, x, t, s, state).velocity

        with same_randomness(x.device):
            there = self.coordinates.jump(self.predict(self.student, x, t, s, state), s)
        with same_randomness(x.device):
            _, slope = value_and_jvp(field, (s,), (torch.ones_like(s),))
        arrived = s <= self.coordinates.t_clean
        velocity = self.velocity.at(self.networks, there, torch.where(arrived, 1e-3 * t, s), state)
        return lagrangian_target(head(self.coordinates, t, s, moving="s"), x, velocity, slope)

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        goal = self.goal(state)
        gap = self.predict(self.student, state.x_t, state.times.t, state.times.s, state).velocity - goal
        error = gap.square().flatten(1).mean(1)
        return {"prediction": (self.weight(error, gap) * error).mean()}
