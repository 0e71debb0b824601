"""Copies: of the training data among the samples, and of samples among themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen import checks
from fastgen.metrics.base import CollectingMetric
from fastgen.metrics.precision_recall import BLOCK, neighbour_radius
from fastgen.randomness import generator


def nearest(samples: Tensor, reference: Tensor) -> Tensor:
    """Distance (N,) of every sample (N, D) to the nearest element of the reference (M, D)."""
    return torch.cat([torch.cdist(rows, reference).amin(dim=1) for rows in samples.split(BLOCK)])


class DuplicateRate(CollectingMetric):
    """Share of samples that are closer to something than real samples are to each other.

    With t the ``quantile`` of the distances of real samples to their nearest other real sample, gives

    - ``memorised``: share of samples within t of their nearest real sample. Fresh real data gets about ``quantile``;
      far more is an alarm that training images are reproduced (only if the reference is the training data).
    - ``repeated``: share of samples within t of another sample, where t is taken anew from as many real samples as
      there are samples, because distances shrink as counts grow. Fresh real data gets about ``quantile``, a sampler
      that repeats itself up to 1.

    What "close" means is the extractor's: two images that differ to the eye may be one to it.

    Args:
        num_features: D.
        quantile: Share of the real samples that count as close by definition.
    """

    needs_reference = True

    def __init__(self, num_features: int, quantile: float = 0.05) -> None:
        checks.between(self, 0.0, 1.0, "()", quantile=quantile)
        super().__init__(num_features)
        self.quantile = quantile

    def threshold(self, real: Tensor) -> float:
        """The distance t of real samples (M, D); at least what rounding makes of the distance of equal points."""
        radius = neighbour_radius(real, 1)
        rank = max(1, round(self.quantile * len(radius)))
        return max(float(radius.kthvalue(rank).values), 1e-6 * float(real.norm(dim=1).mean()))

    def compute(self) -> dict[str, float]:
        """``{"memorised": share, "repeated": share}``."""
        samples, reference = self.collected()[0], self.reference_samples()
        memorised = nearest(samples, reference) <= self.threshold(reference)
        count = min(len(samples), len(reference))
        drawn, real = (
            part[torch.randperm(len(part), generator=generator("duplicates"))[:count].to(part.device)]
            for part in (samples, reference)
        )
        repeated = neighbour_radius(drawn, 1) <= self.threshold(real)
        return {"memorised": float(memorised.double().mean()), "repeated": float(repeated.double().mean())}
