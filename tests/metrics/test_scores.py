"""Inception score, CMMD, Vendi score and the centre crop against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from feature_space import Space
from PIL import Image
from torch import nn

from fastgen.errors import UserError
from fastgen.metrics import FrechetDistance, ImageMetrics
from fastgen.metrics.extractors.toy_features import Pixels
from fastgen.metrics.extractors.wrappers import CentreCrop, Resized
from fastgen.metrics.samples.cmmd import CMMD, cmmd
from fastgen.metrics.samples.inception_score import InceptionScore, inception_score
from fastgen.metrics.samples.vendi import VendiScore


def features(count: int, dimension: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- Inception score


def test_inception_score_is_its_formula():
    p = features(40, 5, 0).double().softmax(1)
    marginal = p.mean(0)
    mean = sum(float((row * (row / marginal).log()).sum()) for row in p) / len(p)
    assert inception_score(p) == pytest.approx(math.exp(mean), rel=1e-12)


def test_inception_score_of_known_cases():
    certain = torch.eye(10, dtype=torch.float64).repeat(7, 1)
    assert inception_score(certain) == pytest.approx(10.0)
    assert inception_score(torch.full((30, 10), 0.1, dtype=torch.float64)) == pytest.approx(1.0)
    assert inception_score(certain[:1].repeat(9, 1)) == pytest.approx(1.0)


def test_inception_score_over_parts_whatever_the_order():
    x = features(101, 4, 1)
    layer = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    results = []
    for order in (torch.arange(101), torch.randperm(101, generator=torch.Generator().manual_seed(5))):
        metric = InceptionScore().build(Space(4, lambda f: f @ layer))
        for part in x[order].split(17):
            metric.update(part)
        results.append(metric.compute())
    assert results[0] == pytest.approx(results[1], rel=1e-12)
    assert 1.0 < results[0]["inception_score"] < 6.0 and results[0]["inception_score_std"] > 0
    one = InceptionScore(splits=1).build(Space(4, lambda f: f @ layer))
    one.update(x)
    whole = inception_score((x @ layer).double().softmax(1))
    assert one.compute() == {"inception_score": pytest.approx(whole, rel=1e-12), "inception_score_std": 0.0}
    assert results[0]["inception_score"] < whole  # small parts make it smaller
    assert one.state_dict() == {}
    with pytest.raises(UserError, match="at least 10 samples, got 3"):
        metric = InceptionScore().build(Space(4, lambda f: f @ layer))
        metric.update(x[:3])
        metric.compute()


# ---------------------------------------------------------------------- CMMD


def test_cmmd_is_its_formula():
    x, y = features(13, 6, 0), features(9, 6, 1) + 0.5

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = a.double() / a.double().norm(), b.double() / b.double().norm()
        return math.exp(-float((a - b).square().sum()) / (2 * 10.0**2))

    def mean(p: torch.Tensor, q: torch.Tensor) -> float:
        return sum(kernel(a, b) for a in p for b in q) / (len(p) * len(q))

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    metric = CMMD().build(Space(6))
    metric.set_reference(y)
    for part in x.split(4):
        metric.update(part)
    assert metric.compute()["cmmd"] == pytest.approx(expected, rel=1e-9)
    assert cmmd(x, 7 * x) == pytest.approx(0.0, abs=1e-9)  # only directions count


# ---------------------------------------------------------------------- Vendi score


def test_vendi_is_the_entropy_of_the_similarity_matrix():
    x = features(30, 50, 0)
    unit = nn.functional.normalize(x.double(), dim=1)
    values = np.linalg.eigvalsh((unit @ unit.T / 30).numpy()).clip(min=1e-300)
    metric = VendiScore().build(Space(50))
    for part in x.split(7):
        metric.update(part)
    assert metric.compute()["vendi"] == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-9)
    assert metric.state_dict() == {}


@pytest.mark.parametrize(("rows", "expected"), [(8, 8.0), (1, 1.0), (3, 3.0)])
def test_vendi_counts_different_samples(rows: int, expected: float):
    metric = VendiScore().build(Space(8))
    metric.update(5 * torch.eye(8)[:rows].repeat(4, 1))
    assert metric.compute()["vendi"] == pytest.approx(expected, rel=1e-9)
    with pytest.raises(UserError, match="got 0"):
        VendiScore().build(Space(3)).compute()


# ---------------------------------------------------------------------- centre crop


def test_centre_crop_reads_the_centre():
    images = torch.randint(256, (6, 3, 12, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    crop = CentreCrop(Pixels(size=2), size=4)
    torch.testing.assert_close(crop(images), Pixels(size=2)(images[:, :, 4:8, 2:6]))
    assert crop.num_features == 12 and crop.fingerprint().startswith("crop4+plumbing_pixels/")
    assert crop.fingerprint() != CentreCrop(Pixels(size=2), size=5).fingerprint()
    with pytest.raises(UserError, match="crop of 10 pixels"):
        CentreCrop(Pixels(size=2), size=10)(images)


def test_patch_suite_sees_the_centre_only():
    g = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 8, 8, generator=g) * 2 - 1
    suite = ImageMetrics(CentreCrop(Pixels(size=2), size=4), metrics=[FrechetDistance()], prefix="patch_")
    suite.set_reference({"samples": images})
    changed = images.clone()
    changed[:, :, :2] = 1.0
    suite.update(changed)
    numbers = suite.compute()
    assert numbers["patch_frechet"] == pytest.approx(0.0, abs=1e-9) and numbers["count"] == 40
    suite.reset()
    changed[:, :, 3:5] = 1.0
    suite.update(changed)
    assert suite.compute()["patch_frechet"] > 0.1


def test_resized_is_pillows_lanczos():
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 20, 16), generator=g, dtype=torch.uint8)
    seen = Resized(Pixels(size=8), size=8).change(images)
    for image, result in zip(images, seen, strict=True):
        picture = Image.fromarray(image[:, 2:18].permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize((8, 8), Image.Resampling.LANCZOS))
        assert (result.permute(1, 2, 0).numpy() == expected).all()
    resized = Resized(Pixels(size=8), size=8)
    torch.testing.assert_close(resized(images), Pixels(size=8)(seen))
    assert resized.change(seen) is seen and resized.fingerprint().startswith("lanczos8+plumbing_pixels/")


def test_parts_of_the_inception_score_are_random():
    """Samples lie sorted in the metric; parts cut in that order would hold one class each and score 1."""
    metric = InceptionScore(splits=2).build(Space(2, lambda features: 50.0 * features))
    metric.update(torch.cat([torch.tensor([[1.0, 0.0]]).expand(50, 2), torch.tensor([[0.0, 1.0]]).expand(50, 2)]))
    assert metric.compute()["inception_score"] > 1.9
