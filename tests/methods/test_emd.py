"""EMD: its chain against exact second moments, its direction against Diff-Instruct and a closed form (fp64)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pytest
import torch
from methods.test_closed_form import (
    COVARIANCE,
    CRITIC_COVARIANCE,
    CRITIC_MEAN,
    MEAN,
    Generator,
    LearnedGaussian,
    built,
    by_process,
    micro_batch,
)
from torch import Tensor

from benchmarks.emd_variance import SIGMA, TRUTH, G, estimates
from fastgen.conditions import Condition
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.errors import UserError
from fastgen.methods import EMD, ScoreDistiller
from fastgen.objectives.score_forms import IKLForm
from fastgen.processes import VP, Process
from fastgen.sampling.langevin import Langevin
from fastgen.sampling.samplers import RenoiseSampler
from fastgen.times import UniformTime

V, V_T = G**2 + SIGMA**2, 1.3**2 + SIGMA**2
LEVELS = UniformTime(0.3, 0.7)


def drift(latent: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """1-D, g = G z, alpha 1, teacher N(0, 1.3^2), exact critic."""
    d = (1.0 / V - 1.0 / V_T) * (G * latent + SIGMA * noise)
    return G * d, SIGMA * d


def expected(corrector: Langevin) -> float:
    """E (1/sigma) sum sign z noise, exactly: of a quadratic form in normal numbers it is the sum over unit vectors."""
    units = torch.eye(2 * corrector.steps + 2, dtype=torch.float64)
    kicks = [(units[:, 2 + i], units[:, 2 + corrector.steps + i]) for i in range(corrector.steps)]
    products = corrector.products(units[:, 0], units[:, 1], kicks, drift)
    return sum(p.sign * (p.latent * p.noise).sum().item() for p in products) / SIGMA


@pytest.mark.parametrize("cancel", ["reference", "nothing"])
def test_many_small_steps_give_the_gradient_of_the_likelihood(cancel: Literal["reference", "nothing"]):
    """``d/da E log p = (a / V) (V_T / V - 1)``; the error falls with the step."""
    errors = [abs(expected(Langevin(n, h, h, cancel)) - G / V * (V_T / V - 1.0)) for n, h in ((200, 0.1), (2000, 0.01))]
    assert abs(G / V * (V_T / V - 1.0) - TRUTH) < 1e-12 and errors[1] < 0.2 * errors[0] and errors[1] < 1e-3


def test_the_reference_product_has_no_bias_of_its_own_and_the_injected_one_has():
    for slow, steps in ((0.16, 64), (1.6e-5, 16)):
        plain, reference = (expected(Langevin(steps, 0.16, slow, cancel)) for cancel in ("nothing", "reference"))
        assert abs(plain - reference) < 1e-12
    assert abs(expected(Langevin(64, 0.16, 0.16, "nothing")) - 0.653) < 0.01
    assert expected(Langevin(64, 0.16, 0.16, "injected")) < -0.4, "wrong sign: the latent moves"


def test_the_variance_beside_the_plain_chain():
    """What ``benchmarks/results/emd_variance.md`` shows with more samples."""
    for (steps, slow), at_most in (((16, 1.6e-5), 0.1), ((64, 0.16), 0.35)):
        plain, reference = (
            estimates(Langevin(steps, 0.16, slow, cancel), 40_000) for cancel in ("nothing", "reference")
        )
        assert reference.var() < at_most * plain.var()
        assert abs(reference.mean() - expected(Langevin(steps, 0.16, slow, "reference"))) < 0.02


class Through(Generator):
    """The linear generator with a gradient in its latent."""

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return (x_t / self.process.start(torch.ones_like(x_t), t)) @ self.a.T + self.b


def made(process: Process, **kwargs: Any) -> EMD:
    method = built(
        EMD,
        partial(GaussianDenoiser, process, MEAN, COVARIANCE),
        partial(LearnedGaussian, process),
        partial(Through, process),
        renoise_time=LEVELS,
        **kwargs,
    )
    assert isinstance(method, EMD)
    return method


def gradients(method: ScoreDistiller) -> list[Tensor]:
    with method.only("student"):
        (loss,) = method.student_loss(micro_batch()).values()
        loss.backward()
    assert all(p.grad is None for p in method.critic.parameters())
    return [p.grad.clone() for p in method.student.parameters()]


@by_process
def test_where_critic_and_teacher_agree_nothing_is_asked_for(process: Process):
    law = partial(GaussianDenoiser, process, CRITIC_MEAN, CRITIC_COVARIANCE)
    method = made(process, corrector=Langevin(3, 0.16, 0.01))
    method.teacher = law().requires_grad_(False)
    assert max(g.abs().max() for g in gradients(method)) < 1e-9
    noisy = made(process, corrector=Langevin(3, 0.16, 0.01, "nothing"))
    noisy.teacher = law().requires_grad_(False)
    assert max(g.abs().max() for g in gradients(noisy)) > 1e-3


@by_process
def test_one_step_with_the_latent_at_rest_is_diff_instruct_times_half_the_step(process: Process):
    method = made(process, corrector=Langevin(1, 0.16, 0.0))
    found = gradients(method)
    other, part = made(process), micro_batch()
    draws = part.draws.scoped("student/renoise")
    z, noise = (draws.normal(name, (3,), torch.float64) for name in ("latent", "noise"))
    t = LEVELS.sample(draws, process)
    x = other.sampler.rollout(other.student, draws, {}, torch.float64, z).x0
    x_t = process.add_noise(x.detach(), noise, t)
    real, fake = (network(x_t, t) for network in (other.teacher, other.critic))
    (0.08 * IKLForm()(x, real, fake.detach())).backward()
    for one, parameter in zip(found, other.student.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-6, atol=1e-8)


def test_the_latent_is_pushed_through_the_generator():
    """``alpha J^T d`` of the linear generator, by hand."""
    process = VP()
    method, part = made(process), micro_batch(4)
    draws = part.draws.scoped("x")
    z, noise = (draws.normal(name, (3,), torch.float64) for name in ("latent", "noise"))
    t = LEVELS.sample(draws, process)
    to_latent, to_noise = method.drift(
        part, lambda v: method.sampler.rollout(method.student, draws, {}, torch.float64, v), t
    )(z, noise)
    x = z @ method.student.a.T + method.student.b
    alpha, sigma = (c[:, None] for c in process.coefficients(t))
    x_t = alpha * x + sigma * noise
    d = alpha / sigma**2 * (method.teacher(x_t, t).x0 - method.critic(x_t, t).x0)
    torch.testing.assert_close(to_noise, (sigma * d).detach(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(to_latent, (alpha * d @ method.student.a).detach(), rtol=1e-8, atol=1e-10)


def test_several_calls_are_refused():
    with pytest.raises(UserError, match="a single call"):
        EMD(teacher=lambda: None, sampler=RenoiseSampler([5.0, 1.0]))  # type: ignore[arg-type, return-value]
