"""Trajectory-backward consistency models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import select
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.flow_maps.scm import SCM
from fastgen.methods.flow_maps.sources import NoiseOnly, StateSource
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.methods.flow_maps.velocity import Velocity
from fastgen.optimizers import BetasAdamW
from fastgen.times import FlowTime, JumpTimes


@dataclass(frozen=True)
class PathVelocity(Velocity):
    """The guided teacher's velocity on the path that the states lie on, as it was found there."""

    @property
    def needs_teacher(self) -> bool:
        return True

    def at(self, networks: MapNetworks, x_t: Tensor, t: Tensor, state: MapState) -> Tensor:
        if state.velocity is None:
            raise UserError("PathVelocity needs states on a path of the teacher, which TBCM makes.")
        return state.velocity


class TBCM(SCM):
    """Trajectory-backward consistency models (Tang et al. 2025, arXiv 2511.20410; github.com/hustvl/TBCM).

    sCM without data: the teacher walks from pure noise to data by DDIM steps on TrigFlow, and its consistency loss is
    taken at all points of the path at once, whose velocities are known from the walk. The path has a point in each of
    ``points`` intervals of the noise levels; the first is pure noise and no state.

    The repository can no longer be read; the entry was made from its code. Its filter of black images is left out. Not
    verified: the last value of rho and the length of its way there.

    Args:
        points: Number of points; the losses of the others but the first are averaged.
        shift: Factor of the levels that divide the intervals evenly in the time of rectified flow.
        states: Where paths begin.
        velocity: That of the path.
        warmup: Student updates until rho is 1.
        calm: Student updates, after these, over which rho moves on to ``final``.
        final: The last value of rho.
    """

    def __init__(
        self,
        points: int = 16,
        shift: float = 2.5,
        states: StateSource = NoiseOnly(),
        velocity: Velocity = PathVelocity(),
        sigma_data: float = 1.0,
        warmup: int = 4000,
        calm: int = 4000,
        final: float = 1.0,
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5),
        **kwargs: Any,
    ) -> None:
        checks.whole(self, 2, points=points)
        checks.whole(self, calm=calm)
        checks.positive(self, shift=shift)
        checks.fraction(self, final=final)
        super().__init__(
            states=states,
            velocity=velocity,
            sigma_data=sigma_data,
            warmup=warmup,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.points = points
        self.shift = shift
        self.calm = calm
        self.final = final

    def warmup_factor(self) -> float:
        calm = min(max((self.student_updates - self.warmup) / self.calm, 0.0), 1.0)
        return super().warmup_factor() * (1.0 + calm * (self.final - 1.0))

    def path_times(self, part: MicroBatch) -> list[Tensor]:
        """Decreasing times (B,) of a path: pure noise, then one in each interval."""
        first = torch.full((len(part.draws),), self.t_max, dtype=torch.float64, device=part.draws.device)
        times, draws = [first], part.draws.scoped("student/path")
        for number in range(self.points - 2, -1, -1):
            law = FlowTime(number / self.points, (number + 1) / self.points, self.shift)
            times.append(law.sample(draws.scoped(str(number)), self.coordinates).clamp(1e-4 * self.t_max, self.t_max))
        return times

    @torch.no_grad()
    def state(self, part: MicroBatch) -> MapState:
        """All points of the batch's paths but the first, (B (points - 1), ...)."""
        start = super().state(part)
        teacher, times = self.networks.guided_teacher(start), self.path_times(part)
        x, points, velocities = start.x_t, [], []
        for t, s in zip(times, [*times[1:], None], strict=True):
            prediction = teacher(x, t, start.condition)
            points.append(x)
            velocities.append(prediction.velocity)
            x = x if s is None else self.coordinates.jump(prediction, s)
        rows = torch.arange(len(start.x_t), device=x.device).repeat(self.points - 1)
        t = torch.cat(times[1:])
        return replace(
            start,
            times=JumpTimes(t, torch.full_like(t, self.coordinates.t_clean), t),
            x_t=torch.cat(points[1:]),
            noise=start.noise[rows],
            condition=select(start.condition, rows),
            dropped=start.dropped[rows],
            guidance=start.guidance[rows],
            velocity=torch.cat(velocities[1:]),
        )
