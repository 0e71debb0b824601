import math

import numpy as np
import oracles
import pytest
import torch

from fastgen.denoisers.exact.gaussians import GaussianDenoiser
from fastgen.objectives.score_identity import InverseDistance, sid_loss
from fastgen.objectives.weights import FlowWeight
from fastgen.processes import EDM, VP, Prediction, Process, RectifiedFlow, TrigFlow


def images(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in seeds]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
def test_value_is_summed_over_a_sample_and_averaged_over_samples(alpha: float):
    x, real, fake = images(0, 1, 2)
    total = 0.0
    for i in range(3):
        xs, rs, fs = (value[i].flatten().tolist() for value in (x, real, fake))
        omega = 1.0 / (sum(abs(a - b) for a, b in zip(xs, rs, strict=True)) / 40)
        total += sum(omega * (r - f) * ((r - a) - alpha * (r - f)) for a, r, f in zip(xs, rs, fs, strict=True))
    assert abs(sid_loss(x, real, fake, alpha).item() - total / 3) < 1e-10


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_gradients_treat_only_the_weight_as_constant(alpha: float):
    x, real, fake = (value.requires_grad_() for value in images(0, 1, 2))
    sid_loss(x, real, fake, alpha).backward()
    with torch.no_grad():
        weight = 1.0 / (x - real).abs().mean((1, 2, 3), keepdim=True) / 3
        gap = real - fake
        inner = (real - x) - alpha * gap
    for value, expected in ((x, -gap), (real, inner + (1 - alpha) * gap), (fake, -inner + alpha * gap)):
        torch.testing.assert_close(value.grad, weight * expected, rtol=1e-10, atol=1e-13)


def test_floor_of_the_normaliser():
    _, real, fake = images(0, 1, 2)
    x = real + 1e-8
    by_hand = ((real - fake) * ((real - x) - (real - fake)) / 1e-5).sum() / 3
    torch.testing.assert_close(sid_loss(x, real, fake, 1.0), by_hand, rtol=1e-10, atol=0.0)
    by_hand = ((real - fake) * ((real - x) - (real - fake)) / 0.5).sum() / 3
    torch.testing.assert_close(
        sid_loss(x, real, fake, 1.0, InverseDistance(0.5)(x, real)), by_hand, rtol=1e-10, atol=0.0
    )


def test_non_finite_samples_are_not_hidden():
    x, real, fake = images(0, 1, 2)
    fake[0, 0, 0, 0] = float("nan")
    assert math.isnan(sid_loss(x, real, fake, 1.0).item())


def test_implicit_matching_with_the_square_is_alpha_one():
    """SIM (arXiv 2410.16794) with d(y) = |y|^2 / 2: -(mu_f - mu_r) . (mu_f - x), spec 9."""
    x, real, fake = images(0, 1, 2)
    weight = 1.0 / (x - real).abs().mean((1, 2, 3), keepdim=True)
    sim = (-weight * (fake - real) * (fake - x)).sum() / 3
    torch.testing.assert_close(sid_loss(x, real, fake, 1.0), sim, rtol=1e-10, atol=1e-12)


def gaussians(process: Process) -> tuple[GaussianDenoiser, GaussianDenoiser]:
    real = GaussianDenoiser(process, [0.3, -0.2], [[1.0, 0.4], [0.4, 0.5]])
    fake = GaussianDenoiser(process, [-0.5, 0.1], [[0.3, 0.0], [0.0, 0.9]])
    return real, fake


def test_inverse_distillation_is_twice_alpha_one_half():
    """RealUID(1, 1) (arXiv 2509.22459): |u_r - u|^2 - |u_f - u|^2 in velocities is 2 SiD(1/2) / t^2, gradient too."""
    process = RectifiedFlow()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, dtype=torch.float64, generator=g).requires_grad_()
    noise = torch.randn(6, 2, dtype=torch.float64, generator=g)
    t = 0.1 + 0.8 * torch.rand(6, dtype=torch.float64, generator=g)
    networks = gaussians(process)

    def predictions() -> list[Prediction]:
        return [network(process.add_noise(x, noise, t), t) for network in networks]

    real, fake = predictions()
    target = noise - x
    uid = ((real.velocity - target).square().sum(1) - (fake.velocity - target).square().sum(1)).sum()
    (by_uid,) = torch.autograd.grad(uid, x)
    real, fake = predictions()
    # Per sample, so that the weight omega (a constant) can be taken out.
    sid = torch.stack([sid_loss(x[i : i + 1], real.x0[i : i + 1], fake.x0[i : i + 1], 0.5) for i in range(6)])
    omega = 1.0 / (x - real.x0).detach().abs().mean(1)
    sid = (2.0 * sid / omega / t.square()).sum()
    (by_sid,) = torch.autograd.grad(sid, x)
    torch.testing.assert_close(uid, sid, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(by_uid, by_sid, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("process", "t"),
    [(EDM(), 0.7), (VP(), 400.0), (RectifiedFlow(), 0.4), (TrigFlow(), 0.6)],
    ids=["edm", "vp", "flow", "trig"],
)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_expected_gradient_is_that_of_the_fisher_divergence(process: Process, t: float, alpha: float):
    """With the exact critic, alpha = 1/2 is the whole derivative and alpha = 1 that at a fixed sampling distribution.

    One dimension, x = a z + b; the loss is quadratic in the normal numbers, so Gauss-Hermite expectations are exact.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    z, noise = (torch.from_numpy(v.copy()).flatten()[:, None] for v in np.meshgrid(nodes, nodes))
    weight = torch.from_numpy(np.outer(weights, weights).flatten() / weights.sum() ** 2)
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    real_mean, real_std = 0.5, 1.1
    time = torch.full((len(z),), t, dtype=torch.float64)
    coefficient, sigma = (float(c[0]) for c in process.coefficients(time))
    real = GaussianDenoiser(process, [real_mean], [[real_std**2]])
    critic = GaussianDenoiser(process, b.detach()[None], a.detach().square()[None, None])
    x = a * z + b
    x_t = process.add_noise(x, noise, time)
    floor = 1e9  # above every gap: the weight is the constant 1 / floor
    omega = InverseDistance(floor)(x, real(x_t, time).x0)
    losses = torch.stack(
        [
            floor
            * sid_loss(*(v[i : i + 1] for v in (x, real(x_t, time).x0, critic(x_t, time).x0)), alpha, omega[i : i + 1])
            for i in range(len(z))
        ]
    )
    measured = torch.autograd.grad((weight * losses).sum(), (a, b))
    whole = oracles.fisher_divergence(b, a, real_mean, real_std, coefficient, sigma)
    expected = torch.autograd.grad(whole, (a, b))
    if alpha == 1.0:  # less the part of the sampling distribution: the gap as a fixed function of x_t
        x_t = process.add_noise(a * z + b, noise, time)
        gap = real(x_t, time).x0 - critic(x_t, time).x0
        moved = torch.autograd.grad((weight * 0.5 * gap.square().sum(1)).sum(), (a, b))
        expected = tuple(e - m for e, m in zip(expected, moved, strict=True))
    for m, e in zip(measured, expected, strict=True):
        assert abs(m.item() - e.item()) < 1e-10 * abs(e.item()), (m, e)


def test_weights_of_the_noise_level_by_hand():
    """Sigma = ratio / (1 + ratio) is the time of rectified flow; 3 means sigma = 3/4."""
    ratio = torch.tensor([3.0, 1.0], dtype=torch.float64)
    wanted = {
        (2, -2): [1 / 9, 1.0],
        (1, -1): [1 / 3, 1.0],
        (0, -1): [4 / 3, 2.0],
        (0, -2): [16 / 9, 4.0],
        (1, 0): [0.25, 0.5],
        (2, 0): [1 / 16, 0.25],
    }
    for powers, values in wanted.items():
        torch.testing.assert_close(FlowWeight(*powers)(ratio), torch.tensor(values, dtype=torch.float64))
    x, real, fake = (torch.randn(2, 3, generator=torch.Generator().manual_seed(i)).double() for i in range(3))
    gap = real - fake
    by_hand = (torch.tensor([[0.25], [0.5]]).double() * gap * (real - x - 0.5 * gap)).sum(1).mean()
    torch.testing.assert_close(sid_loss(x, real, fake, 0.5, omega=FlowWeight()(ratio)), by_hand)
