"""Flow maps of papers that are not methods yet, each in a few lines on the engine as it is; on Gaussians, in fp64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from gaussian_maps import COVARIANCE, MEAN, ExactMap, exact_map, exact_velocity
from torch import Tensor

from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import ECT, SCM, FlowMapDistiller
from fastgen.methods.flow_maps.sources import NoiseOnly, StateSource, TeacherPath
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.target_by_time import TargetByTime
from fastgen.methods.flow_maps.targets import SnapshotTarget, StudentTarget, TargetNetwork
from fastgen.methods.flow_maps.velocity import TeacherVelocity, Velocity
from fastgen.objectives.error_weights import AdaptiveWeight
from fastgen.objectives.flow_maps import head, lagrangian_target
from fastgen.objectives.metrics import PseudoHuber
from fastgen.objectives.tangents import value_and_jvp
from fastgen.processes import EDM, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.sampling.solvers import Euler
from fastgen.shapes import expand
from fastgen.times import EasyTimes, FlowTime, JumpLaw, JumpTimes, LogNormalLevel, TimeLaw, ToData

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


@dataclass(frozen=True)
class FromNoise(JumpLaw):
    """Destinations of jumps from pure noise: ``s`` by a law of times, and ``r`` so much before it.

    Args:
        law: Law of ``s``.
        step: From ``s`` to ``r``, in positions of the levels that networks are trained at.
    """

    law: TimeLaw = FlowTime(0.0, 0.95)
    step: float = 0.0

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        s = self.law.sample(draws, process)
        r = process.position((process.fraction(s) + self.step).clamp(max=1.0))
        return JumpTimes(torch.full_like(s, process.t_max), s, r)


# ---------------------------------------------------------------------- FreeFlow


class FreeFlow(FlowMapDistiller):
    """Flow map distillation without data, the prediction loss (arXiv 2511.19428).

    ``|F(z, s) - sg[u(f(z, s), s) + (1 - s) dF/ds]|^2`` from noise z: LSD with the teacher's velocity at the
    destination. The correction loss is the extra ``DistributionMatching``.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = FromNoise(),
        states: StateSource = NoiseOnly(),
        velocity: Velocity = TeacherVelocity(),
        c: float = 1e-3,
        power: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(times=times, states=states, velocity=velocity, **kwargs)
        self.weight = AdaptiveWeight(c, power)

    @torch.no_grad()
    def goal(self, state: MapState) -> Tensor:
        """The F whose jump follows the teacher when its destination moves."""
        x, t, s = state.x_t, state.times.t, state.times.s
        there = self.coordinates.jump(self.predict(self.student, x, t, s, state), s)
        velocity = self.velocity.at(self.networks, there, s, state)
        _, slope = value_and_jvp(lambda s: self.predict(self.student, x, t, s, state).velocity, (s,), (s * 0 + 1,))
        return lagrangian_target(head(self.coordinates, t, s, moving="s"), x, velocity, slope)

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        field = self.predict(self.student, state.x_t, state.times.t, state.times.s, state).velocity
        error = (field - self.goal(state)).square().flatten(1).mean(1)
        return {"prediction": (self.weight(error, error) * error).mean()}


@pytest.mark.parametrize("process", [FLOW, EDM(), TrigFlow(0.5)], ids=["flow", "edm", "trig"])
def test_free_flow_leaves_the_exact_map_alone(process: Process):
    loss, gradient = loss_and_gradient(built(FreeFlow, process), batch())
    assert loss < 1e-12 and gradient.norm() < 1e-6
    assert loss_and_gradient(built(FreeFlow, process, 1.2), batch())[0] > 1e-3


def test_free_flow_by_hand():
    """``u(f(z, d), 1 - d) - d dF/dd`` with d = 1 - s; all of it is a constant (addendum FM 3.10)."""
    scale, h = 1.2, 1e-6
    method = built(FreeFlow, scale=scale, c=0.01, power=0.5)
    state = method.state(batch())
    z, d = state.x_t, 1 - state.times.s
    assert torch.equal(z, state.noise)

    def mean(d: Tensor) -> Tensor:  # F of the exact map, from 1 to 1 - d
        return (z - exact_map(FLOW, z, torch.ones_like(d), 1 - d)) / d[:, None]

    u = exact_velocity(FLOW, z - d[:, None] * scale * mean(d), 1 - d)
    slope = scale * (mean(d + h) - mean(d - h)) / (2 * h)
    difference = scale * mean(d) - (u - d[:, None] * slope)
    error = difference.square().mean(1)
    weight = (error + 0.01) ** -0.5
    loss, gradient = loss_and_gradient(method, batch())
    torch.testing.assert_close(loss, (weight * error).mean(), rtol=1e-6, atol=1e-9)
    expected = (2 * weight[:, None] * difference * mean(d) / 3).mean(0)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


# ---------------------------------------------------------------------- BOOT


class BOOT(FlowMapDistiller):
    """Data-free distillation by bootstrapping along the signal ODE (Gu et al. 2023, arXiv 2306.05544).

    The student's x0 at the destination t is the clean signal y(z, t) of the teacher's path from noise z. From r to
    s < r: ``y(s) = sg[y(r) + d (x0_teacher(alpha_r y(r) + sigma_r z, r) - y(r))]`` with
    ``d = 1 - alpha_r sigma_s / (sigma_r alpha_s)``, weighted by 1 / d^2, and at ``t_max`` the teacher's own x0.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = FromNoise(step=0.04),
        states: StateSource = NoiseOnly(),
        velocity: Velocity = TeacherVelocity(),
        **kwargs: Any,
    ) -> None:
        super().__init__(times=times, states=states, velocity=velocity, **kwargs)

    def signal(self, state: MapState, at: Tensor) -> Tensor:
        """y(z, at), (B, ...)."""
        return self.predict(self.student, state.x_t, state.times.t, at, state).x0

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        t, r, s = state.times.t, state.times.r, state.times.s
        teacher = self.networks.guided_teacher(state)
        ratio_r, ratio_s = self.coordinates.ratio(r), self.coordinates.ratio(s)
        step = expand(1.0 - ratio_s / ratio_r, state.x_t)
        with torch.no_grad():
            before = self.signal(state, r)
            seen = teacher(self.coordinates.add_noise(before, state.noise, r), r, state.condition).x0
            target = before + step * (seen - before)
            first = teacher(state.x_t, t, state.condition).x0
        error = ((self.signal(state, s) - target) / step).square().mean()
        return {"bootstrap": error, "boundary": (self.signal(state, t) - first).square().mean()}


def test_boot_leaves_the_exact_signal_alone_to_second_order():
    """Gaussian data: the residual falls as the square of the step, so what is divided by it as the step."""
    errors = []
    for step in (0.08, 0.04, 0.02):
        method = built(BOOT, times=FromNoise(FlowTime(0.05, 0.8), step))
        losses = method.student_loss(batch(64))
        errors.append(losses["bootstrap"].sqrt().item())
        assert losses["boundary"] < 1e-12
    assert 1.8 < errors[0] / errors[1] < 2.2 and 1.8 < errors[1] / errors[2] < 2.2, errors
    assert built(BOOT, scale=1.2).student_loss(batch())["boundary"] > 1e-3


def test_boot_by_hand():
    """On rectified flow ``d = 1 - s (1 - r) / (r (1 - s))``; the gradient runs through y(z, s) alone."""
    method = built(BOOT, scale=1.2)
    state = method.state(batch())
    z, r, s = state.noise, state.times.r, state.times.s

    def mean(at: Tensor) -> Tensor:
        return (z - exact_map(FLOW, z, torch.ones_like(at), at)) / (1 - at)[:, None]

    def y(at: Tensor) -> Tensor:
        return z - 1.2 * mean(at)

    d = (1 - s * (1 - r) / (r * (1 - s)))[:, None]
    x = (1 - r)[:, None] * y(r) + r[:, None] * z
    seen = x - r[:, None] * exact_velocity(FLOW, x, r)
    difference = (y(s) - (y(r) + d * (seen - y(r)))) / d
    loss = method.student_loss(batch())["bootstrap"]
    torch.testing.assert_close(loss.detach(), difference.square().mean(), rtol=1e-9, atol=1e-12)
    expected = (2 * difference / d * -mean(s) / 3).mean(0)
    torch.testing.assert_close(torch.autograd.grad(loss, method.student.scale)[0], expected, rtol=1e-8, atol=1e-10)


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


# ---------------------------------------------------------------------- IMM


@dataclass(frozen=True)
class EtaTimes(JumpLaw):
    """``t ~ U[low, high], s ~ U[low, t]``, and r one decrement of eta = sigma / alpha before t, at least s.

    Args:
        low: Lowest time.
        high: Highest time.
        eta_max: Largest eta.
        k: The decrement is ``eta_max / 2^k``.
    """

    low: float = 0.006
    high: float = 0.994
    eta_max: float = 160.0
    k: int = 15

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        t = self.low + (self.high - self.low) * draws.uniform("t")
        s = self.low + (t - self.low) * draws.uniform("s")
        r = process.time((process.ratio(t) - self.eta_max / 2**self.k).clamp(min=0.0))
        return JumpTimes(t, s, torch.maximum(r, s))


def laplace(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """``exp(-scale max(|a - b|, 1e-8) / D)`` of all pairs of a group, (G, M, M), for (G, M, D) and (G,)."""
    distance = (a[:, :, None] - b[:, None]).square().sum(-1).clamp(min=1e-16).sqrt()
    return torch.exp(-scale[:, None, None] * distance / a.shape[-1])


class IMM(FlowMapDistiller):
    """Inductive moment matching (Zhou et al. 2025, arXiv 2503.07565; github.com/lumalabs/imm, which has no training).

    ``group`` samples share t, s and r; their jumps from t and from r (the same noise) to s are compared by the maximum
    mean discrepancy of a Laplace kernel whose width is ``1 / (t - s)``, with the weight
    ``1/2 sigmoid(b - lambda) (-dlambda/dt) alpha / (alpha^2 + sigma^2)``, lambda the log SNR.
    """

    two_times = True
    group = 4

    def __init__(self, times: JumpLaw = EtaTimes(), b: float = 5.0, **kwargs: Any) -> None:
        super().__init__(times=times, **kwargs)
        self.b = b

    def weight(self, t: Tensor) -> Tensor:
        (alpha, sigma), (alpha_dot, sigma_dot) = self.coordinates.coefficients(t), self.coordinates.derivatives(t)
        log_snr, slope = 2 * (alpha / sigma).log(), 2 * (sigma_dot / sigma - alpha_dot / alpha)
        return 0.5 * torch.sigmoid(self.b - log_snr) * slope * alpha / (alpha.square() + sigma.square())

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        t, r, s = state.times.t, state.times.r, state.times.s
        x_r = self.coordinates.add_noise(state.datum(self), state.noise, r)
        one = self.coordinates.jump(self.predict(self.student, state.x_t, t, s, state), s)
        with torch.no_grad():
            other = self.coordinates.jump(self.predict(self.target_network(), x_r, r, s, state), s)
        one, other = (y.flatten(1).unflatten(0, (-1, self.group)) for y in (one, other))
        t, s = t[:: self.group], s[:: self.group]
        scale = 1.0 / (t - s)
        discrepancy = laplace(one, one, scale) + laplace(other, other, scale) - 2 * laplace(one, other, scale)
        return {"discrepancy": (self.weight(t) * discrepancy.mean((1, 2))).mean()}


def test_groups_share_their_times_and_nothing_else():
    state = built(IMM).state(batch(16, data=True))
    for times in (state.times.t, state.times.s, state.times.r):
        assert len(times.unique()) == 4 and torch.equal(times, times[::4].repeat_interleave(4))
    assert len(state.noise[:, 0].unique()) == 16
    other = built(IMM).state(batch(16, seed=1, data=True))
    assert not torch.equal(other.times.t, state.times.t)


def test_imm_by_hand():
    """The V-statistic of a group by loops; 0 where both jumps are one."""
    law = EtaTimes(k=6)
    method, part = built(IMM, scale=1.2, times=law), batch(8, data=True)
    state, total = method.state(part), 0.0
    x_r = FLOW.add_noise(part.x0, state.noise, state.times.r)

    def f(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x + 1.2 * (exact_map(FLOW, x, t, s) - x)

    one, other = f(state.x_t, state.times.t, state.times.s), f(x_r, state.times.r, state.times.s)
    for first in (0, 4):
        t, s = state.times.t[first].item(), state.times.s[first].item()

        def k(a: Tensor, b: Tensor, t: float = t, s: float = s) -> float:
            return torch.exp(-torch.linalg.vector_norm(a - b) / 3 / (t - s)).item()

        rows = range(first, first + 4)
        value = sum(k(one[i], one[j]) + k(other[i], other[j]) - 2 * k(one[i], other[j]) for i in rows for j in rows)
        snr = 2 * math.log((1 - t) / t)
        weight = 0.5 / (1 + math.exp(snr - 5)) * 2 / (t * (1 - t)) * (1 - t) / ((1 - t) ** 2 + t**2)
        total += weight * value / 16 / 2
    loss, gradient = loss_and_gradient(method, part)
    assert abs(loss.item() - total) < 1e-6 * abs(total) and gradient.norm() > 0
    same = built(IMM, scale=1.2, times=EtaTimes(k=200))  # r = t
    assert loss_and_gradient(same, part)[0].abs() < 1e-9
