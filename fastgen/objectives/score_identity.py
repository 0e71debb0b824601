"""Second-order distribution matching: score identities, with gradients through teacher and critic."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastgen import checks
from fastgen.objectives.base import Objective
from fastgen.objectives.distribution_matching import mean_absolute_gap
from fastgen.objectives.divergences import Divergence, weight_and_slope
from fastgen.shapes import expand


@dataclass(frozen=True)
class InverseDistance(Objective):
    """``1 / max(mean |x - mu_real|, floor)``: SiD's weight of a sample.

    Args:
        floor: Lower bound of the distance.
    """

    floor: float = 1e-5

    def __post_init__(self) -> None:
        checks.positive(self, floor=self.floor)

    def __call__(self, x: Tensor, real: Tensor) -> Tensor:
        """Weights (B,) of student samples (B, ...) by what the teacher predicts, (B, ...); without gradient."""
        return mean_absolute_gap(x, real).flatten().clamp(min=self.floor).reciprocal()


def sid_loss(
    x: Tensor,
    real: Tensor,
    fake: Tensor,
    alpha: float,
    omega: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """``mean_B sum omega (real - fake) [(real - x) - alpha (real - fake)]``.

    Zhou et al. 2024, SiD, arXiv 2404.04057, eq. 23 with the L1-normalised weight of section 4. Nothing but ``omega``
    is cut from the graph: ``real`` and ``fake`` must carry gradients to the noisy sample that they were made from.
    The value may be negative; it is a surrogate and no measure of progress.

    Args:
        x: Student samples, (B, ...).
        real: x0 prediction of the teacher at the re-noised samples, (B, ...).
        fake: x0 prediction of the critic there, (B, ...).
        alpha: 1 drops the derivative of the sampling distribution, 1/2 is the exact Fisher divergence, 1.2 is SiD's
            over-correction.
        omega: Weight of each sample, (B,); default :class:`InverseDistance`.
        weight: Constant factor of each sample, (B,).
    """
    omega = expand(InverseDistance()(x, real) if omega is None else omega, x)
    gap = real - fake
    loss = (omega * gap * ((real - x) - alpha * gap)).flatten(1).sum(1)
    return (loss if weight is None else weight.to(loss.dtype) * loss).mean()


def expansion_loss(
    x: Tensor, real: Tensor, fake: Tensor, ratio: Tensor, divergence: Divergence, omega: Tensor
) -> Tensor:
    """``mean_B omega {1/2 (h - r h') |D|^2 + h D . (fake - x)}`` with ``D = real - fake`` and ``h = r^2 f''(r)``.

    An f-divergence expanded over noise levels (Wang et al. 2025, Uni-Instruct, arXiv 2505.20755), in x0. Its gradient
    is the divergence's if ``real``, ``fake`` and ``ratio`` all carry theirs to the noisy sample that they were made
    from. With reverse KL it is :func:`sid_loss` with alpha = 1/2.

    Args:
        x: Student samples, (B, ...).
        real: x0 prediction of the teacher at the re-noised samples, (B, ...).
        fake: x0 prediction of the critic there, (B, ...).
        ratio: r of the teacher's density to the student's there, (B,).
        divergence: Which f-divergence.
        omega: Weight of each sample, (B,).
    """
    h, slope = weight_and_slope(divergence, ratio)
    gap = (real - fake).flatten(1)
    sides = 0.5 * (h - slope) * gap.square().sum(1) + h * (gap * (fake - x).flatten(1)).sum(1)
    return (omega * sides).mean()
