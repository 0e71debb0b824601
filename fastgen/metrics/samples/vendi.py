"""How many different samples there are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fastgen.errors import UserError
from fastgen.metrics.base import SampleMetric
from fastgen.metrics.samples.feature_metric import FeatureMetric, FeatureSpace
from fastgen.results.kinds import Kind


@dataclass(frozen=True)
class VendiScore(FeatureMetric):
    """Effective number of different samples, by the cosine similarity of their features; gives ``vendi``.

    ``exp(-sum_i l_i log l_i)`` with l the eigenvalues of K / N, ``K_ij = <f_i, f_j>`` of unit vectors f: N if all are
    orthogonal, 1 if all are equal (Friedman & Dieng 2022, arXiv 2210.02410, definition 3.1). It needs no reference;
    noise raises it, so it is a coverage number only, to be read beside that of real samples.
    """

    numbers = {"vendi": Kind("coverage", "higher")}
    needs_reference = False

    def build(self, space: FeatureSpace) -> VendiSums:
        """Sums are enough."""
        return VendiSums(space.num_features)


class VendiSums(SampleMetric):
    """The states of :class:`VendiScore`.

    K / N and ``sum_i f_i f_i^T / N`` have the same eigenvalues except zeros, so a fp64 sum (D, D) is enough, and exact
    over ranks.

    Args:
        num_features: D.
    """

    numbers = VendiScore.numbers
    outer: Tensor
    count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.add_state("outer", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Add features (B, D)."""
        features = functional.normalize(samples.detach().flatten(1).to(self.device).double(), dim=1)
        self.outer = self.outer + features.T @ features
        self.count = self.count + len(features)

    def compute(self) -> dict[str, float]:
        """``{"vendi": effective number}``."""
        count = int(self.count)
        if count < 1:
            raise UserError("VendiScore needs at least 1 sample, got 0; raise their count.")
        shares = torch.linalg.eigvalsh(self.outer.cpu() / count).clamp(min=0)
        return {"vendi": float((-torch.xlogy(shares, shares).sum()).exp())}
