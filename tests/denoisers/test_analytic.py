"""Exact denoisers against identities, quadrature, Monte Carlo and each other."""

from __future__ import annotations

import math

import pytest
import torch

from fastgen.conditions import Condition
from fastgen.denoisers.exact.gaussians import ExactDenoiser, GaussianDenoiser, MixtureDenoiser
from fastgen.denoisers.exact.mixtures import EmpiricalDenoiser, ImageMixture, LowRankMixtureDenoiser, RingMixture
from fastgen.errors import UserError
from fastgen.processes import EDM, VP, RectifiedFlow, TrigFlow
from fastgen.storage.files import save_tensors

PROCESSES = {"edm": EDM(), "vp": VP(), "flow": RectifiedFlow(), "trig": TrigFlow()}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(process, **kwargs):
    bases = torch.linalg.qr(normal(3, 6, 2, seed=1)).Q
    variances = normal(3, 2, seed=2).square()
    return LowRankMixtureDenoiser(
        process, normal(3, 1, 2, 3), bases, variances, [0.1, 0.2, 0.3], weights=[1, 2, 3], **kwargs
    )


def gaussian(process):
    root = normal(4, 4)
    return GaussianDenoiser(process, [[1.0, -0.5], [0.3, 0.0]], root @ root.T / 4)


LAWS = {
    "gaussian": gaussian,
    "mixture": lambda process: MixtureDenoiser(process, normal(5, 3), [0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 3, 4, 5]),
    "classes": lambda process: MixtureDenoiser(process, normal(5, 3), 0.3, classes=[0, 0, 1, 2, 2]),
    "low_rank": low_rank,
    "low_rank_classes": lambda process: low_rank(process, classes=[0, 1, 1]),
    "empirical": lambda process: EmpiricalDenoiser(process, normal(20, 1, 2, 2), torch.arange(20) % 4, std=0.1),
    "ring": lambda process: RingMixture(process, num_classes=4),
}


@pytest.fixture(params=LAWS)
def make(request):
    return LAWS[request.param]


def batch(law: ExactDenoiser, count: int = 5) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """Noisy data at noise-to-signal ratios from 0.1 to 10; labels include the null label."""
    t = law.process.time(torch.logspace(-1, 1, count, dtype=torch.float64))
    label = torch.arange(count) % (law.num_classes + 1)
    condition = {"label": label} if law.num_classes else {}
    x0 = law.sample(count, torch.Generator().manual_seed(3), condition.get("label"), torch.float64)
    return law.process.add_noise(x0, normal(*x0.shape, seed=4), t), t, condition


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_tweedie(make, process):
    """The identity alpha E[x0 | x_t] = x_t + sigma^2 grad log p_t(x_t), with the gradient by autograd."""
    law = make(process)
    x_t, t, condition = batch(law)
    x_t.requires_grad_()
    (score,) = torch.autograd.grad(law.log_density(x_t, t, condition).sum(), x_t)
    prediction = law(x_t, t, condition)
    alpha, sigma = (c.reshape(-1, *[1] * (x_t.ndim - 1)) for c in process.coefficients(t))
    torch.testing.assert_close(alpha * prediction.x0, x_t + sigma**2 * score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prediction.score, score, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_same_answer_on_every_process(make, process):
    law, reference = make(process), make(EDM())
    x_t, t, condition = batch(law)
    x, sigma = process.warp(x_t, t, reference.process)
    torch.testing.assert_close(law(x_t, t, condition).x0, reference(x, sigma, condition).x0)
    shift = x_t[0].numel() * process.alpha(t).log()
    torch.testing.assert_close(law.log_density(x_t, t, condition) + shift, reference.log_density(x, sigma, condition))


def test_posterior_by_quadrature():
    """E[x0 | x] of a one-dimensional mixture, integrated on a grid."""
    law = MixtureDenoiser(RectifiedFlow(), [[-1.0], [0.5], [2.0]], [0.1, 0.3, 0.2], [1, 2, 1])
    x0 = torch.linspace(-6, 6, 40001, dtype=torch.float64)[:, None]
    prior = law.log_prob(x0).exp()
    assert float(torch.trapezoid(prior, x0[:, 0])) == pytest.approx(1.0, abs=1e-10)
    for time, x_t in ((0.2, -0.4), (0.5, 0.7), (0.9, -1.0)):
        likelihood = torch.exp(-0.5 * ((x_t - (1 - time) * x0[:, 0]) / time) ** 2)
        expected = (prior * likelihood * x0[:, 0]).sum() / (prior * likelihood).sum()
        answer = law(torch.tensor([[x_t]], dtype=torch.float64), torch.tensor([time], dtype=torch.float64)).x0
        assert float(answer) == pytest.approx(float(expected), abs=1e-9)


def test_posterior_by_monte_carlo(make):
    """Self-normalised importance sampling with 200 000 samples of the data, at a noise level that overlaps them."""
    law = make(EDM())
    sigma = 1.0
    x0 = law.sample(200_000, torch.Generator().manual_seed(0), dtype=torch.float64).flatten(1)
    x = law.sample(1, torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    weight = torch.softmax(-0.5 * ((x0 - x.flatten()) / sigma).square().sum(1), 0)
    answer = law(x, torch.tensor([sigma], dtype=torch.float64)).x0.flatten()
    torch.testing.assert_close(answer, weight @ x0, rtol=0, atol=0.02)


def test_log_prob_of_the_low_rank_mixture():
    law = low_rank(EDM())
    x = law.sample(7, torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = []
    for k in range(3):
        covariance = law.bases[k] @ law.subspace_variances[k].diag() @ law.bases[k].T
        covariance += law.variances[k] * torch.eye(6, dtype=torch.float64)
        component = torch.distributions.MultivariateNormal(law.means[k], covariance)
        parts.append(component.log_prob(x.flatten(1)) + law.mixing[k].log())
    torch.testing.assert_close(law.log_prob(x), torch.stack(parts).logsumexp(0))


def test_gaussian_closed_form():
    law = gaussian(EDM())
    x, sigma = normal(6, 2, 2), 0.7
    gain = law.covariance @ torch.linalg.inv(law.covariance + sigma**2 * torch.eye(4))
    expected = law.mean + (x.flatten(1) - law.mean) @ gain.T
    t = torch.full((6,), sigma, dtype=torch.float64)
    torch.testing.assert_close(law(x, t).x0.flatten(1), expected)
    reference = torch.distributions.MultivariateNormal(law.mean, law.covariance)
    torch.testing.assert_close(law.log_prob(x), reference.log_prob(x.flatten(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("process", [RectifiedFlow(), TrigFlow()], ids=["flow", "trig"])
def test_pure_noise_gives_the_prior_mean(make, process, dtype):
    law = make(process)
    answer = law(normal(3, *law.sample_shape).to(dtype), torch.full((3,), process.t_max, dtype=dtype)).x0
    assert answer.dtype == dtype
    expected = law.mean.reshape(law.sample_shape).to(dtype).expand_as(answer)
    torch.testing.assert_close(answer, expected, rtol=1e-6, atol=1e-6)


def test_no_noise_gives_the_sample(make):
    law = make(RectifiedFlow())
    x = law.sample(4, torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(law(x, torch.full((4,), 1e-9, dtype=torch.float64)).x0, x, rtol=0, atol=1e-6)


def test_gradient_and_second_gradient(make):
    law = make(TrigFlow())
    x_t, t, condition = batch(law, 3)
    x_t.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: law(x, t, condition).x0, x_t)
    assert torch.autograd.gradgradcheck(lambda x: law(x, t, condition).x0, x_t)


def test_derivative_along_time(make):
    law = make(RectifiedFlow())
    x_t, t, condition = batch(law)
    _, slope = torch.func.jvp(lambda t: law.predict(x_t, t, condition), (t,), (torch.ones_like(t),))
    central = (law.predict(x_t, t + 1e-6, condition) - law.predict(x_t, t - 1e-6, condition)) / 2e-6
    torch.testing.assert_close(slope, central, rtol=1e-5, atol=1e-6)


def test_posterior_covariance_is_the_jacobian(make):
    """With alpha = 1, Cov[x0 | x_t] = sigma^2 d E[x0 | x_t] / d x_t: the Jacobian is symmetric and not negative."""
    law = make(EDM())
    x_t, t, condition = batch(law, 1)
    jacobian = torch.autograd.functional.jacobian(lambda x: law(x, t, condition).x0, x_t)
    jacobian = jacobian.reshape(law.dimension, law.dimension)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=1e-9, atol=1e-10)
    assert float(torch.linalg.eigvalsh(jacobian).min()) > -1e-12


def test_samples_follow_the_law(make):
    law = make(EDM())
    x = law.sample(40_000, torch.Generator().manual_seed(0), dtype=torch.float64).flatten(1)
    torch.testing.assert_close(x.mean(0), law.mean, rtol=0, atol=0.04)
    torch.testing.assert_close(x.T.cov(), law.covariance, rtol=0, atol=0.08)
    assert law.sample(3).shape == (3, *law.sample_shape) and law.sample(3).dtype == torch.float32


def test_samples_repeat():
    law = RingMixture(EDM(), num_classes=4)
    first, second = (law.sample(9, torch.Generator().manual_seed(5), torch.arange(9) % 4) for _ in range(2))
    assert torch.equal(first, second)


def test_classes_are_the_restricted_mixtures():
    whole = LAWS["classes"](EDM())
    means = whole.means
    x_t, t = normal(6, 3), torch.full((6,), 0.8, dtype=torch.float64)
    for label, members in ((0, [0, 1]), (1, [2]), (2, [3, 4])):
        alone = MixtureDenoiser(EDM(), means[members], 0.3)
        condition = {"label": torch.full((6,), label)}
        torch.testing.assert_close(whole(x_t, t, condition).x0, alone(x_t, t).x0)
        torch.testing.assert_close(whole.log_density(x_t, t, condition), alone.log_density(x_t, t))
        torch.testing.assert_close(whole.log_prob(x_t, condition["label"]), alone.log_prob(x_t))


def test_samples_of_a_class():
    law = MixtureDenoiser(EDM(), [[0.0], [5.0], [10.0], [15.0]], 0.2, [1, 3, 1, 1], classes=[0, 0, 1, 2])
    label = torch.tensor([0, 1, 2, 3]).repeat_interleave(500)
    kind = law.responsibilities(law.sample(2000, torch.Generator().manual_seed(0), label)).argmax(1)
    counts = [torch.bincount(kind[label == value], minlength=4).tolist() for value in range(4)]
    assert counts[1] == [0, 0, 500, 0] and counts[2] == [0, 0, 0, 500]
    assert counts[0][2:] == [0, 0] and abs(counts[0][1] - 375) < 40
    assert min(counts[3]) > 50


def test_null_condition_is_the_whole_law():
    law = RingMixture(EDM(), num_classes=4)
    x_t, t, _ = batch(law)
    condition = {"label": torch.tensor([0, 1, 2, 3, 0])}
    null = law.null_condition(condition)
    assert null["label"].tolist() == [4] * 5
    unconditional = RingMixture(EDM())
    assert torch.equal(law(x_t, t, null).x0, law(x_t, t).x0)
    torch.testing.assert_close(law(x_t, t, null).x0, unconditional(x_t, t).x0)
    torch.testing.assert_close(law.log_density(x_t, t, null), unconditional.log_density(x_t, t))
    with pytest.raises(UserError, match="guidance"):
        unconditional.null_condition(condition)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_guidance_is_the_score_of_the_tilted_density(process):
    """``uncond + w (cond - uncond)`` is the score of p(x)^(1-w) p(x | y)^w, for the x0 predictions as well."""
    law, scale = RingMixture(process, num_classes=4), 2.5
    x_t, t, _ = batch(law)
    x_t.requires_grad_()
    condition = {"label": torch.tensor([0, 1, 2, 3, 0])}
    tilted = (1 - scale) * law.log_density(x_t, t) + scale * law.log_density(x_t, t, condition)
    (score,) = torch.autograd.grad(tilted.sum(), x_t)
    guided = law(x_t, t, condition).guided(law(x_t, t, law.null_condition(condition)), scale)
    torch.testing.assert_close(guided.score, score, rtol=1e-8, atol=1e-8)


def test_ring():
    law = RingMixture(EDM())
    assert law.means.shape == (8, 2)
    torch.testing.assert_close(law.means.norm(dim=1), torch.full((8,), 1.25, dtype=torch.float64))
    assert (12 * law.mixing).tolist() == pytest.approx([1, 2] * 4)
    spread = math.sqrt(1.25**2 / 2 + 0.1**2)
    torch.testing.assert_close(law.covariance, spread**2 * torch.eye(2, dtype=torch.float64))
    assert RingMixture(EDM(), alternate=False).mixing.tolist() == pytest.approx([1 / 8] * 8)
    assert RingMixture(EDM(), modes=12, num_classes=4).classes.tolist() == [0, 1, 2, 3] * 3


def test_image_mixture():
    law = ImageMixture(EDM(), conditional=True)
    assert law.sample_shape == (1, 16, 16) and law.num_classes == 10
    x = law.sample(200, torch.Generator().manual_seed(0))
    assert 0.2 < float(x.std()) < 0.6
    assert torch.equal(law.means, ImageMixture(EDM()).means)
    assert not torch.equal(law.means, ImageMixture(EDM(), seed=1).means)
    labels = torch.arange(200) % 10
    x = law.sample(200, torch.Generator().manual_seed(0), labels)
    assert torch.equal(law.responsibilities(x).argmax(1), labels)


def test_empirical_law_without_smoothing():
    data = normal(6, 2)
    law = EmpiricalDenoiser(EDM(), data)
    noise_free = law(data, torch.full((6,), 1e-3, dtype=torch.float64)).x0
    torch.testing.assert_close(noise_free, data)
    far = law(data, torch.full((6,), 1e6, dtype=torch.float64)).x0
    torch.testing.assert_close(far, data.mean(0).expand(6, 2), rtol=1e-5, atol=1e-5)


def test_empirical_law_from_a_file(tmp_path):
    data, label = normal(6, 1, 2, 2).float(), torch.arange(6) % 2
    path = str(save_tensors(tmp_path / "data.safetensors", {"samples": data, "label": label}))
    law = EmpiricalDenoiser(EDM(), path, std=0.1)
    assert law.num_classes == 2 and law.sample_shape == (1, 2, 2)
    torch.testing.assert_close(law.means, data.flatten(1).double())
    with pytest.raises(UserError, match="no tensor 'samples'"):
        EmpiricalDenoiser(EDM(), str(save_tensors(tmp_path / "other.safetensors", {"images": data})))


def test_parameters_are_buffers_that_stay_exact():
    law = low_rank(EDM())
    assert not list(law.parameters())
    before = law.means.clone()
    law.to(torch.bfloat16)
    assert torch.equal(law.means, before) and law.means.dtype == torch.float64
    assert law.to("meta").means.device.type == "meta"


def test_half_precision_input_is_widened():
    law = RingMixture(RectifiedFlow())
    x_t, t = normal(3, 2), torch.full((3,), 0.4)
    answer = law(x_t.bfloat16(), t)
    assert answer.x0.dtype == torch.float32
    torch.testing.assert_close(answer.x0.double(), law(x_t.bfloat16().double(), t.double()).x0, rtol=1e-5, atol=1e-5)


def test_second_time_is_refused():
    with pytest.raises(UserError, match="not a flow map"):
        RingMixture(EDM())(normal(1, 2), torch.ones(1), s=torch.ones(1))


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: GaussianDenoiser(EDM(), [0.0, 0.0], [[1.0]]), "symmetric of shape"),
        (lambda: GaussianDenoiser(EDM(), [0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "negative eigenvalue"),
        (
            lambda: MixtureDenoiser(EDM(), [[0.0], [1.0]], 0.1, [1.0, 0.0]),
            r"weights\[1\] must be .* above 0",
        ),
        (lambda: MixtureDenoiser(EDM(), [[0.0], [1.0]], 0.1, [1.0]), "one weight for each of the 2"),
        (lambda: MixtureDenoiser(EDM(), [[0.0], [1.0]], 0.1, classes=[0]), "one class for each"),
        (lambda: MixtureDenoiser(EDM(), [[0.0], [1.0]], 0.1, classes=[0, 2]), "classes must be 0 to 2"),
        (lambda: LowRankMixtureDenoiser(EDM(), [[0.0, 0.0]], [[[1.0], [1.0]]], [[1.0]], 0.1), "orthonormal"),
        (lambda: LowRankMixtureDenoiser(EDM(), [[0.0, 0.0]], [[[1.0]]], [[1.0]], 0.1), "bases must have shape"),
    ],
)
def test_wrong_arguments(construct, message):
    with pytest.raises(UserError, match=message):
        construct()
