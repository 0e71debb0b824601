"""Exact distances of clips to a linear-Gaussian process over frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.metrics.laws.law_metric import LawMetric
from fastgen.randomness import generator
from fastgen.results.kinds import BOOKKEEPING, Kind


def root(covariance: Tensor) -> Tensor:
    """The symmetric root of a covariance."""
    values, axes = torch.linalg.eigh(covariance)
    return (axes * values.clamp(min=0.0).sqrt()) @ axes.T


def bures(one: Tensor, other: Tensor) -> float:
    """Squared 2-Wasserstein distance of N(0, one) and N(0, other): ``tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``."""
    half = root(one)
    cross = torch.linalg.eigvalsh(half @ other @ half).clamp(min=0.0).sqrt().sum()
    return max(float(one.trace() + other.trace() - 2.0 * cross), 0.0)


def moments(clips: Tensor, label: Tensor | None) -> tuple[float, Tensor]:
    """Of centred clips (N, D): mean squared norm of the classes' means, and the covariance around 0."""
    groups = [clips] if label is None else [clips[label == value] for value in label.unique()]
    offsets = torch.stack([group.mean(0).square().sum() for group in groups])
    sizes = torch.tensor([len(group) for group in groups], dtype=offsets.dtype, device=offsets.device)
    within = sum(((group - group.mean(0)).T @ (group - group.mean(0)) for group in groups), torch.zeros(()).to(clips))
    return float((offsets * sizes).sum() / sizes.sum()), within / (len(clips) - len(groups))


@dataclass(frozen=True)
class ClipDistance(LawMetric):
    """How far the Gaussian with the samples' moments is from the law, given what each was asked for.

    Gives, per number of a clip (a sum over them, divided by their count, before the root):

    - ``clip_wasserstein2``: 2-Wasserstein distance of the two Gaussians; that of the law's own fresh samples, equally
      many, is ``clip_wasserstein2_floor``.
    - ``last_frame_wasserstein2``: the same of the last frame alone, where what drifts has drifted most.
    - ``transition_error``: of the regression of each frame on the one before, ``|M - A| / |A|`` (Frobenius).
    - ``narrowest``: variance of the samples over the law's, in the direction where that is least; 1 is perfect, more
      counts as 1. A collapse shows here.
    """

    numbers = {
        "clip_wasserstein2": Kind("fidelity", "lower"),
        "narrowest": Kind("coverage", "higher"),
        "last_frame_wasserstein2": Kind("fidelity", "lower"),
        "transition_error": Kind("fidelity", "lower"),
        "clip_wasserstein2_floor": BOOKKEEPING,
    }

    def measure(self, law: Any, samples: Tensor, label: Tensor | None) -> dict[str, float]:
        """The numbers of centred clips (N, F D), fp64."""
        truth = law.covariance.to(samples.device)
        width = law.width
        offset, covariance = moments(samples, label)
        fresh = torch.randn(samples.shape, generator=generator("clips"), dtype=torch.float64).to(samples.device)
        floor, expected = moments(fresh @ root(truth), label)
        last = slice(len(truth) - width, len(truth))
        half = torch.linalg.inv(root(truth))
        narrowest = float(torch.linalg.eigvalsh(half @ covariance @ half).min())
        return {
            "clip_wasserstein2": math.sqrt((offset + bures(covariance, truth)) / len(truth)),
            "narrowest": min(narrowest, 1.0),
            "last_frame_wasserstein2": math.sqrt(
                (moments(samples[:, last], label)[0] + bures(covariance[last, last], truth[last, last])) / width
            ),
            "transition_error": transition_error(covariance, truth, width),
            "clip_wasserstein2_floor": math.sqrt((floor + bures(expected, truth)) / len(truth)),
        }


def transition_error(covariance: Tensor, truth: Tensor, width: int) -> float:
    """Relative error of the linear map from each frame to the next, over all pairs; 0 of clips of one frame."""
    frames = len(truth) // width
    if frames < 2:
        return 0.0

    def maps(of: Tensor) -> Tensor:
        blocks = of.reshape(frames, width, frames, width)
        # A collapsed sampler has singular covariances; its map is the least one.
        found = [torch.linalg.pinv(blocks[f, :, f]) @ blocks[f, :, f + 1] for f in range(frames - 1)]
        return torch.stack(found)

    exact = maps(truth)
    return float((maps(covariance) - exact).norm() / exact.norm().clamp(min=1e-12))
