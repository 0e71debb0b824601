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
from fastgen.extras import GAN
from fastgen.methods import SiD
from fastgen.objectives.distribution_matching import mean_absolute_gap
from fastgen.objectives.divergences import WEIGHTS, Divergence
from fastgen.objectives.score_forms import SiDForm
from fastgen.processes import EDM, Prediction
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler
from fastgen.times import LogNormalLevel

pytestmark = pytest.mark.filterwarnings("ignore")


def expansion_loss(
    x: Tensor, real: Prediction, fake: Prediction, ratio: Tensor, divergence: Divergence, omega: Tensor
) -> Tensor:
    """``mean_B sum omega {(h - r h') |D|^2 + 2 h D (mu_fake - x)}`` with ``D = mu_real - mu_fake``.

    ``h = r^2 f''`` of the divergence. ``ratio`` r (B,) of the teacher's density to the student's at ``x_t``, like both
    predictions, must carry gradients to ``x_t``: the networks are frozen, and what they are asked about is not.
    """
    h, slope = torch.func.jvp(WEIGHTS[divergence], (ratio,), (ratio,))  # slope = r h'
    gap = (real.x0 - fake.x0).flatten(1)
    sides = (h - slope) * gap.square().sum(1) + 2.0 * h * (gap * (fake.x0 - x).flatten(1)).sum(1)
    return (omega * sides).mean()


class UniInstruct(SiD):
    """Uni-Instruct (arXiv 2505.20755, github.com/a-little-hoof/Uni_Instruct): SiD for any f-divergence.

    The ratio is ``exp D(x_t)`` of a discriminator where the scores are compared, and differentiated there. Reverse KL
    is twice SiD with alpha = 1/2. (The published code's ratio is 1 to three digits whatever the samples are.)
    """

    def __init__(self, divergence: Divergence = "forward_kl", **kwargs: Any) -> None:
        extras = kwargs.pop("extras", [GAN(features="critic", weight=0.01, at_scores=True)])
        super().__init__(extras=extras, **kwargs)
        self.divergence = divergence

    def ratio(self, part: MicroBatch) -> Tensor:
        """Of densities, (B,), with its graph to ``x_t``."""
        (gan,) = self.each_extra()
        return gan.logits_at_scores(self, part).mean(1).clamp(-10.0, 10.0).exp()

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        x, found, ratio = self.score_inputs(part).rollout.x0, self.comparison(part), self.ratio(part)
        omega = mean_absolute_gap(x, found.real.x0).clamp(min=1e-5).flatten().reciprocal()
        return {"match": expansion_loss(x, found.real, found.fake, ratio, self.divergence, omega)}


# ---------------------------------------------------------------------- the gradient of the divergence

SIGMA = 0.7
EXACT: dict[Divergence, tuple[float, float]] = {
    "reverse_kl": (0.360344, -0.532346),
    "forward_kl": (0.626517, -1.153235),
    "jensen_shannon": (0.205379, -0.327701),
    "jeffreys": (0.986861, -1.685582),
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


@pytest.mark.parametrize("divergence", WEIGHTS)
def test_it_is_the_gradient_of_the_divergence(divergence: Divergence):
    """Against E_q h(p/q) |s_real - s_fake|^2, differentiated through the density of the student as well."""
    z, noise, weights = nodes()
    mean, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 0.8))
    x_t = mean + scale * z + SIGMA * noise
    real, log_p = gaussian(x_t, 0.0, 1.0)
    moving, log_q = gaussian(x_t, mean, scale**2)
    integrand = WEIGHTS[divergence]((log_p - log_q).exp()) * (real.x0 - moving.x0)[:, 0].square() / SIGMA**4
    exact = torch.autograd.grad((weights * integrand).sum(), (mean, scale))

    x = mean + scale * z  # anew: the graph is gone
    x_t = x + SIGMA * noise
    real, log_p = gaussian(x_t, 0.0, 1.0)
    frozen, log_q = gaussian(x_t, 0.4, 0.64)
    omega = len(z) * weights / SIGMA**4
    loss = expansion_loss(x[:, None], real, frozen, (log_p - log_q).exp(), divergence, omega)
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


class Exact(UniInstruct):
    """With the densities themselves in place of a discriminator."""

    def ratio(self, part: MicroBatch) -> Tensor:
        inputs = self.score_inputs(part)
        return (self.teacher.log_density(inputs.x_t, inputs.t) - self.critic.log_density(inputs.x_t, inputs.t)).exp()


def method_and_part(divergence: Divergence) -> tuple[UniInstruct, MicroBatch]:
    law = partial(GaussianDenoiser, EDM())
    method = Exact(
        divergence,
        teacher=partial(law, [0.0, 0.0], torch.eye(2)),
        critic=partial(law, [0.4, -0.1], 0.64 * torch.eye(2)),
        student=Affine,
        sampler=RenoiseSampler(level=1.0),
        renoise_time=LogNormalLevel(-0.5, 0.5),
        extras=[],
    )
    method.configure_model()
    return method, MicroBatch(None, {}, Draws(1, range(8), "train"))


def test_reverse_kl_is_twice_sid_with_alpha_one_half():
    method, part = method_and_part("reverse_kl")
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(method.matching_losses(part)["match"], parameters, retain_graph=True)
    both, x = part.comparisons["critic"], part.score_inputs["critic"].rollout.x0
    twice = 2.0 * SiDForm(0.5, 1.0)(x, both.real, both.fake)
    for one, other in zip(found, torch.autograd.grad(twice, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("divergence", ["forward_kl", "jensen_shannon", "jeffreys"])
def test_the_ratio_is_differentiated_in_both_factors(divergence: Divergence):
    """With r a constant two pieces are missing; ``dr/dx_t = r (s_real - s_fake)`` gives them, sample by sample."""
    method, part = method_and_part(divergence)
    parameters = list(method.student.parameters())
    found = torch.autograd.grad(method.matching_losses(part)["match"], parameters, retain_graph=True)
    inputs, both = part.score_inputs["critic"], part.comparisons["critic"]
    x, x_t, ratio = inputs.rollout.x0, inputs.x_t, method.ratio(part).detach()
    omega = mean_absolute_gap(x, both.real.x0).flatten().reciprocal()
    constant = expansion_loss(x, both.real, both.fake, ratio, divergence, omega)

    def first(r: Tensor) -> Tensor:
        h, slope = torch.func.jvp(WEIGHTS[divergence], (r,), (r,))
        return h - slope

    _, first_slope = torch.func.jvp(first, (ratio,), (ratio,))
    _, h_slope = torch.func.jvp(WEIGHTS[divergence], (ratio,), (ratio,))
    gap = (both.real.x0 - both.fake.x0).detach()
    factor = first_slope * gap.square().sum(1) + 2.0 * h_slope * (gap * (both.fake.x0 - x).detach()).sum(1)
    scores = gap / inputs.t[:, None].square()  # s_real - s_fake
    missing = ((omega * factor)[:, None] * scores * x_t).sum(1).mean()
    parts = [torch.autograd.grad(one, parameters, retain_graph=True) for one in (constant, missing)]
    for one, a, b in zip(found, *parts, strict=True):
        torch.testing.assert_close(one, a + b, rtol=1e-8, atol=1e-10)
        assert (b.abs() > 1e-3 * a.abs()).all(), "the pieces count"


@pytest.mark.parametrize("divergence", ["forward_kl", "jensen_shannon"])
def test_uni_instruct_trains_with_a_discriminator(divergence: Divergence):
    method = build(UniInstruct, divergence=divergence)
    fit(method, 2)
    with method.only("student"):
        part = MicroBatch(None, {"label": torch.arange(4) % CLASSES}, Draws(1, range(4), "train"))
        x0 = method.score_inputs(part).rollout.x0
        (slope,) = torch.autograd.grad(method.ratio(part).sum(), x0)
    assert bool((slope != 0).any(1).all()), "the discriminator's ratio is live"
