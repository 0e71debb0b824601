import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fastgen.objectives.divergences import Divergence, density_ratio, gaussian_kl

DIVERGENCES = [kind() for kind in Divergence.__subclasses__()]
RATIOS = torch.tensor([0.1, 0.5, 1.0, 2.0, 20.0], dtype=torch.float64)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)
def test_weights_are_r_squared_times_the_second_derivative(divergence: Divergence):
    r = RATIOS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence.generator(r).sum(), r, create_graph=True)
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(divergence.weight(RATIOS), RATIOS.square() * curvature, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)
def test_generators_are_convex_and_vanish_where_the_laws_agree(divergence: Divergence):
    one = torch.ones(1, dtype=torch.float64)
    assert divergence.generator(one).abs() < 1e-12
    a, b = torch.meshgrid(RATIOS, RATIOS, indexing="ij")
    f = divergence.generator
    assert bool((f(0.5 * (a + b)) <= 0.5 * (f(a) + f(b)) + 1e-12).all())


def test_the_divergence_of_gaussians_is_torchs():
    mean, variance = torch.tensor([0.3, -1.0, 0.5]).double(), torch.tensor([0.2, 1.0, 4.0]).double()
    mean.requires_grad_(), variance.requires_grad_()
    theirs = kl_divergence(Normal(mean, variance.sqrt()), Normal(torch.tensor(0.5).double(), 2.0**0.5))
    ours = gaussian_kl(mean, variance, 0.5, 2.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for one, other in zip(*(torch.autograd.grad(x.sum(), (mean, variance)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_density_ratios_by_hand():
    logits = torch.tensor([[0.0, 0.0], [1.0, 2.0], [50.0, 50.0], [-50.0, -50.0]], requires_grad=True)
    ratio = density_ratio(logits)
    torch.testing.assert_close(ratio, torch.tensor([1.0, 4.4816890703, 20.0, 0.1]))
    (slope,) = torch.autograd.grad(ratio.sum(), logits)
    torch.testing.assert_close(slope[:2].sum(1), ratio[:2].detach())  # d exp D = r dD
    assert not slope[2:].any()
