"""Discrepancies by hand and by their gradients, fp64."""

import pytest
import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.objectives.mmd import LinearKernel, RBFKernel, huber_mean_gap, mmd2


def sets(*sizes: int) -> list[Tensor]:
    return [torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in sizes]


@pytest.mark.parametrize("kernel", [LinearKernel(), RBFKernel(1.3)], ids=["linear", "rbf"])
def test_a_set_is_at_distance_zero_from_itself_without_a_gradient(kernel: LinearKernel | RBFKernel):
    (a,) = sets(5)
    a.requires_grad_()
    value = mmd2(a, a.detach(), kernel)
    (gradient,) = torch.autograd.grad(value, a)
    assert value.abs() < 1e-14 and gradient.abs().max() < 1e-14


def test_linear_is_the_distance_of_the_means():
    a, b = sets(5, 7)
    a.requires_grad_()
    gap = (a.mean(0) - b.mean(0)).detach()
    value = mmd2(a, b, LinearKernel())
    torch.testing.assert_close(value.detach(), gap.square().sum(), rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(value, a)
    torch.testing.assert_close(gradient, (2.0 * gap / 5).expand(5, 4), rtol=1e-10, atol=1e-14)


def test_rbf_pair_by_pair_with_and_without_the_diagonal():
    a, b = sets(3, 4)

    def k(x: Tensor, y: Tensor) -> float:
        return float(torch.exp(-(x - y).square().sum() / (2 * 1.3**2)))

    across = sum(k(x, y) for x in a for y in b) / 12
    pairs = [sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) for s in (a, b)]
    biased = (pairs[0] + 3) / 9 + (pairs[1] + 4) / 16 - 2 * across
    unbiased = pairs[0] / 6 + pairs[1] / 12 - 2 * across
    assert abs(mmd2(a, b, RBFKernel(1.3)).item() - biased) < 1e-12
    assert abs(mmd2(a, b, RBFKernel(1.3), unbiased=True).item() - unbiased) < 1e-12
    with pytest.raises(UserError, match="two samples or more"):
        mmd2(a[:1], b, RBFKernel(), unbiased=True)


def test_only_the_unbiased_gradient_vanishes_at_equal_laws():
    """Samples s z of N(0, s^2) against N(0, 1): at s = 1 all pairs still ask for a smaller s, by 2 var / N."""
    z, y = torch.randn(2, 20000, 4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes = []
    for unbiased in (False, True):
        s = torch.ones((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(mmd2(s * z, y, LinearKernel(), unbiased).mean(), s)
        slopes.append(slope.item())
    assert abs(slopes[0] - 2 / 4) < 0.02 and abs(slopes[1]) < 0.02


def test_sets_of_several_batches_and_the_smooth_root():
    a, b = (x.reshape(2, 3, 4) for x in sets(6, 6))
    b = b + 1.0
    many = mmd2(a, b, LinearKernel())
    assert many.shape == (2,)
    torch.testing.assert_close(many[1], mmd2(a[1], b[1], LinearKernel()))
    gap = a.mean(1) - b.mean(1)
    torch.testing.assert_close(huber_mean_gap(a, b, 0.1), ((gap**2 + 0.01).sqrt() - 0.1).mean())
