"""What a critic must correct for when samples are re-noised from the middle of a trajectory."""

from __future__ import annotations

from torch import Tensor

from fastgen.processes import Prediction, Process
from fastgen.shapes import expand


def trajectory_denoising_loss(prediction: Prediction, x0: Tensor, noise: Tensor, snr_cap: float = 5.0) -> Tensor:
    """``mean min(SNR, cap) w (prediction - x0)^2``, ``w = exp(-mean e^2 / 2) / exp(-mean noise^2 / 2)`` per sample.

    ``e = (x_t - alpha x0) / sigma`` is the noise that effectively lies between ``x0`` and ``x_t``; it is not normal if
    ``x_t`` was made by re-noising a point between them, which the importance weight w corrects for (Luo et al. 2025,
    TDM, arXiv 2503.06674, and its code).

    Args:
        prediction: The critic's, at x_t.
        x0: The student's clean prediction on the way, (B, ...).
        noise: Standard normal noise that x_t was made with from that point, (B, ...).
        snr_cap: Largest weight, of alpha^2 / sigma^2 (Hang et al. 2023, min-SNR, arXiv 2303.09556).
    """
    alpha, sigma = (expand(c, x0) for c in prediction.process.coefficients(prediction.t))
    effective = (prediction.x_t.detach() - alpha * x0) / sigma
    exponent = 0.5 * (noise.square() - effective.square()).flatten(1).mean(1)
    weight = (alpha / sigma).square().clamp(max=snr_cap) * expand(exponent.exp(), x0)
    return (weight * (prediction.x0 - x0).square()).mean()


def sub_interval_truth(process: Process, x_s: Tensor, s: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """What a denoiser of ``x_t ~ q(x_t | x_s)`` learns without bias when only ``x_s`` is known: (x0, noise).

    The score of the kernel, ``-noise / sigma_{t|s}``, has the mean ``grad log p_t(x_t)`` given x_t; x0 and noise are
    what follow from it. On rectified flow their difference is the velocity of Phased DMD (Fan et al. 2025, arXiv
    2510.27684): ``(alpha_s^2 sigma_t + alpha_t sigma_s^2) / (alpha_s^2 sigma_{t|s}) noise - x_s / alpha_s``. For data
    x_s it is the datum with the noise itself.

    Args:
        process: The process of both times.
        x_s: Samples at ``s``, (B, ...).
        s: Times, (B,).
        t: Times after ``s``, (B,).
        noise: Standard normal noise by which x_t was made of x_s, (B, ...).
    """
    (alpha_s, sigma_s), (alpha_t, sigma_t) = process.coefficients(s), process.coefficients(t)
    _, deviation = process.kernel(s, t)
    share = alpha_t * (sigma_s / alpha_s).square() / deviation
    return x_s / expand(alpha_s, x_s) - expand(share, x_s) * noise, expand(sigma_t / deviation, x_s) * noise
