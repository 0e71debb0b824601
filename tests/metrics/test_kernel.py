"""The kernel distance against its definition."""

from __future__ import annotations

import pytest
import torch
from feature_space import Space

from fastgen.metrics.samples.kernel import KernelDistance, gaussian_kernel, mean_within, mmd2, polynomial_kernel


def naive(x: torch.Tensor, y: torch.Tensor) -> float:
    """Three double loops."""

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


def test_equals_the_definition_over_several_blocks() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(17, 5, generator=g, dtype=torch.float64)
    y = 1.5 * torch.randn(11, 5, generator=g, dtype=torch.float64)
    expected = naive(x, y)
    assert mmd2(x, y, polynomial_kernel) == pytest.approx(expected, rel=1e-12)
    assert mean_within(x, polynomial_kernel, block=4) == pytest.approx(
        float(mean_within(x, polynomial_kernel)), rel=1e-12
    )
    metric = KernelDistance().build(Space(5))
    metric.set_reference(y.float())
    for part in x.float().split(5):
        metric.update(part)
    assert metric.compute()["kid"] == pytest.approx(expected, rel=1e-5)


def test_gaussian_kernel() -> None:
    x = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert float(gaussian_kernel(5.0)(x, y)) == pytest.approx(0.6065306597, rel=1e-9)


def test_unbiased_for_independent_and_for_balanced_samples() -> None:
    """The mean over many draws of the same law is 0 within four standard errors, with labels as by design."""
    g = torch.Generator().manual_seed(0)
    label = torch.arange(20) % 2
    plain, by_class = [], []
    for _ in range(400):
        x, y = (torch.randn(20, 2, generator=g) + 3 * label[:, None] for _ in range(2))
        plain.append(mmd2(x, y, gaussian_kernel(1.0)))
        by_class.append(mmd2(x, y, gaussian_kernel(1.0), label, label))
    plain, by_class = torch.tensor(plain), torch.tensor(by_class)
    assert abs(by_class.mean()) < 4 * by_class.std() / 20
    assert plain.mean() < -4 * plain.std() / 20  # ignoring the design, balanced sets look closer than they are
