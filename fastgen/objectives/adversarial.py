"""Non-saturating adversarial losses on logits; positive means real (Goodfellow et al. 2014, arXiv 1406.2661)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logits: Tensor) -> Tensor:
    """``mean softplus(-D(fake))``."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``mean softplus(-D(real)) + mean softplus(D(fake))``."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def smoothness_penalty(real_logits: Tensor, moved_logits: Tensor) -> Tensor:
    """``mean (D(real) - D(moved))^2``: for small moves, the R1 penalty without second derivatives (2501.08316)."""
    return (real_logits - moved_logits).square().mean()


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """``mean 1/2 |grad_x D(x)|^2``, R1 at real samples ``x`` (B, ...) (Mescheder et al. 2018, arXiv 1801.04406, eq. 9).

    ``logits`` (B,) must come from ``x``; the result carries a graph to the discriminator.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return 0.5 * gradient.flatten(1).square().sum(1).mean()
