"""Terms of the student alone, by hand in fp64: statistics shield, guidance within segments, the first step's anchor."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from methods.test_closed_form import B, Generator, TwoGaussians, by_process
from methods.test_matching import LAWS, labelled
from torch import Tensor
from toys import build

from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.denoisers.wrappers.guided import conditional_pair
from fastgen.distiller.base import Distiller
from fastgen.errors import UserError
from fastgen.extras import Extra, FirstStepAnchor, IntraSegmentGuidance, StatisticsShield
from fastgen.objectives.divergences import gaussian_kl
from fastgen.objectives.metrics import ElementwiseHuber, SquaredError
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, RenoiseSampler, Sampler, TrajectorySampler
from fastgen.sampling.solvers import Euler
from fastgen.times import Chain, WithinChain

pytestmark = pytest.mark.filterwarnings("ignore")


class Alone(Distiller):
    """A method whose loss is the extra's."""


def made(process: Process, extra: Extra, sampler: Sampler = RenoiseSampler(), teacher: Any = None) -> Any:
    teacher = teacher or partial(TwoGaussians, process, LAWS["teacher"])
    method = build(Alone, teacher=teacher, student=partial(Generator, process), extras=[extra], sampler=sampler)
    method.configure_model()
    method.__dict__["_trainer"] = type("", (), {"training": False, "global_step": 0})
    return method


def assert_gradients(method: Any, loss: Tensor, expected: Tensor) -> None:
    parameters = list(method.student.parameters())
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    found = torch.autograd.grad(loss, parameters, retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        assert other.abs().sum() > 0


def guided(teacher: Any, x: Tensor, t: Tensor, condition: Any, scale: Tensor | float) -> Tensor:
    cond, uncond = conditional_pair(teacher, x, t, condition)
    scale = scale[:, None] if isinstance(scale, Tensor) else scale
    return uncond.x0 + scale * (cond.x0 - uncond.x0)


def moved(process: Process, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Along x0 and the noise (x - alpha x0) / sigma."""
    (a, b), (c, d) = (tuple(v[:, None] for v in process.coefficients(u)) for u in (t, s))
    return c * x0 + d * (x - a * x0) / b


# ---------------------------------------------------------------------- statistics


def test_the_shield_is_a_divergence_of_gaussians():
    p, q = torch.distributions.Normal(0.3, 0.8), torch.distributions.Normal(0.075, 0.9)
    found = gaussian_kl(torch.tensor(0.3), torch.tensor(0.64), 0.075, 0.81)
    torch.testing.assert_close(found, torch.distributions.kl_divergence(p, q))
    assert gaussian_kl(torch.tensor(0.075), torch.tensor(0.81), 0.075, 0.81) == 0.0


def test_the_shield_by_hand():
    """The derivative in an element: ``[(m - m*) + (x - m) (1 - s*^2 / s^2)] / (D s*^2)``, a mean over samples."""
    method, part = made(RectifiedFlow(), StatisticsShield(weight=0.3)), labelled()
    loss = method.losses("student", part)["statistics"]
    x = part.rollouts["student"].x0
    m, v = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    value = 0.5 * ((v + (m - 0.075) ** 2) / 0.81 - 1 - (v / 0.81).log())
    torch.testing.assert_close(loss, 0.3 * value.mean(), rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(loss, x)
    expected = 0.3 * ((m - 0.075) + (x - m) * (1 - 0.81 / v)) / (3 * 0.81) / 8
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------- guidance within segments


@by_process
@pytest.mark.parametrize("step", range(3))
def test_a_step_is_worth_one_of_the_teacher_and_one_of_the_student(process: Process, step: int):
    times = [0.9 * process.t_max, 0.6 * process.t_max, 0.3 * process.t_max]
    law = WithinChain("anchor", "student", floor=0.0, margin=0.02)
    method = made(process, IntraSegmentGuidance(0.7, time=law, low=2.0, high=4.0), RenoiseSampler(times))
    part = labelled(8, step)
    loss = method.losses("student", part)["segment"]
    rollout = part.rollouts["student"]
    x, t = rollout.trajectory[-1].x_t.detach(), rollout.t
    end = torch.full_like(t, [*times[1:], process.t_clean][rollout.step])
    draws = part.draws.scoped("segment")
    middle, scale = law.given(Chain(t, end)).sample(draws, process), 2.0 + 2.0 * draws.uniform("guidance")
    assert bool((middle < t).all() and (middle > end).all())
    with torch.no_grad():
        between = moved(process, x, guided(method.teacher, x, t, part.condition, scale), t, middle)
        target = moved(process, between, method.student(between, middle).x0, middle, end)
    reached = moved(process, x, method.student(x, t).x0, t, end)
    assert_gradients(method, loss, 0.7 * (((reached - target).square() + 1e-6).sqrt() - 1e-3).mean())


@by_process
def test_nothing_is_left_to_learn_for_a_point(process: Process):
    """Teacher and student whose x0 is one point move along one line, wherever they are in between."""
    extra = IntraSegmentGuidance(low=1.0, high=1.0, metric=SquaredError())
    point = partial(GaussianDenoiser, process, B, 1e-24 * torch.eye(3, dtype=torch.float64))
    method = made(process, extra, RenoiseSampler([0.8 * process.t_max, 0.4 * process.t_max]), point)
    with torch.no_grad():
        method.student.a.zero_()
    assert method.losses("student", labelled())["segment"] < 1e-18


def test_what_tells_no_calls_is_refused():
    for extra in (IntraSegmentGuidance(), FirstStepAnchor()):
        with pytest.raises(UserError, match=r"tell(s)? its calls"):
            made(RectifiedFlow(), extra, TrajectorySampler()).losses("student", labelled())
        with pytest.raises(UserError, match="teacher"):
            build(Alone, teacher=None, student=partial(Generator, RectifiedFlow()), extras=[extra]).configure_model()
    with pytest.raises(UserError, match=r"low|high"):
        IntraSegmentGuidance(low=4.0, high=2.0)
    assert ElementwiseHuber(1e-3) == IntraSegmentGuidance().metric


# ---------------------------------------------------------------------- the first step


@by_process
@pytest.mark.parametrize("anchor", [1, 3, 5])
def test_the_first_call_leads_to_the_teachers_path(process: Process, anchor: int):
    """``weight mean (v - v*)^2``; on rectified flow ``v* = (z - z_k) / (1 - t_k)``."""
    solver = Euler(5, 2.5)
    method = made(process, FirstStepAnchor(0.05, solver=solver, anchor=anchor), JumpSampler(steps=3, stop="last"))
    part = labelled()
    loss = method.losses("student", part)["anchor"]
    first = part.rollouts["student"].trajectory[0]
    assert torch.equal(first.t, torch.full((8,), process.t_max, dtype=torch.float64))
    times = [torch.full_like(first.t, t) for t in [*process.grid(5), process.t_clean][: anchor + 1]]
    x = start = first.x_t.detach()
    with torch.no_grad():
        for t, s in pairwise(times):
            x = moved(process, x, guided(method.teacher, x, t, part.condition, 2.5), t, s)
    (a, b), (c, d) = (tuple(v[:, None] for v in process.coefficients(u)) for u in (times[0], times[-1]))
    x0 = (b * x - d * start) / (b * c - d * a)  # the line a x0 + b noise = start, c x0 + d noise = x
    noise = (c * start - a * x) / (b * c - d * a)
    if isinstance(process, RectifiedFlow):
        torch.testing.assert_close(noise - x0, (start - x) / (1.0 - times[-1][:, None]), rtol=1e-9, atol=1e-9)
    made_x0 = method.student(start, first.t).x0
    velocity = (start - a * made_x0) / b - made_x0
    assert_gradients(method, loss, 0.05 * (velocity - (noise - x0)).square().mean())


def test_an_anchor_beyond_the_path_is_refused():
    with pytest.raises(UserError, match="anchor must be"):
        FirstStepAnchor(solver=Euler(5), anchor=6)
