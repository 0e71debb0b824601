"""f-divergences as weights of the score difference (Xu et al. 2025, f-distill, arXiv 2502.15681, table 1).

For ``D_f(p || q) = int q f(p / q)`` between the teacher's p and the student's q, the gradient of the divergence,
integrated over noise levels, is the reverse Kullback-Leibler one with every sample weighted by ``h(r) = r^2 f''(r)`` at
its density ratio ``r = p / q``. Constant factors of h do not matter once it is normalised, and are left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.objectives.base import Objective


class Divergence(Objective, ABC):
    """An f-divergence ``int q f(p / q)``, by the ratio ``r = p / q``."""

    @abstractmethod
    def generator(self, r: Tensor) -> Tensor:
        """f(r), elementwise."""

    @abstractmethod
    def weight(self, r: Tensor) -> Tensor:
        """``h(r) = r^2 f''(r)``: mode-seeking where it falls with r, mass-covering where it grows."""


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """``KL(q || p)``: seeks modes, as distribution matching does."""

    def generator(self, r: Tensor) -> Tensor:
        return -r.log()

    def weight(self, r: Tensor) -> Tensor:
        return torch.ones_like(r)


@dataclass(frozen=True)
class SoftenedReverseKL(Divergence):
    """Reverse Kullback-Leibler against the mixture of both laws."""

    def generator(self, r: Tensor) -> Tensor:
        return (r + 1.0) * (0.5 + 0.5 / r).log()

    def weight(self, r: Tensor) -> Tensor:
        return 1.0 / (1.0 + r)


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """The symmetric divergence to the mixture of both laws."""

    def generator(self, r: Tensor) -> Tensor:
        return r * r.log() - (r + 1.0) * (0.5 * (r + 1.0)).log()

    def weight(self, r: Tensor) -> Tensor:
        return r / (1.0 + r)


@dataclass(frozen=True)
class SquaredHellinger(Divergence):
    """The squared distance of Hellinger."""

    def generator(self, r: Tensor) -> Tensor:
        return 4.0 * (1.0 - r.sqrt())  # four times that of the table, so that h is sqrt(r)

    def weight(self, r: Tensor) -> Tensor:
        return r.sqrt()


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """``KL(p || q)``: covers all of the mass."""

    def generator(self, r: Tensor) -> Tensor:
        return r * r.log()

    def weight(self, r: Tensor) -> Tensor:
        return r


@dataclass(frozen=True)
class Jeffreys(Divergence):
    """The sum of both Kullback-Leibler divergences."""

    def generator(self, r: Tensor) -> Tensor:
        return (r - 1.0) * r.log()

    def weight(self, r: Tensor) -> Tensor:
        return 1.0 + r


@dataclass(frozen=True)
class Neyman(Divergence):
    """Neyman's chi-squared, the most mode-seeking."""

    def generator(self, r: Tensor) -> Tensor:
        return 0.5 * (1.0 - r).square() / r  # half of that of the table

    def weight(self, r: Tensor) -> Tensor:
        return 1.0 / r.clamp(min=1e-8)


@dataclass(frozen=True)
class ChiSquare(Divergence):
    """Pearson's chi-squared, the most mass-covering."""

    def generator(self, r: Tensor) -> Tensor:
        return 0.5 * (r - 1.0).square()

    def weight(self, r: Tensor) -> Tensor:
        return r.square()


def density_ratio(logits: Tensor, limit: float = 10.0, low: float = 0.1, high: float = 20.0) -> Tensor:
    """``real / fake`` (B,) from a discriminator's logits (B, heads), with the bounds of f-distill."""
    return logits.flatten(1).mean(1).clamp(-limit, limit).exp().clamp(low, high)


def weight_and_slope(divergence: Divergence, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """``h(r)`` and ``r h'(r)`` (B,) at ratios (B,); both differentiable."""
    found = torch.func.jvp(divergence.weight, (ratio,), (ratio,))
    return found[0], found[1]


def gaussian_kl(mean: Tensor, variance: Tensor, real_mean: float, real_variance: float) -> Tensor:
    """``1/2 [(s^2 + (m - m*)^2) / s*^2 - 1 - log(s^2 / s*^2)]``: from N(m*, s*^2) to N(m, s^2), elementwise."""
    ratio = variance / real_variance
    return 0.5 * (ratio + (mean - real_mean).square() / real_variance - 1.0 - ratio.log())
