"""Progressive distillation: the target that lets one DDIM step do the work of two."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fastgen.processes import Process
from fastgen.shapes import expand

SNRWeight = Literal["truncated_snr", "snr_plus_one", "snr", "one"]


def ddim_target(process: Process, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor) -> Tensor:
    """The x0 with which one DDIM step from ``x_t`` lands on ``x_s``.

    ``(x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)`` (Salimans & Ho 2022, arXiv 2202.00512,
    appendix G), in fp64. At the clean end it is ``x_s`` itself.

    Args:
        process: The process of both.
        x_t: Where the step begins, (B, ...).
        t: Times of ``x_t``, (B,).
        x_s: Where the step must end, (B, ...).
        s: Times of ``x_s``, (B,), before ``t``.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.coefficients(t.double()), process.coefficients(s.double())
    ratio = sigma_s / sigma_t
    x_t, x_s = x_t.double(), x_s.double()
    return (x_s - expand(ratio, x_t) * x_t) / expand(alpha_s - ratio * alpha_t, x_t)


def snr_loss(process: Process, t: Tensor, x0: Tensor, target: Tensor, weight: SNRWeight = "truncated_snr") -> Tensor:
    """``mean w(SNR) (x0 - target)^2`` with SNR = (alpha / sigma)^2 (Salimans & Ho 2022, section 4).

    Args:
        process: The process of ``t``.
        t: Times at which ``x0`` was predicted, (B,).
        x0: Predictions, (B, ...).
        target: Targets, (B, ...).
        weight: ``truncated_snr``: max(SNR, 1), the larger of the errors of x0 and of the noise; ``snr_plus_one``: the
            error of v; ``snr``: of the noise; ``one``: of x0.
    """
    snr = process.ratio(t.double()).pow(-2)
    factor = {"truncated_snr": snr.clamp(min=1.0), "snr_plus_one": snr + 1.0, "snr": snr, "one": snr.new_ones(len(snr))}
    return (expand(factor[weight], x0) * (x0 - target).square()).mean()
