"""LPIPS against torchmetrics, diversity against all pairs, alignment by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torchvision
from tiny_clip import pictures
from torchmetrics.functional.image.lpips import _LPIPS

from fastgen.errors import UserError
from fastgen.metrics.extractors.lpips import Lpips
from fastgen.metrics.text.perceptual import PairwiseLPIPS, TeacherAlignment, number_of


@pytest.fixture(scope="module")
def squeeze(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Torchvision's file of SqueezeNet with random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lpips") / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("backbone", ["alex", "squeeze", "vgg"])
def test_lpips_equals_torchmetrics(tmp_path: Path, backbone: str) -> None:
    torch.manual_seed(0)
    theirs = _LPIPS(pnet_rand=True, net=backbone)  # type: ignore[arg-type]
    # torchmetrics keeps the layers in slices: the last two parts of a name are those of torchvision's "features".
    depth = 2 if backbone == "squeeze" else 1
    features = {"features." + k.split(".", depth)[depth]: v for k, v in theirs.net.state_dict().items()}
    first, second = pictures(3, 64, 64), pictures(3, 64, 64, seed=1)
    expected = theirs(first.float() / 127.5 - 1, second.float() / 127.5 - 1).flatten()
    torch.save(features, tmp_path / "whole.pth")
    torch.save({k.removeprefix("features."): v for k, v in features.items()}, tmp_path / "features.pth")
    for file in ("whole.pth", "features.pth"):
        ours = Lpips(backbone, str(tmp_path / file))  # type: ignore[arg-type]
        torch.testing.assert_close(ours(first, second), expected, rtol=1e-4, atol=1e-6)
    assert float(ours(first, first).abs().max()) == 0.0
    assert ours.fingerprint().startswith(f"lpips_{backbone}/sha256:")


def test_wrong_backbone_file(squeeze: str) -> None:
    with pytest.raises(UserError, match="does not fit torchvision's alexnet"):
        Lpips("alex", squeeze)(pictures(1), pictures(1))
    with pytest.raises(UserError, match="at least 32 pixels"):
        Lpips("squeeze", squeeze)(pictures(1, 8, 8), pictures(1, 8, 8))
    grey = pictures(2, 32, 32)[:, :1]
    assert float(Lpips("squeeze", squeeze)(grey[:1], grey[1:])) > 0


def test_diversity_is_the_mean_over_all_pairs(squeeze: str) -> None:
    images = torch.cat([pictures(6, 40, 40), pictures(6, 40, 40, seed=1)])
    prompts = ["a", "b", "c"] * 4
    metric = PairwiseLPIPS("squeeze", squeeze, size=40)
    metric.update(images[:5], prompts[:5], range(5))
    metric.update(images[5:], prompts[5:], range(5, 12))
    lpips = Lpips("squeeze", squeeze)
    means = []
    for prompt in "abc":
        rows = [i for i in range(12) if prompts[i] == prompt]
        pairs = [float(lpips(images[i, None], images[j, None])) for i, j in itertools.combinations(rows, 2)]
        means.append(sum(pairs) / len(pairs))
    assert metric.compute() == {
        "lpips_diversity": pytest.approx(sum(means) / 3, rel=1e-5),
        "lpips_condition_count": 3.0,
    }
    assert metric.state_dict() == {} and not list(metric.parameters())


def test_a_sampler_with_one_picture_per_prompt_has_none(squeeze: str) -> None:
    metric = PairwiseLPIPS("squeeze", squeeze, size=40)
    metric.update(pictures(3, 40, 40).repeat(4, 1, 1, 1), torch.arange(12) % 3, range(12))
    assert metric.compute()["lpips_diversity"] == 0.0


def test_memory_is_bounded_and_the_choice_is_that_of_the_samples(squeeze: str) -> None:
    images = pictures(60, 40, 40)
    label = torch.arange(60) % 10
    numbers = []
    for order in (torch.arange(60), torch.arange(60).flip(0)):
        metric = PairwiseLPIPS("squeeze", squeeze, size=40, conditions=4, seeds=3)
        for rows in order.split(7):
            metric.update(images[rows], label[rows], rows.tolist())
        assert sum(len(part) for part in metric.images) == 12
        numbers.append(metric.compute())
        chosen = sorted(number_of(c) for c in range(10))[:4]
        assert torch.cat(list(metric.groups)).unique().tolist() == chosen
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6) and numbers[0]["lpips_condition_count"] == 4.0
    # A state that was written and read is a part like any other, also if it holds what the whole drops.
    halves = [PairwiseLPIPS("squeeze", squeeze, size=40, conditions=4, seeds=3) for _ in range(2)]
    for metric, rows in zip(halves, torch.arange(60).split(30), strict=True):
        metric.update(images[rows], label[rows], rows.tolist())
    halves[0].add_partial_state(halves[1].partial_state())
    assert halves[0].compute() == pytest.approx(numbers[0], rel=1e-6)


def test_without_conditions_or_without_repeats(squeeze: str) -> None:
    metric = PairwiseLPIPS("squeeze", squeeze, size=40, conditions=2, seeds=4)
    metric.update(pictures(20, 40, 40))
    numbers = metric.compute()
    assert numbers["lpips_diversity"] > 0 and numbers["lpips_condition_count"] == 2.0
    metric.reset()
    metric.update(pictures(4, 40, 40), ["a", "b", "c", "d"])
    assert metric.compute() == {"lpips_condition_count": 0.0}
    with pytest.raises(UserError, match="seeds must be an integer from 2"):
        PairwiseLPIPS(seeds=1)


def test_alignment(squeeze: str) -> None:
    first = pictures(3, 40, 40)
    second = (first.int() + torch.tensor([0, 5, -10]).view(3, 1, 1, 1)).clamp(0, 255).to(torch.uint8)
    metric = TeacherAlignment("squeeze", squeeze)
    metric.update(first[:2], second[:2])
    metric.update(first[2:], second[2:])
    errors = [float((first[i].double() - second[i].double()).square().mean()) for i in range(3)]
    assert errors[0] == 0.0  # 100 dB stand for "equal"
    psnr = [100.0] + [10 * math.log10(255**2 / error) for error in errors[1:]]
    numbers = metric.compute()
    assert numbers["teacher_psnr"] == pytest.approx(sum(psnr) / 3, rel=1e-9)
    expected = Lpips("squeeze", squeeze)(first, second).double().mean()
    assert numbers["teacher_lpips"] == pytest.approx(float(expected), rel=1e-5)
    assert numbers["teacher_pair_count"] == 3.0
    with pytest.raises(UserError, match="equal shapes"):
        metric.update(first, second[:, :, :20])
    alone = TeacherAlignment(None)
    assert alone.compute() == {} and alone.fingerprint() == "psnr"
    alone.update(first, second)
    assert alone.compute() == {"teacher_psnr": numbers["teacher_psnr"], "teacher_pair_count": 3.0}
