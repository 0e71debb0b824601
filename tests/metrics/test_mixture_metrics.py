"""Exact distances to mixtures."""

from __future__ import annotations

import math

import pytest
import torch

from fastgen.denoisers.exact.gaussians import GaussianDenoiser, MixtureDenoiser
from fastgen.denoisers.exact.mixtures import ImageMixture, RingMixture
from fastgen.errors import UserError
from fastgen.metrics import MixtureMetrics
from fastgen.metrics.laws.mixture import (
    LawLikelihood,
    ModeCoverage,
    WassersteinDistance,
    expected_kernel,
    sliced_wasserstein2,
    squared_deviations,
    wasserstein2,
)
from fastgen.metrics.samples.kernel import gaussian_kernel, mean_across
from fastgen.metrics.suites.mixture_suite import DEFAULT
from fastgen.processes import EDM


def ring(num_classes: int = 0) -> RingMixture:
    return RingMixture(EDM(), modes=8, radius=1.0, std=0.1, alternate=True, num_classes=num_classes)


def measure(samples: torch.Tensor, label: torch.Tensor | None = None, num_classes: int = 0) -> dict[str, float]:
    suite = MixtureMetrics(lambda: ring(num_classes), metrics=[WassersteinDistance(300), *DEFAULT[1:]])
    for part in zip(samples.split(171), [None] * 99 if label is None else label.split(171), strict=False):
        suite.update(*part)
    return suite.compute()


def test_wasserstein_of_a_shift_and_of_a_permutation() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert wasserstein2(x, x.flip(0)) == pytest.approx(0.0, abs=1e-3)
    assert wasserstein2(x, x + torch.tensor([0.0, 3.0, 4.0])) == pytest.approx(5.0, rel=1e-6)
    # A shift by s moves every projection by the cosine times s: 5 / sqrt(3) in the mean square.
    assert sliced_wasserstein2(x, x + torch.tensor([0.0, 3.0, 4.0])) == pytest.approx(5 / math.sqrt(3), rel=0.1)


def test_collapse_is_worst_in_coverage_though_best_in_quality() -> None:
    law, g = ring(), torch.Generator().manual_seed(0)
    fresh = measure(law.sample(1000, g))
    collapsed = measure(law.means[:1].float() + 0.03 * torch.randn(1000, 2, generator=g))
    broad = measure(0.5 * torch.randn(1000, 2, generator=g))
    assert collapsed["nll"] < fresh["nll"] < broad["nll"]
    assert collapsed["high_quality"] >= fresh["high_quality"] > broad["high_quality"]
    for name in ("wasserstein2", "sliced_wasserstein2", "mmd2", "mode_kl"):
        assert fresh[name] < broad[name] < collapsed[name], name
    assert collapsed["modes_found"] == 1 and collapsed["mode_coverage"] == 1 / 8
    assert fresh["mode_coverage"] == 1.0
    assert fresh["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.01)
    assert abs(fresh["mmd2"]) < 2e-3 and fresh["mode_kl"] < 0.01
    assert fresh["wasserstein2"] < 2 * fresh["wasserstein2_floor"]


def test_balanced_labels_of_an_unbalanced_law_are_compared_fairly() -> None:
    law, g = ring(4), torch.Generator().manual_seed(0)
    label = torch.arange(2000) % 4  # the law itself gives classes 1 and 3 twice the share of 0 and 2
    samples = law.sample(2000, g, label)
    fair = measure(samples, label, num_classes=4)
    assert fair["mode_kl"] < 0.01 and abs(fair["mmd2"]) < 2e-3 and fair["accuracy"] > 0.99
    assert measure(samples, label.roll(1), num_classes=4)["accuracy"] < 0.01
    assert measure(samples, None, num_classes=4)["mode_kl"] > 0.03


def test_expected_kernel_is_exact() -> None:
    law = MixtureDenoiser(EDM(), means=[[0.0, 0.0], [2.0, 1.0]], std=0.5, weights=[1.0, 3.0])
    y = torch.tensor([[0.3, -0.2], [1.0, 1.0]], dtype=torch.float64)
    # E exp(-|x - y|^2 / 2 h^2) over N(m, s^2): (h^2 / (h^2 + s^2))^{D/2} exp(-|y - m|^2 / 2 (h^2 + s^2)).
    closeness = torch.exp(torch.cdist(y, law.means).square() / (-2 * (0.49 + 0.25))) * 0.49 / (0.49 + 0.25)
    torch.testing.assert_close(expected_kernel(law, y, None, 0.7), closeness @ law.mixing, rtol=1e-12, atol=0)
    drawn = law.sample(20000, torch.Generator().manual_seed(0)).double()
    for i in range(2):
        by_draws = float(mean_across(y[i : i + 1], drawn, gaussian_kernel(0.7)))
        assert by_draws == pytest.approx(float(expected_kernel(law, y, None, 0.7)[i]), rel=0.03)


def test_likelihood_is_the_entropy_in_the_mean() -> None:
    law = GaussianDenoiser(EDM(), [0.0, 0.0], [[4.0, 0.0], [0.0, 1.0]])
    metric = LawLikelihood().build(law)
    metric.update(torch.tensor([[2.0, 1.0]]))
    assert metric.compute()["nll"] == pytest.approx(0.5 + 0.5 + math.log(2 * math.pi * 2), rel=1e-9)


def test_deviations_of_low_rank_mixtures() -> None:
    law = ImageMixture(EDM(), resolution=8, components=3, rank=2)
    samples = law.sample(5, torch.Generator().manual_seed(0)).flatten(1).double()
    for k in range(3):
        basis = law.bases[k]
        covariance = basis @ torch.diag(law.subspace_variances[k]) @ basis.T + law.variances[k] * torch.eye(64)
        offset = samples - law.means[k]
        expected = (offset @ torch.linalg.inv(covariance) * offset).sum(1)
        torch.testing.assert_close(squared_deviations(law, samples)[:, k], expected, rtol=1e-6, atol=1e-6)


def test_high_quality_of_the_law_does_not_depend_on_the_dimension() -> None:
    law = ImageMixture(EDM())
    metric = ModeCoverage().build(law)
    metric.update(law.sample(3000, torch.Generator().manual_seed(0)))
    numbers = metric.compute()
    assert numbers["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.006)
    assert numbers["mode_coverage"] == 1.0


def test_members_keep_nothing_for_a_checkpoint_and_wrong_input_is_named() -> None:
    suite = MixtureMetrics(ring)
    assert all(metric.state_dict() == {} for metric in suite.metrics().values())
    assert suite.fingerprint().startswith("RingMixture/sha256:")
    with pytest.raises(UserError, match="shape"):
        suite.update(torch.zeros(3, 5))
    with pytest.raises(UserError, match="GaussianDenoiser"):
        MixtureMetrics(lambda: GaussianDenoiser(EDM(), [0.0], [[1.0]]))
