"""Uni-Instruct: an f-divergence expanded over noise levels, whose density ratio stays in the graph."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from every_method import fit
from torch import Tensor, nn
from toys import CLASSES, build

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods import UniInstruct
from fastgen.methods.distribution_matching.density_ratios import EPSILON
from fastgen.objectives.distribution_matching import mean_absolute_gap
from fastgen.objectives.divergences import ChiSquare, Divergence, ForwardKL, Jeffreys, JensenShannon, ReverseKL
from fastgen.objectives.score_forms import SiDForm
from fastgen.objectives.score_identity import expansion_loss
from fastgen.processes import EDM, Prediction
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler
from fastgen.times import LogNormalLevel

pytestmark = pytest.mark.filterwarnings("ignore")


# ---------------------------------------------------------------------- the gradient of the divergence

SIGMA = 0.7
EXACT: dict[Divergence, tuple[float, float]] = {
    ReverseKL(): (0.360344, -0.532346),
    ForwardKL(): (0.626517, -1.153235),
    JensenShannon(): (0.205379, -0.327701),
    Jeffreys(): (0.986861, -1.685582),
}
"""Gradients in mean and scale for data N(0, 1), generator N(0.4, 0.8^2), noise level 0.7 (addendum DM 11)."""


def nodes(count: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Points and weights of a Gauss-Hermite rule in the plane."""
    points, weights = (torch.tensor(values) for values in np.polynomial.hermite_e.hermegauss(count))
    z, noise = torch.meshgrid(points, points, indexing="ij")
    return z.flatten(), noise.flatten(), torch.outer(weights, weights).flatten() / (2.0 * math.pi)


def gaussian(x_t: Tensor, mean: Any, variance: Any) -> tuple[Prediction, Tensor]:
    """x0 prediction and log density of N(mean, variance) at ``x_t`` (B,)."""
    total = variance + SIGMA**2
    x0 = mean + variance / total * (x_t - mean)
    density = -0.5 * (x_t - mean) ** 2 / total - 0.5 * torch.log(torch.as_tensor(total, dtype=torch.float64))
    t = torch.full_like(x_t.detach(), SIGMA)
    return Prediction(EDM(), x_t[:, None], t, x0[:, None], "x0"), density


@pytest.mark.parametrize("divergence", [kind() for kind in Divergence.__subclasses__()], ids=str)
def test_it_is_the_gradient_of_the_divergence(divergence: Divergence):
    """Against E_q h(p/q) |s_real - s_fake|^2, differentiated through the density of the student as well."""
    z, noise, weights = nodes()
    mean, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 0.8))
    x_t = mean + scale * z + SIGMA * noise
    real, log_p = gaussian(x_t, 0.0, 1.0)
    moving, log_q = gaussian(x_t, mean, scale**2)
    integrand = divergence.weight((log_p - log_q).exp()) * (real.x0 - moving.x0)[:, 0].square() / SIGMA**4
    exact = torch.autograd.grad((weights * integrand).sum(), (mean, scale))

    x = mean + scale * z  # anew: the graph is gone
    x_t = x + SIGMA * noise
    real, log_p = gaussian(x_t, 0.0, 1.0)
    frozen, log_q = gaussian(x_t, 0.4, 0.64)
    omega = 2 * len(z) * weights / SIGMA**4
    loss = expansion_loss(x[:, None], real.x0, frozen.x0, (log_p - log_q).exp(), divergence, omega)
    found = torch.autograd.grad(loss, (mean, scale))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    if divergence in EXACT:
        assert [round(value.item(), 5) for value in exact] == [round(value, 5) for value in EXACT[divergence]]


# ---------------------------------------------------------------------- as a method


class Affine(Denoiser):
    """``x0 = mean + scale x_t``: from noise at level 1 the Gaussian N(mean, scale^2)."""

    def __init__(self) -> None:
        super().__init__(EDM(), "x0", (2,))
        self.mean = nn.Parameter(torch.tensor([0.4, -0.1], dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self.mean + self.scale * x_t


class Law(GaussianDenoiser):
    """A Gaussian that shows its answer as a feature."""

    feature_path = "seen"

    def __init__(self, mean: list[float], covariance: Tensor) -> None:
        super().__init__(EDM(), mean, covariance)
        self.seen = nn.Identity()

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self.seen(super().predict(x_t, t, condition, s))


class Exact(UniInstruct):
    """With the densities themselves in place of a discriminator."""

    def ratio_at_scores(self, part: MicroBatch) -> Tensor:
        inputs = self.score_inputs(part)
        return (self.teacher.log_density(inputs.x_t, inputs.t) - self.critic.log_density(inputs.x_t, inputs.t)).exp()


def method_and_part(divergence: Divergence) -> tuple[UniInstruct, MicroBatch]:
    method = Exact(
        divergence,
        teacher=partial(Law, [0.0, 0.0], torch.eye(2)),
        critic=partial(Law, [0.4, -0.1], 0.64 * torch.eye(2)),
        student=Affine,
        sampler=RenoiseSampler(level=1.0),
        renoise_time=LogNormalLevel(-0.5, 0.5),
        loss_scale=1.0,
    )
    method.configure_model()
    for mean in (method.ratio_means, method.weight_mean):
        mean.sub_(EPSILON)  # so that nothing is normalised
    return method, MicroBatch(None, {}, Draws(1, range(8), "train"))


def test_reverse_kl_is_sid_with_alpha_one_half():
    method, part = method_and_part(ReverseKL())
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(method.matching_losses(part)["match"], parameters, retain_graph=True)
    both, x = part.comparisons["critic"], part.score_inputs["critic"].rollout.x0
    expected = SiDForm(0.5, 1.0)(x, both.real, both.fake)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("divergence", [ForwardKL(), JensenShannon(), Jeffreys()])
def test_the_ratio_is_differentiated_in_both_factors(divergence: Divergence):
    """With r a constant two pieces are missing; ``dr/dx_t = r (s_real - s_fake)`` gives them, sample by sample."""
    method, part = method_and_part(divergence)
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(method.matching_losses(part)["match"], parameters, retain_graph=True)
    inputs, both = part.score_inputs["critic"], part.comparisons["critic"]
    x, x_t, ratio = inputs.rollout.x0, inputs.x_t, method.ratio_at_scores(part).detach()
    omega = mean_absolute_gap(x, both.real.x0).flatten().reciprocal()
    constant = expansion_loss(x, both.real.x0, both.fake.x0, ratio, divergence, omega)

    def first(r: Tensor) -> Tensor:
        h, slope = torch.func.jvp(divergence.weight, (r,), (r,))
        return h - slope

    _, first_slope = torch.func.jvp(first, (ratio,), (ratio,))
    _, h_slope = torch.func.jvp(divergence.weight, (ratio,), (ratio,))
    gap = (both.real.x0 - both.fake.x0).detach()
    factor = 0.5 * first_slope * gap.square().sum(1) + h_slope * (gap * (both.fake.x0 - x).detach()).sum(1)
    scores = gap / inputs.t[:, None].square()  # s_real - s_fake
    missing = ((omega * factor)[:, None] * scores * x_t).sum(1).mean()
    parts = [torch.autograd.grad(one, parameters, retain_graph=True) for one in (constant, missing)]
    for one, a, b in zip(found, *parts, strict=True):
        torch.testing.assert_close(one, a + b, rtol=1e-8, atol=1e-10)
        assert (b.abs() > 1e-3 * a.abs()).all(), "the pieces count"


def test_ratios_and_weights_are_normalised_over_the_batch():
    method, part = method_and_part(ForwardKL())
    method.ratio_means.fill_(2.0).sub_(EPSILON)
    method.weight_mean.fill_(3.0).sub_(EPSILON)
    inputs, both = method.score_inputs(part), method.comparison(part)
    x, omega = inputs.rollout.x0, mean_absolute_gap(inputs.rollout.x0, both.real.x0).flatten().reciprocal() / 3
    gap = both.real.x0 - both.fake.x0
    expected = (omega * method.ratio_at_scores(part) / 2 * (gap * (both.fake.x0 - x)).sum(1)).mean()
    torch.testing.assert_close(method.matching_losses(part)["match"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("divergence", [ForwardKL(), ChiSquare()])
def test_uni_instruct_trains_with_a_discriminator(divergence: Divergence):
    method = build(UniInstruct, divergence=divergence, gan_start=0, schedule=UpdateSchedule())
    fit(method, 2)
    assert not torch.equal(method.ratio_means, torch.ones(10)) and method.weight_mean != 1.0
    with method.only("student"):
        part = MicroBatch(None, {"label": torch.arange(4) % CLASSES}, Draws(1, range(4), "train"))
        x0 = method.score_inputs(part).rollout.x0
        (slope,) = torch.autograd.grad(method.ratio_at_scores(part).sum(), x0)
    assert bool((slope != 0).any(1).all()), "the discriminator's ratio is live"
