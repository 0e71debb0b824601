"""Precision, recall, density and coverage against brute force."""

from __future__ import annotations

import pytest
import torch
from feature_space import Space

from fastgen.errors import UserError
from fastgen.metrics.samples import precision_recall as module
from fastgen.metrics.samples.precision_recall import PrecisionRecall, precision_recall


def brute_force(x: torch.Tensor, y: torch.Tensor, k: int) -> dict[str, float]:
    def radius(points: torch.Tensor, i: int) -> float:
        return sorted(float((points[i] - points[j]).norm()) for j in range(len(points)) if j != i)[k - 1]

    inside = [[float((a - b).norm()) <= radius(y, j) for j, b in enumerate(y)] for a in x]
    around = [[float((a - b).norm()) <= radius(x, i) for b in y] for i, a in enumerate(x)]
    n, m = len(x), len(y)
    return {
        "precision": sum(any(row) for row in inside) / n,
        "recall": sum(any(around[i][j] for i in range(n)) for j in range(m)) / m,
        "density": sum(sum(row) for row in inside) / (k * n),
        "coverage": sum(any(inside[i][j] for i in range(n)) for j in range(m)) / m,
    }


@pytest.mark.parametrize("block", [4, 2048])
def test_equals_brute_force(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(18, 2, generator=g, dtype=torch.float64) * 0.7 + 0.3
    y = torch.randn(23, 2, generator=g, dtype=torch.float64)
    assert precision_recall(x, y, 3) == pytest.approx(brute_force(x, y, 3))


def test_a_collapsed_sampler_is_precise_and_covers_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    reference = torch.randn(200, 4, generator=g)
    metric = PrecisionRecall(neighbours=3).build(Space(4))
    metric.set_reference(reference)
    metric.update(reference[:1] + 1e-3 * torch.randn(200, 4, generator=g))
    numbers = metric.compute()
    assert numbers["precision"] == 1.0
    assert numbers["recall"] < 0.02 and numbers["coverage"] < 0.05


def test_too_few_samples_is_one_sentence() -> None:
    metric = PrecisionRecall(neighbours=3).build(Space(2))
    metric.set_reference(torch.randn(10, 2))
    metric.update(torch.randn(3, 2))
    with pytest.raises(UserError, match="at least 4 samples, got 3"):
        metric.compute()
