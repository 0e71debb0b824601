"""Progressive distillation: the target that lets one DDIM step do the work of two."""

from __future__ import annotations

from torch import Tensor

from fastgen.objectives.weights import LevelWeight
from fastgen.processes import Process
from fastgen.shapes import expand


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


def halving_loss(process: Process, t: Tensor, x0: Tensor, target: Tensor, weight: LevelWeight) -> Tensor:
    """``mean w(t) (x0 - target)^2`` (Salimans & Ho 2022, arXiv 2202.00512, section 4).

    Args:
        process: The process of ``t``.
        t: Times at which ``x0`` was predicted, (B,).
        x0: Predictions, (B, ...).
        target: Targets, (B, ...).
        weight: Weight of the noise level; evaluated in fp64.
    """
    return (expand(weight(process.ratio(t.double())), x0) * (x0 - target).square()).mean()


def hidden_loss(process: Process, t: Tensor, s: Tensor, x0: Tensor, target: Tensor) -> Tensor:
    """``mean (x_s - x_s*)^2`` of the states that one DDIM step from ``t`` reaches with ``x0`` and with ``target``.

    That is ``(alpha_s - (sigma_s / sigma_t) alpha_t)^2 (x0 - target)^2``.

    Args:
        process: The process of the times.
        t: Where the step begins, (B,).
        s: Where it ends, (B,).
        x0: Predictions, (B, ...).
        target: Targets, (B, ...).
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = process.coefficients(t.double()), process.coefficients(s.double())
    return (expand((alpha_s - sigma_s / sigma_t * alpha_t).square(), x0) * (x0 - target).square()).mean()
