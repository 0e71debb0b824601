"""Self-corrected flow distillation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.averaging import ConstantEMA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.methods.flow_maps.velocity import TeacherVelocity, Velocity
from fastgen.objectives.metrics import ElementwiseHuber, Metric, SquaredError
from fastgen.objectives.tangents import same_randomness
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Process, RectifiedFlow
from fastgen.shapes import expand
from fastgen.times import NearbyTimes


class SCFlow(FlowMapDistiller):
    """Self-corrected flow distillation (Dao et al. 2024, arXiv 2412.16906; github.com/hao-pt/SCFlow).

    The student predicts x0 along a flow. Its prediction at x_t agrees with the average's at a point nearby that is
    cleaner, reached with the teacher's velocity (or with the datum, where that point lies below ``truncation``), with
    the average's at one that is noisier (``backward``), and, on the way between a noise and the student's one-call
    sample of it, with that sample (``correction``). The paper's adversarial term on one-call samples is the extra
    ``GAN`` (weight 0.1, R1 with 1). Without a teacher: ``velocity: DataVelocity``.

    Not verified: how often the reach of the times grows and where ``start`` lies, which the code leaves to its scripts.

    Args:
        times: Law of t and of the cleaner time.
        velocity: What leads to the points nearby.
        coordinates: As of any flow map; its time must run from 0 to 1.
        metric: Of the first two terms: the code's, elementwise Huber with c = 0.01.
        target: An average with the decay 0.9.
        truncation: The cleaner time below which the datum is the target; 0 for never.
        backward: Factor of the second term.
        correction: Factor of the third, a mean squared error.
        start: Student update from which these two are active.
    """

    times: NearbyTimes

    def __init__(
        self,
        times: NearbyTimes = NearbyTimes(),
        velocity: Velocity = TeacherVelocity(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        metric: Metric = ElementwiseHuber(0.01),
        target: TargetNetwork = EMATarget(ConstantEMA(0.9)),
        truncation: float = 0.45,
        backward: float = 0.1,
        correction: float = 0.1,
        start: int = 1000,
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-5, decay=0.0),
        **kwargs: Any,
    ) -> None:
        checks.fraction(self, truncation=truncation)
        checks.not_negative(self, backward=backward, correction=correction)
        checks.whole(self, 0, start=start)
        super().__init__(
            times=times,
            velocity=velocity,
            coordinates=coordinates,
            target=target,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.metric = metric
        self.truncation = truncation
        self.backward_weight = backward
        self.correction = correction
        self.start = start

    def x0(self, network: Denoiser, x: Tensor, t: Tensor, state: MapState) -> Tensor:
        """A network's prediction of data, (B, ...)."""
        with same_randomness(x.device):
            return self.predict(network, x, t, torch.full_like(t, self.coordinates.t_clean), state).x0

    @torch.no_grad()
    def goals(self, state: MapState, up: Tensor) -> tuple[Tensor, Tensor]:
        """What the average predicts at the cleaner point and at the noisier, each (B, ...)."""
        t, r, x = state.times.t, state.times.r, state.x_t
        velocity = self.velocity.at(self.networks, x, t, state)
        asked = torch.where(r > self.coordinates.t_clean, r, t)  # no network is called at the clean end
        cleaner = self.x0(self.target_network(), x + expand(asked - t, x) * velocity, asked, state)
        if self.truncation > 0:
            known = (r < self.truncation).reshape(-1, *[1] * (x.ndim - 1))
            cleaner = torch.where(known, state.datum(self), cleaner)
        return cleaner, self.x0(self.target_network(), x + expand(up - t, x) * velocity, up, state)

    def corrected(self, state: MapState) -> Tensor:
        """Squared errors (B,) of predictions on the way from a noise to the student's one-call sample."""
        t_max = torch.full_like(state.times.t, self.t_max)
        with torch.no_grad():
            made = self.x0(self.student, self.coordinates.start(state.noise, t_max), t_max, state)
        way = self.coordinates.add_noise(made, state.noise, state.times.t)
        return SquaredError()(self.x0(self.student, way, state.times.t, state), made)

    def state(self, part: MicroBatch) -> MapState:
        return replace(super().state(part), draws=part.draws.scoped("student/noisier"))

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        t = state.times.t
        up = self.times.noisier(state.fresh(self), self.coordinates, t, self.student_updates)
        cleaner, noisier = self.goals(state, up)
        output = self.x0(self.student, state.x_t, t, state)
        losses = {"consistency": self.metric(output, cleaner).mean()}
        if self.student_updates >= self.start:
            losses["backward"] = self.backward_weight * self.metric(output, noisier).mean()
            losses["correction"] = self.correction * self.corrected(state).mean()
        return losses
