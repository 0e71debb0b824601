"""Closed forms that tests compare the library with; fp64 tensors in, fp64 tensors out, no autograd.

Notation: the generator is x = A z + b; a Gaussian N(m, C) has the denoiser mu(x_t) = K x_t + (I - alpha K) m with the
gain K = alpha C (alpha^2 C + sigma^2 I)^-1. Batches are rows: x is (B, D), ``alpha`` and ``sigma`` are (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor


def root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (D, D)."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag(values.sqrt()) @ vectors.T


def gain(covariance: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """K = alpha C (alpha^2 C + sigma^2 I)^-1 for every sample, (B, D, D)."""
    eye = torch.eye(len(covariance), dtype=torch.float64)
    return torch.stack(
        [a * covariance @ torch.linalg.inv(a * a * covariance + s * s * eye) for a, s in zip(alpha, sigma, strict=True)]
    )


def times(matrices: Tensor, rows: Tensor) -> Tensor:
    """Matrix (B, D, D) times vector (B, D) of every sample."""
    return (matrices @ rows[:, :, None])[:, :, 0]


def gaussian_x0(mean: Tensor, covariance: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x_t] of N(mean, covariance), (B, D)."""
    return mean + times(gain(covariance, alpha, sigma), x_t - alpha[:, None] * mean)


def mixture_x0(means: Tensor, stds: Tensor, weights: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x_t] of a mixture of isotropic Gaussians, component by component, (B, D)."""
    result = torch.empty_like(x_t)
    for i, (x, a, s) in enumerate(zip(x_t, alpha, sigma, strict=True)):
        variances = a**2 * stds**2 + s**2
        exponents = -0.5 * (x - a * means).square().sum(1) / variances
        densities = weights * variances.pow(-len(x) / 2) * torch.exp(exponents - exponents.max())
        centres = means + (a * stds**2 / variances)[:, None] * (x - a * means)
        result[i] = (densities / densities.sum()) @ centres
    return result


def flow_map(mean: Tensor, covariance: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
    """Where the probability flow ends: x0 = m + C^1/2 (alpha^2 C + sigma^2 I)^-1/2 (x_t - alpha m)."""
    values, vectors = torch.linalg.eigh(covariance)
    scale = (values / (alpha**2 * values + sigma**2)).sqrt()
    return mean + (((x_t - alpha * mean) @ vectors) * scale) @ vectors.T


def normaliser(x: Tensor, real: Tensor) -> Tensor:
    """The mean |x - real| of every sample, (B, 1)."""
    return (x - real).abs().mean(1, keepdim=True)


def generator_gradient(per_sample: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of (A, b) from the gradient of every sample x = A z + b, (B, D)."""
    return per_sample.T @ z, per_sample.sum(0)


def dmd_x_gradient(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The derivative in x of 0.5 mean_BD (x - sg[x - g])^2 with g = (fake - real) / mean |x - real|."""
    return (fake - real) / normaliser(x, real) / x.numel()


def sid_x_gradient(
    x: Tensor, real: Tensor, fake: Tensor, real_slope: Tensor, fake_slope: Tensor, a: float, floor: float = 1e-5
) -> Tensor:
    """The derivative in x of mean_B sum_D omega gap . (real - x - a gap), gap = real - fake, omega constant.

    ``real_slope`` and ``fake_slope`` are d real / d x = alpha K of every sample, (B, D, D).
    """
    gap, gap_slope = real - fake, real_slope - fake_slope
    eye = torch.eye(x.shape[1], dtype=torch.float64)
    first = times(gap_slope.mT, real - x - a * gap)
    second = times((real_slope - eye - a * gap_slope).mT, gap)
    return (first + second) / normaliser(x, real).clamp(min=floor) / len(x)


def denoising_loss(
    prediction: Tensor, x: Tensor, weight: Tensor, mean: Tensor, covariance: Tensor, alpha: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """mean_BD weight (prediction - x)^2 and its gradient with respect to the mean of a Gaussian critic."""
    eye = torch.eye(len(mean), dtype=torch.float64)
    slope = eye - alpha[:, None, None] * gain(covariance, alpha, sigma)
    error = weight[:, None] * (prediction - x)
    value = (error * (prediction - x)).sum() / x.numel()
    return value, 2.0 * times(slope.mT, error).sum(0) / x.numel()


def fisher_divergence(
    mean: Tensor, std: Tensor, real_mean: float, real_std: float, alpha: float, sigma: float
) -> Tensor:
    """0.5 E |mu_real - mu_fake|^2 at x_t of the fake Gaussian, in one dimension (scalars)."""
    fake_variance = alpha**2 * std**2 + sigma**2
    real_variance = alpha**2 * real_std**2 + sigma**2
    slope = 1.0 / fake_variance - 1.0 / real_variance  # of score_real - score_fake in x_t
    offset = alpha * (real_mean - mean) / real_variance  # at the fake mean
    return 0.5 * (sigma**2 / alpha) ** 2 * (offset**2 + slope**2 * fake_variance)
