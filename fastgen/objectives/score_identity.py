"""Second-order distribution matching: score identities, with gradients through teacher and critic."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastgen.objectives.distribution_matching import mean_absolute_gap
from fastgen.shapes import expand

FlowWeight = Literal["snr", "root_snr", "1/sigma", "1/sigma^2", "1-sigma", "(1-sigma)^2"]
"""Weights of a noise level in terms of sigma, the time of rectified flow."""


def flow_weight(kind: FlowWeight, ratio: Tensor, floor: float = 1e-5) -> Tensor:
    """The weight (B,) of noise levels sigma / alpha (B,); sigma is ``ratio / (1 + ratio)``, from ``floor`` on.

    Zhou et al. 2025, SiD-DiT, arXiv 2509.25127 and its code (github.com/apple-aiml-research/ml-sid-dit), whose
    ``snr_sqrt`` is ``root_snr``.
    """
    sigma = torch.where(torch.isinf(ratio), torch.ones_like(ratio), ratio / (1.0 + ratio)).clamp(min=floor)
    match kind:
        case "snr":
            return ((1.0 - sigma) / sigma).square()
        case "root_snr":
            return (1.0 - sigma) / sigma
        case "1/sigma":
            return 1.0 / sigma
        case "1/sigma^2":
            return sigma.pow(-2)
        case "1-sigma":
            return 1.0 - sigma
        case "(1-sigma)^2":
            return (1.0 - sigma).square()


def sid_loss(
    x: Tensor,
    real: Tensor,
    fake: Tensor,
    alpha: float,
    floor: float = 1e-5,
    omega: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
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
        omega: Another weight, (B,).
        weight: Constant factor of each sample, (B,).
    """
    distance = mean_absolute_gap(x, real).clamp(min=floor)
    omega = distance.reciprocal() if omega is None else expand(omega, x)
    gap = real - fake
    loss = (omega * gap * ((real - x) - alpha * gap)).flatten(1).sum(1)
    return (loss if weight is None else weight.to(loss.dtype) * loss).mean()
