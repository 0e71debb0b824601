"""Flow maps of papers that are not methods yet, each in a few lines on the engine as it is; on Gaussians, in fp64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gaussian_maps import COVARIANCE, MEAN, ExactMap, exact_map, exact_velocity
from torch import Tensor

from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import ECT, SCM, FlowMapDistiller
from fastgen.methods.flow_maps.sources import TeacherPath
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.target_by_time import TargetByTime
from fastgen.methods.flow_maps.targets import SnapshotTarget, StudentTarget, TargetNetwork
from fastgen.objectives.metrics import PseudoHuber
from fastgen.processes import EDM, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.solvers import Euler
from fastgen.times import EasyTimes, LogNormalLevel, TimeLaw, ToData

FLOW = RectifiedFlow()


def batch(count: int = 16, seed: int = 0, data: bool = False) -> MicroBatch:
    draws = Draws(seed, range(count), "test")
    return MicroBatch(draws.normal("x0", (3,), torch.float64) if data else None, {}, draws)


def built(cls: type[FlowMapDistiller], process: Process = FLOW, scale: float = 1.0, to_data: bool = False, **kw: Any):
    """A method whose student is ``scale`` times the exact map and whose teacher is exact."""
    student, teacher = partial(ExactMap, process, to_data, scale), partial(GaussianDenoiser, process, MEAN, COVARIANCE)
    method = cls(student=student, teacher=teacher, **kw)
    method.configure_model()
    return method


def loss_and_gradient(method: FlowMapDistiller, part: MicroBatch) -> tuple[Tensor, Tensor]:
    loss = torch.stack(list(method.student_loss(part).values())).sum()
    return loss.detach(), torch.autograd.grad(loss, method.student.scale)[0]


# ---------------------------------------------------------------------- TBCM: a preset of SCM


def test_tbcm_is_scm_on_the_teacher_s_trajectory():
    """Trajectory-backward consistency (arXiv 2511.20410): TrigFlow DDIM ``x' = cos(d) x - sin(d) dx/dt``, no data."""
    process = TrigFlow(0.5)
    tbcm = {"states": TeacherPath(Euler(), steps=2), "times": ToData(LogNormalLevel(0.0, 0.7)), "warmup": 0}
    settings = tbcm | {"learned_weight": False, "c": 1.0, "to_data": True}
    method = built(SCM, process, **settings)
    state = method.state(batch())
    t_max = torch.full_like(state.times.t, process.t_max)
    middle = process.position(0.5 * (process.fraction(t_max) + process.fraction(state.times.t)))
    x, now = process.start(state.noise, t_max), t_max
    for then in (middle, state.times.t):
        angle = (now - then)[:, None]
        x, now = torch.cos(angle) * x - torch.sin(angle) * exact_velocity(process, x, now), then
    torch.testing.assert_close(state.x_t, x, rtol=1e-8, atol=1e-9)
    loss, gradient = loss_and_gradient(method, batch())
    assert loss < 1e-16 and gradient.norm() < 1e-8
    assert loss_and_gradient(built(SCM, process, 1.2, **settings), batch())[0] > 1e-3


# ---------------------------------------------------------------------- TCM


@dataclass(frozen=True)
class TruncatedLevel(TimeLaw):
    """A law of noise levels above a boundary, with a share of the samples just above it.

    What the law draws below is mirrored in the logarithm; the paper's law is a heavy-tailed Student-t, cut.

    Args:
        law: The law.
        level: The boundary sigma / alpha.
        share: Probability of a boundary sample.
    """

    law: TimeLaw = LogNormalLevel(0.0, 1.0)
    level: float = 1.0
    share: float = 0.25

    def sample(self, draws: Draws, process: Process) -> Tensor:
        bottom = math.log(self.level)
        above = bottom + (process.ratio(self.law.sample(draws, process)).log() - bottom).abs()
        level = torch.where(draws.uniform("boundary") < self.share, bottom, above).exp()
        return process.time(level.clamp(min=self.level * (1 + 1e-8))).clamp(max=process.t_max)


class TCM(ECT):
    """Truncated consistency models, the second stage (Lee et al. 2024, arXiv 2410.14895; github.com/NVlabs/TCM).

    ECT above a noise level; below it answers the model of the first stage, with which training begins. A share of the
    samples lies on the boundary and has the weight ``boundary_weight``: ``w_b mean_b + mean``, in expectation.
    """

    def __init__(
        self,
        times: EasyTimes = EasyTimes(TruncatedLevel()),
        target: TargetNetwork = TargetByTime(1.0, StudentTarget(), SnapshotTarget(every=0)),
        boundary_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(times=times, target=target, **kwargs)
        self.boundary_weight = boundary_weight

    def loss_weight(self, state: MapState) -> Tensor:
        level = self.coordinates.ratio(state.times.t)
        law = self.times.law
        on_boundary = level <= law.level * (1 + 1e-6)
        shares = self.boundary_weight / law.share, 1.0 / (1.0 - law.share)
        return super().loss_weight(state) * torch.where(
            on_boundary, *(torch.full_like(level, share) for share in shares)
        )


def test_tcm_asks_the_first_stage_below_the_boundary():
    law = EasyTimes(TruncatedLevel(LogNormalLevel(0.0, 1.5), level=1.0, share=0.5), q=8.0)
    method = built(TCM, EDM(), 1.3, True, times=law, metric=PseudoHuber(0.1))
    with torch.no_grad():
        method.student.scale.fill_(0.9)  # training goes on; the first stage stays 1.3
    part = batch(64, data=True)
    state = method.state(part)
    t, r = state.times.t, state.times.r
    assert t.min() >= 1.0 and 0.3 < (t < 1.0001).double().mean() < 0.7
    assert bool((r[t < 1.0001] < 1.0).all()) and bool((r[t > 5.0] > 1.0).any())

    def f(x: Tensor, at: Tensor, scale: Tensor) -> Tensor:
        slope = (x - exact_map(EDM(), x, at, torch.zeros_like(at))) / at[:, None]
        return x - (at * scale)[:, None] * slope

    stage = 0.9 + 0.4 * (r <= 1.0).double()
    target = torch.where((r > 0)[:, None], f(state.x0 + r[:, None] * state.noise, r.clamp(min=1e-9), stage), state.x0)
    difference = f(state.x_t, t, torch.full_like(t, 0.9)) - target
    distance = (difference.square().sum(1) + 0.1**2).sqrt() - 0.1
    weight = (2.0 - 1.8 * (t < 1.0001).double()) / (t - r)
    loss, _ = loss_and_gradient(method, part)
    torch.testing.assert_close(loss, (weight * distance).mean(), rtol=1e-6, atol=0)  # copies are kept in fp32
