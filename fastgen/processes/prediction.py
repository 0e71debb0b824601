"""Prediction: one answer of a network in every parametrisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fastgen.processes.base import Process
from fastgen.shapes import expand

PredictionKind = Literal["x0", "noise", "v", "velocity", "score"]


PREDICTION_KINDS: tuple[PredictionKind, ...] = ("x0", "noise", "v", "velocity", "score")


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in fp32 if it is narrower, unchanged otherwise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(init=False, repr=False, eq=False)
class Prediction:
    """What a denoiser says about ``x_t``; any parametrisation derives from any other.

    Conversions are made anew when asked for: one kept from a look without gradient would cut the graph of the next.

    Args:
        process: The process of ``x_t``.
        x_t: Noisy sample, shape (B, ...).
        t: Times, shape (B,), fp32 or fp64.
        value: The network's answer, shape of ``x_t``.
        kind: What ``value`` is: ``x0``; ``noise``; ``v`` = alpha noise - sigma x0 (Salimans & Ho 2022, 2202.00512);
            ``velocity`` = d x_t / dt of this process; ``score`` = grad log p_t.

    Raises:
        ValueError: If ``kind`` is unknown.
    """

    # Fields are what torch takes for a sharded network's outputs, whose gradients need the weights again.
    value: Tensor
    features: dict[str, Tensor]
    """What :func:`fastgen.denoisers.wrappers.features.tap` recorded, if it was there."""

    def __init__(self, process: Process, x_t: Tensor, t: Tensor, value: Tensor, kind: PredictionKind) -> None:
        if kind not in PREDICTION_KINDS:
            raise ValueError(f"prediction kind is one of {', '.join(PREDICTION_KINDS)}, got {kind!r}")
        self.process = process
        self.x_t = at_least_float32(x_t)
        self.t = t
        self.value = at_least_float32(value)
        self.kind = kind
        self.features = {}

    @cached_property
    def _alpha_sigma(self) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.coefficients(self.t)
        return expand(alpha, self.x_t), expand(sigma, self.x_t)

    @cached_property
    def _alpha_sigma_dot(self) -> tuple[Tensor, Tensor]:
        alpha_dot, sigma_dot = self.process.derivatives(self.t)
        return expand(alpha_dot, self.x_t), expand(sigma_dot, self.x_t)

    @property
    def x0(self) -> Tensor:
        """E[x0 | x_t]."""
        alpha, sigma = self._alpha_sigma
        match self.kind:
            case "x0":
                return self.value
            case "noise":
                return (self.x_t - sigma * self.value) / alpha
            case "v":
                return (alpha * self.x_t - sigma * self.value) / (alpha.square() + sigma.square())
            case "velocity":
                alpha_dot, sigma_dot = self._alpha_sigma_dot
                return (sigma_dot * self.x_t - sigma * self.value) / (alpha * sigma_dot - sigma * alpha_dot)
            case "score":
                return (self.x_t + sigma.square() * self.value) / alpha

    @property
    def noise(self) -> Tensor:
        """E[noise | x_t]."""
        alpha, sigma = self._alpha_sigma
        match self.kind:
            case "noise":
                return self.value
            case "score":
                return -sigma * self.value
            case "v":
                return (sigma * self.x_t + alpha * self.value) / (alpha.square() + sigma.square())
            case "velocity":
                alpha_dot, sigma_dot = self._alpha_sigma_dot
                return (alpha * self.value - alpha_dot * self.x_t) / (alpha * sigma_dot - sigma * alpha_dot)
            case "x0":
                return (self.x_t - alpha * self.value) / sigma

    @property
    def v(self) -> Tensor:
        """``alpha noise - sigma x0``."""
        if self.kind == "v":
            return self.value
        alpha, sigma = self._alpha_sigma
        return alpha * self.noise - sigma * self.x0

    @property
    def velocity(self) -> Tensor:
        """``d x_t / dt`` along the probability flow of this process."""
        if self.kind == "velocity":
            return self.value
        alpha_dot, sigma_dot = self._alpha_sigma_dot
        return alpha_dot * self.x0 + sigma_dot * self.noise

    @property
    def score(self) -> Tensor:
        """``grad log p_t(x_t) = -noise / sigma``."""
        if self.kind == "score":
            return self.value
        return -self.noise / self._alpha_sigma[1]

    def as_kind(self, kind: PredictionKind) -> Tensor:
        """This prediction in another parametrisation."""
        return getattr(self, kind)

    def detach(self) -> Prediction:
        return Prediction(self.process, self.x_t.detach(), self.t, self.value.detach(), self.kind)

    def guided(self, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        """Classifier-free guidance ``uncond + scale (cond - uncond)``; every kind is affine in the value.

        ``scale`` is a number, or one per sample (B,).
        """
        scale = expand(scale, self.value) if isinstance(scale, Tensor) else scale
        value = unconditional.value + scale * (self.value - unconditional.value)
        return Prediction(self.process, self.x_t, self.t, value, self.kind)
