"""Second-order distribution matching: score identities, with gradients through teacher and critic."""

from __future__ import annotations

from torch import Tensor

from fastgen.objectives.distribution_matching import mean_absolute_gap


def sid_loss(x: Tensor, real: Tensor, fake: Tensor, alpha: float, floor: float = 1e-5) -> Tensor:
    """``mean_B sum omega (real - fake) [(real - x) - alpha (real - fake)]``, omega = 1 / max(mean |x - real|, floor).

    Zhou et al. 2024, SiD, arXiv 2404.04057, eq. 23 with the L1-normalised weight of section 4. Nothing but ``omega``
    is cut from the graph: ``real`` and ``fake`` must carry gradients to the noisy sample that they were made from.
    The value may be negative; it is a surrogate and no measure of progress.

    Args:
        x: Student samples, (B, ...).
        real: x0 prediction of the teacher at the re-noised samples, (B, ...).
        fake: x0 prediction of the critic there, (B, ...).
        alpha: 1 drops the derivative of the sampling distribution, 1/2 is the exact Fisher divergence, 1.2 is SiD's
            over-correction.
        floor: Lower bound of the normaliser.
    """
    omega = mean_absolute_gap(x, real).clamp(min=floor).reciprocal()
    gap = real - fake
    return (omega * gap * ((real - x) - alpha * gap)).flatten(1).sum(1).mean()
