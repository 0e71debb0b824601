"""First-order distribution matching: the score difference as a gradient on samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.shapes import pad_axes


def pseudo_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """``0.5 mean (x - sg[x - gradient])^2``: its gradient with respect to ``x`` is ``gradient / x.numel()``."""
    target = (x - gradient).detach()
    return 0.5 * (x - target).square().mean()


def mean_absolute_gap(x: Tensor, real: Tensor) -> Tensor:
    """Per sample ``mean |x - real|``, shape (B, 1, ...), without gradient: DMD's normaliser (2311.18828, eq. 8)."""
    return pad_axes((x - real).detach().abs().flatten(1).mean(1), x)


def over_gap(value: Tensor, gap: Tensor) -> Tensor:
    """``value / gap``, where 0 / 0 is 0: a perfect match asks for nothing. Whatever else is not finite stays so."""
    return value / torch.where((gap == 0.0) & (value == 0.0), 1.0, gap)


def normalised(direction: Tensor, x: Tensor, reference: Tensor) -> Tensor:
    """``direction / mean |x - reference|`` per sample, by :func:`over_gap`."""
    return over_gap(direction, mean_absolute_gap(x, reference))


def dmd_gradient(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """``(fake - real) / mean |x - real|`` per sample; 0 / 0 is 0.

    Yin et al. 2023, DMD, arXiv 2311.18828, eqs. 7-8, in terms of x0 predictions; DMD2 (2405.14867) normalises with
    the guided prediction and adds no epsilon.

    Args:
        x: Student samples, (B, ...).
        real: x0 prediction of the (guided) teacher at the re-noised samples, (B, ...).
        fake: x0 prediction of the critic there, (B, ...).
    """
    return normalised(fake - real, x, real)


def guidance_gradient(x: Tensor, cond: Tensor, uncond: Tensor, scale: float, reference: Tensor) -> Tensor:
    """``-(scale - 1) (cond - uncond) / mean |x - reference|`` per sample; 0 / 0 is 0.

    The part of a guided DMD gradient that pulls along the condition ("CFG augmentation", Liu et al. 2025, Decoupled
    DMD, arXiv 2511.22677). With one reference, ``normalised(fake - cond)`` plus this is the gradient with
    ``real = uncond + scale (cond - uncond)``.

    Args:
        x: Student samples, (B, ...).
        cond: x0 prediction of the teacher with the condition, (B, ...).
        uncond: x0 prediction of the teacher without it, (B, ...).
        scale: Guidance scale w.
        reference: What the normaliser compares with ``x``.
    """
    return normalised((1.0 - scale) * (cond - uncond), x, reference)


def vsd_gradient(real: Tensor, fake: Tensor, ratio: Tensor) -> Tensor:
    """``alpha sigma (fake - real)`` with alpha and sigma of the variance-preserving process at noise level ``ratio``.

    Variational score distillation (Wang et al. 2023, arXiv 2305.16213) with SwiftBrush's weight (Nguyen & Tran 2023,
    arXiv 2312.05239): ``sigma^2 (noise_real - noise_fake)`` in terms of x0.

    Args:
        real: x0 prediction of the (guided) teacher, (B, ...).
        fake: x0 prediction of the (guided) critic, (B, ...).
        ratio: sigma / alpha of the process, (B, 1, ...); infinite is allowed.
    """
    weight = 1.0 / (ratio + 1.0 / ratio)
    return weight * (fake - real)
