"""Structural similarity of features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

C1, C2 = 0.01**2, 0.03**2
"""Constants for values of about unit size (Wang et al. 2004)."""


def ssim(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    """Structural similarity (B,) of features ``a`` and a target ``b`` of one shape, 1 for equal ones.

    Wang et al. 2004, IEEE TIP 13(4). Maps (B, C, H, W) are compared in windows of each channel, evenly weighted; tokens
    (B, L, C) over the tokens of each channel; vectors (B, C) over their elements. Both are divided by the root mean
    square of the target's sample, so that the constants fit.
    """
    scale = b.detach().flatten(1).square().mean(1).sqrt().clamp(min=1e-8).reshape(-1, *[1] * (b.ndim - 1))
    a, b = a / scale, b / scale

    def mean(x: Tensor) -> Tensor:
        if x.ndim == 4:
            return F.avg_pool2d(x, [min(window, side) for side in x.shape[2:]], stride=1)
        return x.mean(1, keepdim=True)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a.square(), mean(b * b) - mean_b.square()
    covariance = mean(a * b) - mean_a * mean_b
    value = (2.0 * mean_a * mean_b + C1) * (2.0 * covariance + C2)
    value = value / ((mean_a.square() + mean_b.square() + C1) * (var_a + var_b + C2))
    return value.flatten(1).mean(1)


def dissimilarity(ours: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    """``mean over layers (1 - ssim)`` of each sample, (B,), of features by layer."""
    return torch.stack([1.0 - ssim(ours[name], target[name].detach()) for name in target]).mean(0)
