"""Inductive moment matching: jumps to one time from two, compared as sets (Zhou et al. 2025, arXiv 2503.07565)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.processes import Process


def laplace_discrepancy(one: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """The V-statistic (G,) of groups ``one`` and ``other`` (G, M, D) with ``exp(-scale max(|a - b|, 1e-8) / D)``.

    Args:
        one: The groups that carry a gradient.
        other: Those they are compared with.
        scale: Inverse width of the kernel, (G,).
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = (a[:, :, None] - b[:, None]).square().sum(-1).clamp(min=1e-16).sqrt()
        return torch.exp(-scale.to(a.dtype)[:, None, None] * distance / a.shape[-1])

    return (kernel(one, one) + kernel(other, other) - 2.0 * kernel(one, other)).mean((1, 2))


def imm_weight(process: Process, t: Tensor, b: float = 5.0, power: float = 1.0) -> Tensor:
    """``1/2 sigmoid(b - lambda) (-dlambda/dt) alpha^power / (alpha^2 + sigma^2)`` (B,), lambda the log SNR."""
    (alpha, sigma), (alpha_dot, sigma_dot) = process.coefficients(t), process.derivatives(t)
    log_snr, slope = 2.0 * (alpha / sigma).log(), 2.0 * (sigma_dot / sigma - alpha_dot / alpha)
    return 0.5 * torch.sigmoid(b - log_snr) * slope * alpha.pow(power) / (alpha.square() + sigma.square())
