"""Copies: of the training data among the samples, and of samples among themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.metrics.samples.feature_metric import FeatureMetric, Features
from fastgen.metrics.samples.precision_recall import BLOCK, neighbour_radius
from fastgen.randomness import generator
from fastgen.results.kinds import Kind


def nearest(samples: Tensor, reference: Tensor) -> Tensor:
    """Distance (N,) of every sample (N, D) to the nearest element of the reference (M, D)."""
    return torch.cat([torch.cdist(rows, reference).amin(dim=1) for rows in samples.split(BLOCK)])


@dataclass(frozen=True)
class DuplicateRate(FeatureMetric):
    """Share of samples that are closer to something than real samples are to each other.

    With t the ``quantile`` of the distances of real samples to their nearest other real sample, gives

    - ``memorised``: share of samples within t of their nearest real sample. Fresh real data gets about ``quantile``;
      far more is an alarm that training images are reproduced (only if the reference is the training data).
    - ``repeated``: share of samples within t of another sample, where t is taken anew from as many real samples as
      there are samples, because distances shrink as counts grow. Fresh real data gets about ``quantile``, a sampler
      that repeats itself up to 1.

    What "close" means is the extractor's: two images that differ to the eye may be one to it.

    Args:
        quantile: Share of the real samples that count as close by definition.
    """

    quantile: float = 0.05
    numbers = {"memorised": Kind("other", "lower"), "repeated": Kind("other", "lower")}

    def __post_init__(self) -> None:
        checks.between(self, 0.0, 1.0, "()", quantile=self.quantile)

    def threshold(self, real: Tensor) -> float:
        """The distance t of real samples (M, D); at least what rounding makes of the distance of equal points."""
        radius = neighbour_radius(real, 1)
        rank = max(1, round(self.quantile * len(radius)))
        return max(float(radius.kthvalue(rank).values), 1e-6 * float(real.norm(dim=1).mean()))

    def measure(self, samples: Features, reference: Features) -> dict[str, float]:
        """``{"memorised": share, "repeated": share}``."""
        memorised = nearest(samples.values, reference.values) <= self.threshold(reference.values)
        count = min(len(samples), len(reference))
        drawn, real = (
            part[torch.randperm(len(part), generator=generator("duplicates"))[:count].to(part.device)]
            for part in (samples.values, reference.values)
        )
        repeated = neighbour_radius(drawn, 1) <= self.threshold(real)
        return {"memorised": float(memorised.double().mean()), "repeated": float(repeated.double().mean())}
