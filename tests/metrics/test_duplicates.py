"""The alarm for memorised and for repeated samples."""

from __future__ import annotations

import pytest
import torch
from feature_space import Space

from fastgen.metrics.samples.duplicates import DuplicateRate

D = 6


def draw(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def rates(samples: torch.Tensor, reference: torch.Tensor, quantile: float = 0.05) -> dict[str, float]:
    metric = DuplicateRate(quantile).build(Space(D))
    metric.set_reference(reference)
    for part in samples.split(333):
        metric.update(part)
    return metric.compute()


def test_equals_brute_force() -> None:
    x, y = draw(30, 0), draw(40, 1)

    def to_nearest(a: torch.Tensor, b: torch.Tensor, same: bool) -> list[float]:
        return [min(float((p - q).norm()) for j, q in enumerate(b) if not (same and i == j)) for i, p in enumerate(a)]

    limit = sorted(to_nearest(y, y, True))[round(0.3 * 40) - 1]
    expected = sum(distance <= limit for distance in to_nearest(x, y, False)) / 30
    assert rates(x, y, 0.3)["memorised"] == pytest.approx(expected)
    own = sorted(to_nearest(x, x, True))[round(0.3 * 30) - 1]
    # With as many samples as real ones nothing is drawn on either side.
    assert rates(x, x, 0.3)["repeated"] == pytest.approx(sum(d <= own for d in to_nearest(x, x, True)) / 30)


@pytest.mark.parametrize(("count", "real"), [(1000, 1000), (400, 1500), (1500, 400)])
def test_fresh_data_gets_the_quantile(count: int, real: int) -> None:
    numbers = rates(draw(count, 0), draw(real, 1))
    assert numbers["memorised"] == pytest.approx(0.05, abs=0.03)
    assert numbers["repeated"] == pytest.approx(0.05, abs=0.04)


def test_memorised_and_repeated_samples_are_seen() -> None:
    reference = draw(1000, 1)
    half = torch.cat([reference[:500] + 1e-3 * draw(500, 2), draw(500, 3)])
    numbers = rates(half, reference)
    assert numbers["memorised"] == pytest.approx(0.525, abs=0.03) and numbers["repeated"] < 0.1
    copies = rates(reference[:700], reference)  # exact copies, whatever the rounding of the distances
    assert copies["memorised"] == 1.0
    few = draw(50, 4).repeat(20, 1)
    numbers = rates(few, reference)
    assert numbers["repeated"] == 1.0 and numbers["memorised"] < 0.15


def test_real_data_with_copies_of_its_own() -> None:
    reference = draw(400, 1).repeat(2, 1)
    numbers = rates(reference[:400], reference)
    assert numbers["memorised"] == 1.0
    assert rates(draw(400, 5), reference)["memorised"] < 0.01
