"""What a network is told about the noise level: input and output scalings, and time inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.processes import Process
from fastgen.shapes import expand

LARGEST_RATIO = 1e4
"""``c_noise`` is frozen where sigma / alpha leaves [1 / LARGEST_RATIO, LARGEST_RATIO]; its logarithm diverges there."""


@dataclass(frozen=True)
class Preconditioning:
    """``x0 = c_skip x_t + c_out F(c_in x_t, c_noise)``; every coefficient has shape (B,)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor

    def network_input(self, x_t: Tensor) -> Tensor:
        """``c_in x_t``, of unit variance, in fp32 or better."""
        return expand(self.c_in, x_t) * x_t

    def x0(self, x_t: Tensor, output: Tensor) -> Tensor:
        """The denoised sample from the network's ``output`` F, in fp32 or better."""
        return expand(self.c_skip, x_t) * x_t + expand(self.c_out, x_t) * output


def edm_preconditioning(process: Process, t: Tensor, sigma_data: float) -> Preconditioning:
    """The scalings of EDM (Karras et al. 2022, arXiv 2206.00364, table 1), for any process.

    A process sees the EDM network through ``x_t / alpha`` at the noise level ``sigma / alpha``. The fractions are
    expanded by alpha, so that all coefficients are finite at alpha = 0.

    Args:
        process: The process of ``x_t``.
        t: Times, shape (B,).
        sigma_data: Standard deviation of the data.
    """
    alpha, sigma = process.coefficients(t)
    variance = (alpha * sigma_data).square() + sigma.square()
    deviation = variance.sqrt()
    return Preconditioning(
        c_skip=alpha * sigma_data**2 / variance,
        c_out=sigma * sigma_data / deviation,
        c_in=1.0 / deviation,
        c_noise=log_ratio(alpha, sigma) / 4.0,
    )


def log_ratio(alpha: Tensor, sigma: Tensor) -> Tensor:
    """``log(sigma / alpha)``, finite for alpha = 0 and for sigma = 0."""
    tiny = 1e-30
    bound = math.log(LARGEST_RATIO)
    return (sigma.clamp(min=tiny).log() - alpha.clamp(min=tiny).log()).clamp(-bound, bound)


def noise_angle(process: Process, t: Tensor) -> Tensor:
    """``atan(sigma / alpha)`` at times ``t`` (B,): a smooth time in [0, pi/2] that means the same on every process."""
    alpha, sigma = process.coefficients(t)
    return torch.atan2(sigma, alpha)


def time_features(value: Tensor, count: int) -> Tensor:
    """Sines and cosines of ``value`` (B,) at frequencies 1/2 to 16, shape (B, 2 count), in the dtype of ``value``.

    Values are of order one (``c_noise`` or an angle). Low frequencies keep time derivatives small, which flow maps
    need (Lu & Song 2024, arXiv 2410.11081, section 4.1).
    """
    frequencies = torch.exp2(torch.linspace(-1.0, 4.0, count, dtype=value.dtype, device=value.device))
    angle = value[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=1)
