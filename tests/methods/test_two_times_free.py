"""FreeFlow, BOOT and IMM on Gaussians, whose map is known (fp64)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from gaussian_maps import COVARIANCE, MEAN, ExactMap, exact_map, exact_velocity
from torch import Tensor

from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods import BOOT, IMM, FlowMapDistiller, FreeFlow
from fastgen.objectives.error_weights import AdaptiveWeight
from fastgen.objectives.maps.forms import VelocityGapForm
from fastgen.objectives.maps.moments import imm_weight, laplace_discrepancy
from fastgen.processes import EDM, Prediction, Process, RectifiedFlow, TrigFlow
from fastgen.randomness import Draws
from fastgen.times import EtaTimes, FlowTime, FromNoise

FLOW = RectifiedFlow()


def batch(count: int = 16, seed: int = 0, data: bool = False) -> MicroBatch:
    draws = Draws(seed, range(count), "test")
    return MicroBatch(draws.normal("x0", (3,), torch.float64) if data else None, {}, draws)


def built(cls: type[FlowMapDistiller], process: Process = FLOW, scale: float = 1.0, **kw: Any):
    """A method whose student is ``scale`` times the exact map and whose teacher is exact."""
    student, teacher = partial(ExactMap, process, False, scale), partial(GaussianDenoiser, process, MEAN, COVARIANCE)
    extras = {"extras": []} if cls is FreeFlow else {}
    method = cls(student=student, teacher=teacher, coordinates="student", **extras | kw)
    method.configure_model()
    return method


def loss_and_gradient(method: FlowMapDistiller, part: MicroBatch) -> tuple[Tensor, Tensor]:
    loss = torch.stack(list(method.student_loss(part).values())).sum()
    return loss.detach(), torch.autograd.grad(loss, method.student.scale)[0]


# ---------------------------------------------------------------------- FreeFlow


@pytest.mark.parametrize("process", [FLOW, EDM(), TrigFlow(0.5)], ids=["flow", "edm", "trig"])
def test_free_flow_leaves_the_exact_map_alone(process: Process):
    loss, gradient = loss_and_gradient(built(FreeFlow, process), batch())
    assert loss < 1e-12 and gradient.norm() < 1e-6
    assert loss_and_gradient(built(FreeFlow, process, 1.2), batch())[0] > 1e-3


def test_free_flow_by_hand():
    """``u(f(z, d), 1 - d) - d dF/dd`` with d = 1 - s; all of it is a constant (addendum FM 3.10)."""
    scale, h = 1.2, 1e-6
    method = built(FreeFlow, scale=scale, weight=AdaptiveWeight(0.01, 0.5), times=FromNoise())
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


# ---------------------------------------------------------------------- IMM


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


def test_the_pieces_of_imm():
    """Equal sets: 0, in any order; the Laplace kernel and the weight by hand, for the cosine schedule too."""
    a, scale = torch.randn(2, 4, 3, dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert laplace_discrepancy(a, a[:, [2, 0, 3, 1]], scale).abs().max() < 1e-14
    one, other = torch.zeros(1, 1, 3, dtype=torch.float64), torch.full((1, 1, 3), 2.0, dtype=torch.float64)
    found = laplace_discrepancy(one, other, scale[1:])
    assert float(found) == pytest.approx(2 - 2 * math.exp(-2.0 * 2 * math.sqrt(3) / 3))
    t = torch.tensor([0.3, 1.2], dtype=torch.float64)
    log_snr = -2 * torch.log(torch.tan(t))
    expected = 0.5 * torch.sigmoid(5 - log_snr) * 2 / (torch.sin(t) * torch.cos(t)) * torch.cos(t) ** 2
    torch.testing.assert_close(imm_weight(TrigFlow(1.0), t, power=2.0), expected)


def test_the_correction_of_free_flow_by_hand():
    """``g = (v_real - v_fake) / (mean square + c)`` with ``v = (x_t - x0) / t``: x moves to the teacher's x0."""
    x_t, real, fake = (torch.randn(4, 3, dtype=torch.float64) for _ in range(3))
    x, t = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.full((4,), 0.8, dtype=torch.float64)
    said = [Prediction(FLOW, x_t, t, x0, "x0") for x0 in (real, fake)]
    gap = (fake - real) / 0.8
    expected = gap / (gap.square().mean(1, keepdim=True) + 0.1) ** 0.5 / 12
    loss = VelocityGapForm(0.1, 0.5)(x, *said)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


def test_the_correction_beside_the_prediction():
    """By default: a critic by flow matching, in turns with the student."""
    method = built(FreeFlow, extras="published")
    assert method.roles() == ("student", "critic")
    assert [method.all_turns(i) for i in range(3)] == [("student",), ("critic",), ("student",)]
    (term,) = method.each_extra()
    assert term.form == VelocityGapForm() and term.critic_objective.target == "velocity"
