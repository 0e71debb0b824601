"""The Fréchet distance against scipy and closed forms; the ratio to the floor."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from feature_space import Space

from fastgen.errors import UserError
from fastgen.metrics.samples.frechet import FrechetDistance, FrechetRatio, _equal_rows, frechet_distance, moments


def features(count: int, dimension: int, seed: int) -> torch.Tensor:
    """Correlated features with a decaying spectrum."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimension, dimension, generator=g, dtype=torch.float64) / torch.arange(1, dimension + 1).sqrt()
    return torch.randn(count, dimension, generator=g, dtype=torch.float64) @ mix + 0.1 * seed


def by_scipy(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = x.numpy(), y.numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


def test_equals_scipy() -> None:
    x, y = features(500, 64, 1), features(400, 64, 2)
    assert frechet_distance(*moments(x), *moments(y)) == pytest.approx(by_scipy(x, y), rel=1e-9)


def test_closed_form_of_commuting_gaussians() -> None:
    a, b = torch.tensor([4.0, 9.0], dtype=torch.float64), torch.tensor([1.0, 16.0], dtype=torch.float64)
    mean = torch.tensor([3.0, 4.0], dtype=torch.float64)
    distance = frechet_distance(torch.zeros_like(mean), torch.diag(a), mean, torch.diag(b))
    assert distance == pytest.approx(25.0 + (2 - 1) ** 2 + (3 - 4) ** 2, abs=1e-12)


def test_rank_deficient_is_finite_and_zero_to_itself() -> None:
    x, y = features(20, 64, 1), features(15, 64, 2)
    distance = frechet_distance(*moments(x), *moments(y))
    assert np.isfinite(distance) and distance > 0
    # The root of rounding errors of 1e-16 is 1e-8 per lost dimension.
    assert 0 <= frechet_distance(*moments(x), *moments(x)) < 1e-5


def test_refuses_single_precision() -> None:
    mean, cov = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="fp64"):
        frechet_distance(mean, cov, mean, cov)


def test_streaming_equals_the_function() -> None:
    x, y = features(300, 16, 1), features(200, 16, 2)
    metric = FrechetDistance().build(Space(16))
    metric.set_reference(y)
    for part in x.split(77):
        metric.update(part)
    numbers = metric.compute()
    assert numbers["frechet"] == pytest.approx(frechet_distance(*moments(x), *moments(y)), rel=1e-10)
    assert (numbers["count"], numbers["reference_count"]) == (300, 200)
    assert metric.state_dict() == {}
    metric.reset()
    metric.update(y)
    assert metric.compute()["frechet"] == pytest.approx(0.0, abs=1e-9)


def test_a_new_reference_is_not_answered_from_the_cache() -> None:
    x = features(100, 4, 1)
    metric = FrechetDistance().build(Space(4))
    metric.set_reference(x + 1)
    metric.update(x)
    assert metric.compute()["frechet"] == pytest.approx(4.0, rel=1e-9)
    metric.set_reference(x + 2)
    assert metric.compute()["frechet"] == pytest.approx(16.0, rel=1e-9)


def test_missing_reference_or_samples_is_one_sentence() -> None:
    with pytest.raises(UserError, match="set_reference"):
        FrechetDistance().build(Space(4)).compute()
    metric = FrechetRatio().build(Space(4))
    metric.set_reference(features(10, 4, 1))
    metric.update(features(1, 4, 1))
    with pytest.raises(UserError, match="at least 2 samples, got 1"):
        metric.compute()


def labelled(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two well separated classes in 8 dimensions."""
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 2
    return torch.randn(count, 8, generator=g) + 10 * label[:, None], label


def ratio(
    x: torch.Tensor, label: torch.Tensor | None, reference: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, float]:
    metric = FrechetRatio().build(Space(8))
    metric.set_reference(*reference)
    metric.update(x, label)
    return metric.compute()


def test_ratio_is_one_for_the_law_less_for_copies_more_for_errors() -> None:
    reference = labelled(600, 0)
    perfect = ratio(*labelled(2000, 1), reference)
    assert 0.75 < perfect["frechet_over_floor"] < 1.35
    assert perfect["frechet_half_count"] == 300
    assert ratio(*reference, reference)["frechet_over_floor"] < 0.75
    x, label = labelled(2000, 1)
    assert ratio(1.3 * x, label, reference)["frechet_over_floor"] > 3


def test_ratio_takes_equally_many_of_each_class() -> None:
    x, label = labelled(1000, 1)
    rows = torch.cat([torch.where(label == 0)[0], torch.where(label == 1)[0][:40]])  # 500 of one, 40 of the other
    balanced = ratio(x[rows], label[rows], labelled(600, 0))
    assert balanced["frechet_half_count"] == 80
    assert balanced["frechet_over_floor"] < 1.6
    # Without labels the missing class is seen.
    assert ratio(x[rows], None, labelled(600, 0))["frechet_over_floor"] > 3


def test_ratio_does_not_depend_on_the_order_of_arrival() -> None:
    x, label = labelled(500, 1)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(3))
    a, b = ratio(x, label, labelled(600, 0)), ratio(x[order], label[order], labelled(600, 0))
    assert a["frechet_over_floor"] == pytest.approx(b["frechet_over_floor"], rel=1e-9)


def test_every_split_is_another_cut_of_both_sides() -> None:
    label = torch.arange(40) % 2
    for own_label, reference_label in ((None, None), (label, label)):
        cuts = [_equal_rows(40, own_label, 40, reference_label, split) for split in range(3)]
        for own, half_a, half_b in cuts:
            assert len(own) == len(half_a) == len(half_b) == 20
            assert torch.cat([half_a, half_b]).unique().numel() == 40
        for side in zip(*cuts, strict=True):
            assert len({tuple(rows.tolist()) for rows in side}) == 3
