"""The Fréchet distance between Gaussians fitted to features, and what it is between real and real."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.base import SampleMetric
from fastgen.metrics.samples.feature_metric import FeatureMetric, Features, FeatureSpace
from fastgen.randomness import generator
from fastgen.results.kinds import BOOKKEEPING, Kind


def moments(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of samples (N, D), fp64."""
    samples = samples.double()
    mean = samples.mean(dim=0)
    centred = samples - mean
    return mean, centred.T @ centred / (len(samples) - 1)


def moments_of_sums(total: Tensor, outer: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) from sum x (D,) and sum x x^T (D, D) over ``count`` samples, fp64."""
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, the "FID" formula (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)``, in fp64 on the CPU by symmetric eigenvalues: no matrix
    square root of a product that is not symmetric, and singular covariances need no ridge.

    Args:
        mean1: (D,) fp64.
        cov1: (D, D) fp64.
        mean2: (D,) fp64.
        cov2: (D, D) fp64.

    Raises:
        ValueError: If a tensor is not fp64; in fp32 the result is wrong by parts of a thousand of the trace.
        UserError: If a value is not finite.
    """
    if any(tensor.dtype != torch.float64 for tensor in (mean1, cov1, mean2, cov2)):
        raise ValueError("frechet_distance needs fp64 moments")
    mean1, cov1, mean2, cov2 = (tensor.cpu() for tensor in (mean1, cov1, mean2, cov2))
    if not all(bool(tensor.isfinite().all()) for tensor in (mean1, cov1, mean2, cov2)):
        raise UserError("A mean or covariance of features is not finite, so there is no Fréchet distance.")
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ cov2 @ root
    trace_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_root
    return max(0.0, float(distance))


@dataclass(frozen=True)
class FrechetDistance(FeatureMetric):
    """:func:`frechet_distance` between all samples and all of the reference; gives ``frechet`` and the counts.

    It is biased upwards by about ``const * (1/N + 1/M)``: compare only at equal counts.
    """

    numbers = {"frechet": Kind("fidelity", "lower"), "count": BOOKKEEPING, "reference_count": BOOKKEEPING}

    def build(self, space: FeatureSpace) -> FrechetSums:
        """Sums are enough."""
        return FrechetSums(space.num_features)


class FrechetSums(SampleMetric):
    """The states of :class:`FrechetDistance`.

    They are fp64 sums, so the result over several ranks, however uneven their shares, is that of one process.

    Args:
        num_features: D.
    """

    numbers = FrechetDistance.numbers
    needs_reference = True
    total: Tensor
    outer: Tensor
    count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.reference_count = 0
        self.reference_moments: tuple[Tensor, Tensor] | None = None
        self.add_state("total", torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def set_reference(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Compare with ``samples`` (M, D)."""
        if len(samples) < 2:
            raise UserError(f"FrechetDistance needs a reference of at least 2 samples, got {len(samples)}.")
        self.set_moments(*moments(samples.flatten(1)), len(samples))

    def set_moments(self, mean: Tensor, cov: Tensor, count: int) -> None:
        """Compare with ``count`` samples (0 if nobody knows) of mean (D,) and covariance (D, D), fp64."""
        self._computed = None
        self.reference_count = count
        self.reference_moments = mean, cov

    def refer_to_own_samples(self) -> None:
        """Compare with the moments of what all ranks have taken in."""
        self.set_moments(*self.gathered())

    def gathered(self) -> tuple[Tensor, Tensor, int]:
        """Mean (D,) and covariance (D, D) of the samples of all ranks and their count. Every rank must call it."""
        with self.sync_context(should_sync=self._to_sync):
            return self.own_moments()

    def own_moments(self) -> tuple[Tensor, Tensor, int]:
        """Mean, unbiased covariance and count of what the states hold.

        Raises:
            UserError: If that is fewer than two samples.
        """
        count = int(self.count)
        if count < 2:
            raise UserError(f"FrechetDistance needs at least 2 samples, got {count}; raise their count.")
        return *moments_of_sums(self.total, self.outer, count), count

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Add features (B, D)."""
        features = samples.detach().flatten(1).to(self.device).double()
        self.total = self.total + features.sum(dim=0)
        self.outer = self.outer + features.T @ features
        self.count = self.count + len(features)

    def compute(self) -> dict[str, float]:
        """``{"frechet": distance, "count": samples, "reference_count": reference samples}``."""
        if self.reference_moments is None:
            raise UserError("FrechetDistance has no reference; call set_reference(...) first.")
        mean, cov, count = self.own_moments()
        distance = frechet_distance(mean, cov, *self.reference_moments)
        return {"frechet": distance, "count": float(count), "reference_count": float(self.reference_count)}


@dataclass(frozen=True)
class FrechetRatio(FeatureMetric):
    """How far samples are from real ones, in units of how far real ones are from each other.

    The Fréchet distance of finite sets is biased by about ``const * (1/N + 1/M)`` and its scale means nothing by
    itself. So everything here is measured at one count m on both sides, with the same labels on both sides:

    - The reference is cut at random into two disjoint halves A and B of m each; ``frechet_floor`` is the distance of A
      and B: what a perfect sampler would get.
    - m of the samples are drawn; ``frechet_to_half`` is the mean of their distances to A and to B.
    - ``frechet_over_floor`` is the quotient: 1 for a perfect sampler, below 1 for one that repeats the reference.

    All three are means over ``splits`` random cuts. If both sides have labels, m / K of each class are taken on all
    three sides, as many as the scarcest class allows; otherwise m is half of the reference or the number of samples,
    whichever is less.

    Args:
        splits: Number of random cuts; each costs three distances.
    """

    splits: int = 4
    numbers = {
        "frechet_over_floor": Kind("fidelity", "lower"),
        "frechet_floor": BOOKKEEPING,
        "frechet_to_half": Kind("fidelity", "lower"),
        "frechet_half_count": BOOKKEEPING,
    }

    def __post_init__(self) -> None:
        checks.whole(self, splits=self.splits)

    @property
    def least_reference(self) -> int:
        """Two halves of two."""
        return 4

    def measure(self, samples: Features, reference: Features) -> dict[str, float]:
        """``{"frechet_over_floor", "frechet_floor", "frechet_to_half", "frechet_half_count"}``."""
        own_samples, real = samples.values, reference.values
        floor, distance, count = 0.0, 0.0, 0
        for split in range(self.splits):
            rows, half_a, half_b = _equal_rows(len(samples), samples.label, len(reference), reference.label, split)
            count = len(rows)
            own, a, b = moments(own_samples[rows]), moments(real[half_a]), moments(real[half_b])
            floor += frechet_distance(*a, *b) / self.splits
            distance += (frechet_distance(*own, *a) + frechet_distance(*own, *b)) / (2 * self.splits)
        return {
            "frechet_over_floor": distance / floor if floor > 0 else float("nan"),
            "frechet_floor": floor,
            "frechet_to_half": distance,
            "frechet_half_count": float(count),
        }


def _equal_rows(
    count: int, label: Tensor | None, reference_count: int, reference_label: Tensor | None, split: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of equally many samples, of half A and of half B of the reference."""
    own = torch.randperm(count, generator=generator("floor samples", split))
    other = torch.randperm(reference_count, generator=generator("floor reference", split))
    groups = [(own, other)]
    if label is not None and reference_label is not None:
        label, reference_label = label.cpu()[own], reference_label.cpu()[other]
        classes = reference_label.unique().tolist()
        by_class = [(own[label == c], other[reference_label == c]) for c in classes]
        # A class without samples, or with a single image, cannot be balanced: then all rows are one group.
        if all(len(a) >= 1 and len(b) >= 2 for a, b in by_class):
            groups = by_class
    size = min(min(len(a), len(b) // 2) for a, b in groups)
    return (
        torch.cat([a[:size] for a, _ in groups]),
        torch.cat([b[:size] for _, b in groups]),
        torch.cat([b[size : 2 * size] for _, b in groups]),
    )
