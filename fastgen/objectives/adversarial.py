"""Adversarial losses on logits; positive means real."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.objectives.base import Objective
from fastgen.objectives.divergences import Divergence, ReverseKL, density_ratio


class AdversarialLoss(Objective, ABC):
    """What generator and discriminator lose by their logits, (B, heads); a subclass says it logit by logit."""

    @abstractmethod
    def made(self, fake: Tensor) -> Tensor:
        """What who made the samples loses, (B, heads)."""

    @abstractmethod
    def at_real(self, real: Tensor) -> Tensor:
        """What who tells them apart loses at real samples, (B, heads)."""

    @abstractmethod
    def at_fake(self, fake: Tensor) -> Tensor:
        """What it loses at the others, (B, heads)."""

    def generator(self, fake: Tensor, weight: Tensor | None = None) -> Tensor:
        """The scalar loss of who made the samples, each with a constant factor ``weight`` (B,)."""
        return weighted_mean(self.made(fake), weight)

    def discriminator(self, real: Tensor, fake: Tensor, weight: Tensor | None = None) -> Tensor:
        """The scalar loss of who tells them apart; ``weight`` (B,) is a factor of the i-th of both."""
        return weighted_mean(self.at_real(real), weight) + weighted_mean(self.at_fake(fake), weight)


@dataclass(frozen=True)
class NonSaturating(AdversarialLoss):
    """``mean softplus(-D(fake))``; ``mean softplus(-D(real)) + mean softplus(D(fake))``.

    Goodfellow et al. 2014, arXiv 1406.2661: the best D is the log of the ratio of the densities.
    """

    def made(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake)

    def at_real(self, real: Tensor) -> Tensor:
        return F.softplus(-real)

    def at_fake(self, fake: Tensor) -> Tensor:
        return F.softplus(fake)


@dataclass(frozen=True)
class Hinge(AdversarialLoss):
    """``-mean D(fake)``; ``mean relu(1 - D(real)) + mean relu(1 + D(fake))`` (Lim & Ye 2017, arXiv 1705.02894)."""

    def made(self, fake: Tensor) -> Tensor:
        return -fake

    def at_real(self, real: Tensor) -> Tensor:
        return F.relu(1.0 - real)

    def at_fake(self, fake: Tensor) -> Tensor:
        return F.relu(1.0 + fake)


@dataclass(frozen=True)
class LogRatio(NonSaturating):
    """``-mean sg[h(r)] D(fake)``, with ``r = exp D`` in bounds; D learns as in :class:`NonSaturating`.

    D is the log of the density ratio then, and ``-h(r) grad D`` is the gradient of an f-divergence along the samples,
    ``h(r) = r^2 f''(r)`` (the identity of f-distill, arXiv 2502.15681, with ``grad D`` in place of a difference of two
    scores). No derivative of h is missing.

    Args:
        divergence: Which one; ``ReverseKL`` has h = 1.
    """

    divergence: Divergence = ReverseKL()

    def made(self, fake: Tensor) -> Tensor:
        weight = self.divergence.weight(density_ratio(fake.detach())).to(fake.dtype)
        return -(weight[:, None] * fake.flatten(1))


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """``mean_B weight mean losses`` of losses (B, ...) and constant factors (B,), or none."""
    return losses.mean() if weight is None else (weight.to(losses.dtype) * losses.flatten(1).mean(1)).mean()


def smoothness_penalty(real_logits: Tensor, moved_logits: Tensor) -> Tensor:
    """``mean (D(real) - D(moved))^2``: for small moves, the R1 penalty without second derivatives (2501.08316)."""
    return (real_logits - moved_logits).square().mean()


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """``mean 1/2 |grad_x D(x)|^2``, R1 at real samples ``x`` (B, ...) (Mescheder et al. 2018, arXiv 1801.04406, eq. 9).

    ``logits`` (B,) must come from ``x``; the result carries a graph to the discriminator.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gradient.flatten(1).square().sum(1).mean()
