"""Exact distances to a law that is known: modes, likelihood, transport and kernel distances.

``law`` is a denoiser from ``fastgen.denoisers.exact.gaussians``. Labels of the samples, where there are any, set the
shares of the classes that the law is taken with, so balanced samples of an unbalanced law are compared fairly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.metrics.base import SampleMetric
from fastgen.metrics.laws.law_metric import LawMetric
from fastgen.metrics.samples.accuracy import CorrectLabels
from fastgen.metrics.samples.kernel import gaussian_kernel, mean_within
from fastgen.randomness import generator
from fastgen.results.kinds import BOOKKEEPING, Kind


def fresh(law: Any, name: str, count: int, label: Tensor | None, device: torch.device) -> Tensor:
    """Fresh samples (count, D) of the law, fp64, with these labels; the same at every call of one ``name``."""
    return law.sample(count, generator("fresh", name), label, dtype=torch.float64).flatten(1).to(device)


def wasserstein2(x: Tensor, y: Tensor) -> float:
    """Exact 2-Wasserstein distance of two equally large sets (N, D), by optimal assignment: O(N^3)."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x.double(), y.double()).square().cpu().numpy()
    rows, columns = linear_sum_assignment(cost)
    return math.sqrt(cost[rows, columns].mean())


def sliced_wasserstein2(x: Tensor, y: Tensor, projections: int = 128) -> float:
    """Sliced 2-Wasserstein distance of two equally large sets (N, D), root mean over fixed random directions.

    Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures". In D dimensions it is at most the
    2-Wasserstein distance divided by sqrt(D).
    """
    directions = torch.randn(x.shape[1], projections, generator=generator("slices"), dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x.device)
    difference = (x.double() @ directions).sort(dim=0).values - (y.double() @ directions).sort(dim=0).values
    return float(difference.square().mean().sqrt())


@dataclass(frozen=True)
class WassersteinDistance(LawMetric):
    """Transport distance to fresh samples of the law, equally many and with the same labels.

    Gives ``wasserstein2`` (exact, on at most ``exact_count`` samples), ``wasserstein2_floor`` (the same between fresh
    samples and fresh samples: what a perfect sampler gets) and ``sliced_wasserstein2`` (all samples).

    Args:
        exact_count: Largest number of samples that are assigned exactly; 1000 take a fraction of a second.
    """

    exact_count: int = 1000
    numbers = {
        "wasserstein2": Kind("fidelity", "lower"),
        "wasserstein2_floor": BOOKKEEPING,
        "sliced_wasserstein2": Kind("fidelity", "lower"),
    }

    def __post_init__(self) -> None:
        checks.whole(self, exact_count=self.exact_count)

    def measure(self, law: Any, samples: Tensor, label: Tensor | None) -> dict[str, float]:
        """The three numbers."""
        rows = torch.randperm(len(samples), generator=generator("transport"))[: self.exact_count].to(samples.device)
        part, part_label = samples[rows], None if label is None else label[rows]
        device = samples.device
        other = fresh(law, "a", len(part), part_label, device)
        return {
            "wasserstein2": wasserstein2(part, other),
            "wasserstein2_floor": wasserstein2(fresh(law, "b", len(part), part_label, device), other),
            "sliced_wasserstein2": sliced_wasserstein2(samples, fresh(law, "c", len(samples), label, device)),
        }


@dataclass(frozen=True)
class LawKernelDistance(LawMetric):
    """Unbiased squared MMD to the law itself with Gaussian kernels, mean over three bandwidths; gives ``mmd2``.

    E_{x ~ law} k(x, y) is ``(2 pi h^2)^{D/2}`` times the density of the law blurred by h, which is known exactly, so
    only the samples are random. E k(x, x') of the law with itself is the mean of that over 16384 fresh samples.

    Args:
        bandwidths: h, in units of the root of the trace of the law's covariance.
    """

    bandwidths: tuple[float, ...] = (0.1, 0.3, 1.0)
    numbers = {"mmd2": Kind("fidelity", "lower")}

    def __post_init__(self) -> None:
        checks.not_empty(self, bandwidths=self.bandwidths)
        checks.positive(self, bandwidths=self.bandwidths)

    def measure(self, law: Any, samples: Tensor, label: Tensor | None) -> dict[str, float]:
        """``{"mmd2": squared distance}``."""
        spread = float(law.covariance.trace().sqrt())
        bandwidths = [spread * bandwidth for bandwidth in self.bandwidths]
        shares, fresh_label = None, None
        if label is not None and law.num_classes:
            shares = torch.bincount(label, minlength=law.num_classes).double() / len(label)
            fresh_label = label[torch.arange(16384, device=label.device) * len(label) // 16384]
        real = fresh(law, "kernel", 16384, fresh_label, samples.device)
        total = 0.0
        for bandwidth in bandwidths:
            within = mean_within(samples, gaussian_kernel(bandwidth), label if shares is not None else None)
            across = expected_kernel(law, samples, shares, bandwidth).mean()
            total += float(within - 2 * across + expected_kernel(law, real, shares, bandwidth).mean())
        return {"mmd2": total / len(bandwidths)}


def expected_kernel(law: Any, y: Tensor, shares: Tensor | None, bandwidth: float) -> Tensor:
    """E_{x ~ law} k(x, y) for y (N, D); ``shares`` (K,) of the classes, ``None`` for the law's own."""
    one = torch.ones(len(y), 1, dtype=torch.float64, device=y.device)
    factor = 0.5 * y.shape[1] * math.log(2 * math.pi * bandwidth**2)

    def log_blurred(label: Tensor | None) -> Tensor:
        return factor + law.log_marginal(y, one, bandwidth * one, label)

    if shares is None:
        return log_blurred(None).exp()
    classes = [k for k, share in enumerate(shares.tolist()) if share > 0]
    return torch.stack([shares[k] * log_blurred(torch.full((len(y),), k, device=y.device)).exp() for k in classes]).sum(
        0
    )


@dataclass(frozen=True)
class LawLikelihood(LawMetric):
    """Mean negative log density of the samples under the law, in nats; gives ``nll`` and ``count``.

    A fidelity number only. The law must have a density.
    """

    numbers = {"nll": Kind("fidelity", "lower"), "count": BOOKKEEPING}

    def build(self, law: Any) -> LikelihoodSums:
        """Sums are enough."""
        return LikelihoodSums(law)


class LikelihoodSums(SampleMetric):
    """The states of :class:`LawLikelihood`.

    Args:
        law: The law.
    """

    numbers = LawLikelihood.numbers
    total: Tensor
    count: Tensor

    def __init__(self, law: Any) -> None:
        super().__init__()
        self._law = (law,)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Add samples (B, ...) of the classes ``label``."""
        self.total = self.total - self._law[0].log_prob(samples, label).sum().to(self.device)
        self.count = self.count + len(samples)

    def compute(self) -> dict[str, float]:
        """``{"nll": nats, "count": samples}``."""
        count = int(self.count)
        return {"nll": float(self.total) / count if count else math.nan, "count": float(count)}


def squared_deviations(law: Any, samples: Tensor) -> Tensor:
    """Squared Mahalanobis distance (N, K) of samples (N, D) fp64 to every Gaussian of a mixture."""
    distance = torch.cdist(samples, law.means).square()
    if not hasattr(law, "bases"):
        return distance / law.variances
    along = (torch.einsum("nd,kdr->nkr", samples, law.bases) - law.mean_coordinates).square()
    inside = (along / (law.subspace_variances + law.variances[:, None])).sum(2)
    return (distance - along.sum(2)).clamp(min=0) / law.variances + inside


@dataclass(frozen=True)
class ModeCoverage(LawMetric):
    """Which Gaussians of a mixture a sampler finds, and how often it hits them.

    A sample belongs to the Gaussian that most probably made it, and hits it if it lies within ``radius`` standard
    deviations (in D dimensions: in the ball that holds as much of a Gaussian as that radius does in the plane). Gives

    - ``mode_coverage``: share of modes found: those with at least ``found_share`` of the hits that the law expects;
      ``modes_found`` is their number.
    - ``mode_kl``: KL(histogram of samples over modes || the law's), in nats; 0 is perfect.
    - ``high_quality``: share of samples that hit (0.989 for the law itself). A fidelity number only.

    Args:
        radius: How many standard deviations from its mode a good sample is at most.
        found_share: Part of its expected number of good samples that makes a mode count as found.
    """

    radius: float = 3.0
    found_share: float = 0.2
    numbers = {
        "mode_coverage": Kind("coverage", "higher"),
        "modes_found": Kind("coverage", "higher"),
        "mode_kl": Kind("coverage", "lower"),
        "high_quality": Kind("fidelity", "higher"),
    }

    def __post_init__(self) -> None:
        checks.positive(self, radius=self.radius)
        checks.between(self, 0.0, 1.0, "(]", found_share=self.found_share)

    def build(self, law: Any) -> ModeCounts:
        """Counts are enough."""
        return ModeCounts(law, self.radius, self.found_share)


class ModeCounts(SampleMetric):
    """The states of :class:`ModeCoverage`.

    Args:
        law: A ``MixtureDenoiser`` with positive standard deviations.
        radius: As there.
        found_share: As there.
    """

    numbers = ModeCoverage.numbers
    samples_of: Tensor
    hits_of: Tensor
    expected_of: Tensor

    def __init__(self, law: Any, radius: float, found_share: float) -> None:
        from scipy.stats import chi2

        super().__init__()
        self._law = (law,)
        self.found_share = found_share
        self.threshold = float(chi2.ppf(-math.expm1(-(radius**2) / 2), law.means.shape[1]))
        for name in ("samples_of", "hits_of", "expected_of"):
            self.add_state(name, torch.zeros(len(law.means), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, samples: Tensor, label: Tensor | None = None) -> None:
        """Add samples (B, ...) of the classes ``label``."""
        law = self._law[0]
        samples = samples.flatten(1).double()
        modes = len(law.means)
        owner = law.responsibilities(samples).argmax(dim=1)
        own_deviation = squared_deviations(law, samples).gather(1, owner[:, None]).squeeze(1)
        hits = torch.bincount(owner[own_deviation <= self.threshold], minlength=modes)
        self.samples_of = self.samples_of + torch.bincount(owner, minlength=modes).to(self.samples_of)
        self.hits_of = self.hits_of + hits.to(self.hits_of)
        if label is None or law.num_classes == 0:
            expected = len(samples) * law.mixing
        else:
            weights = torch.where(law.classes == label.to(law.classes.device)[:, None], law.mixing, 0.0)
            expected = (weights / weights.sum(dim=1, keepdim=True)).sum(dim=0)
        self.expected_of = self.expected_of + expected.to(self.expected_of)

    def compute(self) -> dict[str, float]:
        """The four numbers."""
        count = self.samples_of.sum().clamp(min=1)
        share, expected = self.samples_of / count, self.expected_of / count
        possible = expected > 0
        found = (self.hits_of >= self.found_share * self.expected_of) & possible
        # A sample of a class's mode under another class's label would be infinitely surprising: bound it.
        kl = torch.xlogy(share, share / expected.clamp(min=1e-12)).sum()
        return {
            "mode_coverage": float(found.sum() / possible.sum()),
            "modes_found": float(found.sum()),
            "mode_kl": max(0.0, float(kl)),
            "high_quality": float(self.hits_of.sum() / count),
        }


@dataclass(frozen=True)
class LawAccuracy(LawMetric):
    """Share of labelled samples that most probably belong to their class; gives ``accuracy``, if there are classes."""

    numbers = CorrectLabels.numbers

    def build(self, law: Any) -> CorrectLabels:
        """Counts are enough."""

        def probabilities(samples: Tensor, label: Tensor) -> Tensor:
            of_mode = law.responsibilities(samples)
            return of_mode.new_zeros(len(samples), law.num_classes).index_add(1, law.classes, of_mode)

        return CorrectLabels(probabilities)
