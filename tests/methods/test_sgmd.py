"""SGMD: the gradient through the critic's input in closed form, and what must not get one (fp64)."""

from __future__ import annotations

import inspect
from typing import Any

import oracles
import pytest
import torch
from methods.test_closed_form import (
    COVARIANCE,
    CRITIC_COVARIANCE,
    CRITIC_MEAN,
    MEAN,
    Asked,
    assert_generator_gradient,
    by_process,
    micro_batch,
    on_gaussians,
)

from fastgen.conditions import Guidance
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.methods import SGMD
from fastgen.methods.score_identity.sgmd import HIGH, LOW
from fastgen.objectives.score_gradient import SGMForm
from fastgen.processes import EDM, Prediction, Process, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.samplers import JumpSampler


def made(process: Process, **kwargs: Any) -> SGMD:
    method = on_gaussians(SGMD, process, guidance=Guidance(), sampler=JumpSampler(), **kwargs)
    assert isinstance(method, SGMD)
    return method


@by_process
@pytest.mark.parametrize("residual", [0.0, 0.1])
def test_the_gradient_in_closed_form(process: Process, residual: float):
    """``alpha J^T [(mu_fake - mu_real) / (n + 1e-8) - residual (mu_fake - x) / sigma]`` over the number of elements."""
    method, part = made(process, residual=residual), micro_batch()
    asked = Asked(method.teacher)
    with method.only("student"):
        (loss,) = method.student_loss(part).values()
        loss.backward()
    z = method.student.z[-1]
    x = z @ method.student.a.detach().T + method.student.b.detach()
    ((x_t, t),) = asked.calls
    alpha, sigma = process.coefficients(t)
    real = oracles.gaussian_x0(MEAN, COVARIANCE, x_t, alpha, sigma)
    fake = oracles.gaussian_x0(CRITIC_MEAN, CRITIC_COVARIANCE, x_t, alpha, sigma)
    slope = alpha[:, None, None] * oracles.gain(CRITIC_COVARIANCE, alpha, sigma)
    n = (x - real).abs().mean(1, keepdim=True) + 1e-8
    flow_sigma = (sigma / (alpha + sigma))[:, None]
    push = (fake - real) / n - residual * (fake - x) / flow_sigma
    assert_generator_gradient(method, oracles.times(slope.mT, push) / x.numel(), z)
    value = 0.5 * ((fake - real).square() / n).mean() - residual * 0.5 * ((fake - x) / flow_sigma).square().mean()
    torch.testing.assert_close(loss.detach(), value, rtol=1e-8, atol=0)


def test_teacher_and_critic_alike_ask_for_nothing():
    method, part = made(RectifiedFlow(), residual=0.0), micro_batch()
    method.teacher = method.critic
    with method.only("student"):
        (loss,) = method.student_loss(part).values()
        loss.backward()
    assert loss.item() == 0.0 and all(p.grad.abs().max() == 0.0 for p in method.student.parameters())


def test_a_critic_that_does_not_look_gives_no_gradient_and_the_teacher_never_does():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    t = torch.full((5,), 0.4, dtype=torch.float64)
    blind, real = torch.randn(2, 5, 3, dtype=torch.float64)
    x_t = 0.6 * x + 0.4
    loss = SGMForm(0.1)(
        x, Prediction(RectifiedFlow(), x_t, t, real + x, "x0"), Prediction(RectifiedFlow(), x_t, t, blind, "x0")
    )
    assert not loss.requires_grad, "neither x, nor the teacher's prediction, nor the normaliser leads to the student"
    method, part = made(EDM()), micro_batch()
    method.student_loss(part)
    found = part.comparisons["critic"]
    assert found.fake.value.requires_grad and not found.real.value.requires_grad


@pytest.mark.parametrize(("residual", "stationary"), [(0.0, 1.0), (0.1, 0.894), (0.2, 0.798)])
def test_the_residual_narrows_a_gaussian_by_as_much_as_the_docstring_says(residual: float, stationary: float):
    """Data N(0, 1), student N(0, a^2), exact critic: the mean gradient over the law of levels vanishes at a."""
    u = torch.linspace(0.0, 1.0, 4000, dtype=torch.float64)
    sigma = (5.0 * u / (1.0 + 4.0 * u)).clamp(0.02, 0.98)  # the code's law
    alpha = 1.0 - sigma

    def slope(a: float) -> float:
        kf, kt = alpha * a * a / (alpha**2 * a * a + sigma**2), alpha / (alpha**2 + sigma**2)
        # n = E |x - mu_T|, of a normal number with this deviation
        spread = ((1 - alpha * kt).square() * a * a + (kt * sigma).square()).sqrt()
        n = spread * (2 / torch.pi) ** 0.5
        gain = alpha**2 * kf * (kf - kt) * a / n + residual * alpha * kf * a * (1 - alpha * kf) / sigma
        return float(gain.mean())

    low, high = 0.3, 1.5
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    assert abs(low - stationary) < 0.02


def test_levels_are_those_of_the_code_between_its_ends():
    law, draws = inspect.signature(SGMD).parameters["renoise_time"].default, Draws(0, range(4000))
    t = law.sample(draws, RectifiedFlow())
    assert 0.02 <= t.min() < 0.03 and 0.97 < t.max() <= 0.98
    shifted = LOW + (HIGH - LOW) * draws.uniform("time")
    torch.testing.assert_close(t, 5.0 * shifted / (1.0 + 4.0 * shifted), rtol=1e-12, atol=0)


def test_other_ratios_of_updates_are_refused():
    with pytest.raises(UserError, match="set critic_updates to 1"):
        SGMD(teacher=lambda: None, schedule=UpdateSchedule(critic_updates=2))  # type: ignore[arg-type, return-value]
