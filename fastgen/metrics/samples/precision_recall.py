"""Fidelity and coverage by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.metrics.samples.feature_metric import FeatureMetric, Features
from fastgen.results.kinds import Kind

BLOCK = 2048


def neighbour_radius(samples: Tensor, k: int) -> Tensor:
    """Distance (N,) of every sample (N, D) to its k-th nearest other sample."""
    radii = []
    for start in range(0, len(samples), BLOCK):
        rows = samples[start : start + BLOCK]
        distance = torch.cdist(rows, samples)
        index = torch.arange(len(rows), device=samples.device)
        distance[index, start + index] = torch.inf
        radii.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def precision_recall(samples: Tensor, reference: Tensor, k: int) -> dict[str, float]:
    """Precision, recall, density and coverage of ``samples`` (N, D) against ``reference`` (M, D).

    The ball of a point reaches to its k-th nearest neighbour in its own set. With indicator [.]:

    - precision: share of samples in at least one ball of the reference; recall: the reverse (Kynkäänniemi et al. 2019,
      arXiv 1904.06991, eqs. 1-2).
    - density: mean number of reference balls that a sample lies in, divided by k (not bounded by 1); coverage: share
      of reference balls that hold a sample (Naeem et al. 2020, arXiv 2002.09797, eqs. 4-5).
    """
    sample_radius = neighbour_radius(samples, k)
    reference_radius = neighbour_radius(reference, k)
    balls_per_sample = torch.zeros(len(samples), device=samples.device)
    covered = torch.zeros(len(reference), dtype=torch.bool, device=samples.device)
    recalled = covered.clone()
    for start in range(0, len(samples), BLOCK):
        rows = slice(start, start + BLOCK)
        distance = torch.cdist(samples[rows], reference)
        in_reference_ball = distance <= reference_radius
        balls_per_sample[rows] = in_reference_ball.sum(dim=1).float()
        covered |= in_reference_ball.any(dim=0)
        recalled |= (distance <= sample_radius[rows, None]).any(dim=0)
    return {
        "precision": float((balls_per_sample > 0).double().mean()),
        "recall": float(recalled.double().mean()),
        "density": float(balls_per_sample.double().mean()) / k,
        "coverage": float(covered.double().mean()),
    }


@dataclass(frozen=True)
class PrecisionRecall(FeatureMetric):
    """:func:`precision_recall` of all samples; compare at equal counts, recall grows with the number of samples.

    Args:
        neighbours: k. 3 and 5 are in use; 5 is steadier for small sets.
    """

    neighbours: int = 5
    numbers = {
        "precision": Kind("fidelity", "higher"),
        "recall": Kind("coverage", "higher"),
        "density": Kind("fidelity", "higher"),
        "coverage": Kind("coverage", "higher"),
    }

    def __post_init__(self) -> None:
        checks.whole(self, neighbours=self.neighbours)

    @property
    def least(self) -> int:
        """Every point needs so many others."""
        return self.neighbours + 1

    def measure(self, samples: Features, reference: Features) -> dict[str, float]:
        """``{"precision", "recall", "density", "coverage"}``."""
        return precision_recall(samples.values, reference.values, self.neighbours)
