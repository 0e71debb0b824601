"""First-order distribution matching: the score difference as a gradient on samples."""

from __future__ import annotations

import torch
from torch import Tensor


def pseudo_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """``0.5 mean (x - sg[x - gradient])^2``: its gradient with respect to ``x`` is ``gradient / x.numel()``."""
    target = (x - gradient).detach()
    return 0.5 * (x - target).square().mean()


def mean_absolute_gap(x: Tensor, real: Tensor) -> Tensor:
    """Per sample ``mean |x - real|``, shape (B, 1, ...), without gradient: DMD's normaliser (2311.18828, eq. 8)."""
    return (x - real).detach().abs().flatten(1).mean(1).reshape(-1, *[1] * (x.ndim - 1))


def dmd_gradient(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """``(fake - real) / mean |x - real|`` per sample; non-finite entries become zero.

    Yin et al. 2023, DMD, arXiv 2311.18828, eqs. 7-8, in terms of x0 predictions; DMD2 (2405.14867) normalises with
    the guided prediction and adds no epsilon.

    Args:
        x: Student samples, (B, ...).
        real: x0 prediction of the (guided) teacher at the re-noised samples, (B, ...).
        fake: x0 prediction of the critic there, (B, ...).
    """
    return torch.nan_to_num((fake - real) / mean_absolute_gap(x, real), nan=0.0, posinf=0.0, neginf=0.0)
