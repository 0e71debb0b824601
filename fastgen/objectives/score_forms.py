"""Forms of score distillation: how what teacher and critic see in a sample becomes a loss of that sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.objectives.base import Objective
from fastgen.objectives.distribution_matching import (
    dmd_gradient,
    mean_absolute_gap,
    over_gap,
    pseudo_loss,
    vsd_gradient,
)
from fastgen.objectives.metrics import ElementwiseHuber, Metric, PseudoHuber
from fastgen.objectives.score_identity import InverseDistance, sid_loss
from fastgen.objectives.weights import LevelWeight
from fastgen.processes import Prediction
from fastgen.shapes import expand

Network = Literal["teacher", "critic"]


class ScoreForm(Objective, ABC):
    """A loss of the student's samples from the predictions of teacher and critic at noisy copies of them.

    Attributes:
        differentiates: The networks through which the gradient runs into the noisy sample; the others are asked
            without a graph.
    """

    differentiates: ClassVar[frozenset[Network]] = frozenset()

    @abstractmethod
    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        """The scalar loss.

        Args:
            x: Student samples with their graph, (B, ...).
            real: What the (guided) teacher predicts.
            fake: What the (guided) critic predicts.
            weight: Factor of each sample, (B,), constant; default 1.
        """

    def scale_of(self, x: Tensor, real: Prediction) -> Tensor:
        """The scale (B,) that the form gives each sample, without gradient; other terms about the samples may share it.

        Args:
            x: Student samples, (B, ...).
            real: What the (guided) teacher predicts.
        """
        return torch.ones_like(real.t)


def weighted(value: Tensor, weight: Tensor | None) -> Tensor:
    """``value`` (B, ...) times ``weight`` (B,) per sample, in the dtype of ``value``."""
    return value if weight is None else expand(weight, value).to(value.dtype) * value


@dataclass(frozen=True)
class DMDForm(ScoreForm):
    """``0.5 mean (x - sg[x - g])^2`` with ``g = (mu_fake - mu_real) / mean |x - mu_real|``.

    DMD (Yin et al. 2023, arXiv 2311.18828, eqs. 7-8), without an epsilon as in DMD2 (arXiv 2405.14867).
    """

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        return pseudo_loss(x, weighted(dmd_gradient(x, real.x0, fake.x0), weight))


@dataclass(frozen=True)
class VSDForm(ScoreForm):
    """``0.5 mean (x - sg[x - g])^2`` with ``g = sigma^2 (noise_real - noise_fake)``.

    Variational score distillation (Wang et al. 2023, arXiv 2305.16213) with SwiftBrush's weight (arXiv 2312.05239);
    sigma is that of the variance-preserving process at the same noise level.
    """

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        ratio = expand(real.process.ratio(real.t), x)
        return pseudo_loss(x, weighted(vsd_gradient(real.x0, fake.x0, ratio), weight))


@dataclass(frozen=True)
class IKLForm(ScoreForm):
    """``mean_B sum sg[mu_fake - mu_real] . x``: an integral Kullback-Leibler divergence without a normaliser.

    Diff-Instruct (Luo et al. 2023, arXiv 2305.18455).
    """

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        return (weighted((fake.x0 - real.x0).detach(), weight) * x).flatten(1).sum(1).mean()


@dataclass(frozen=True)
class SiDForm(ScoreForm):
    """``scale mean_B sum omega (mu_real - mu_fake) [(mu_real - x) - alpha (mu_real - mu_fake)]``.

    SiD (Zhou et al. 2024, arXiv 2404.04057, eq. 23); the gradient runs through both networks.

    Args:
        alpha: 1 drops the derivative of the sampling distribution, 1/2 is the exact Fisher divergence, 1.2 is SiD's.
        scale: Factor of the loss.
        omega: Weight of a sample by its distance (SiD), or of the noise level (SiD-DiT).
    """

    differentiates: ClassVar[frozenset[Network]] = frozenset({"teacher", "critic"})
    alpha: float = 1.2
    scale: float = 100.0
    omega: LevelWeight | InverseDistance = InverseDistance()

    def __post_init__(self) -> None:
        checks.finite(self, alpha=self.alpha)
        checks.positive(self, scale=self.scale)

    def scale_of(self, x: Tensor, real: Prediction) -> Tensor:
        if isinstance(self.omega, LevelWeight):
            return self.omega(real.process.ratio(real.t))
        return self.omega(x, real.x0)

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        return self.scale * sid_loss(x, real.x0, fake.x0, self.alpha, self.scale_of(x, real), weight)


@dataclass(frozen=True)
class SIMForm(ScoreForm):
    """``mean_B sum (mu_real - mu_fake) (mu_fake - x) / sqrt(|mu_fake - mu_real|^2 + c^2)``.

    Score Implicit Matching (Luo et al. 2024, arXiv 2410.16794) with its pseudo-Huber distance, in terms of x0; the
    gradient runs through both networks and through the root, without which it would not be that of the distance.

    Args:
        metric: The distance of the two predictions.
    """

    differentiates: ClassVar[frozenset[Network]] = frozenset({"teacher", "critic"})
    metric: PseudoHuber = PseudoHuber(0.03, per_element=True)

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        gap = (real.x0 - fake.x0).flatten(1)
        return weighted((gap * (fake.x0 - x).flatten(1)).sum(1) / self.metric.root(gap), weight).mean()


@dataclass(frozen=True)
class DistanceForm(ScoreForm):
    """``mean_B d(x, sg[x - (mu_fake - mu_real)]) / mean |x - mu_real|`` with a distance d; 0 / 0 is 0.

    TDM (Luo et al. 2025, arXiv 2503.06674) in its code.

    Args:
        metric: d.
    """

    metric: Metric = ElementwiseHuber()

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        distance = self.metric(x, (x - (fake.x0 - real.x0)).detach())
        return weighted(over_gap(distance, mean_absolute_gap(x, real.x0).flatten()), weight).mean()
