"""Denoising score matching: how teachers and critics learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.objectives.base import Objective
from fastgen.objectives.weights import EDMWeight, LevelWeight, UniformWeight
from fastgen.processes import Prediction, PredictionKind
from fastgen.shapes import expand


class Truth(Prediction):
    """What a prediction should have been. The noise is at hand: deriving it from x0 would divide by a small sigma."""

    def __init__(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> None:
        super().__init__(prediction.process, prediction.x_t, prediction.t, x0, "x0")
        self.drawn = noise

    @property
    def noise(self) -> Tensor:
        return self.drawn


@dataclass(frozen=True)
class BellWeight(LevelWeight):
    """``exp(-2 (t - 1/2)^2)`` in the time t of rectified flow, less its least value, over its mean on a grid.

    Trainers of Wan (DiffSynth-Studio, Self Forcing, Causal Forcing) weigh the velocity's error so; both ends of the
    noise count nothing.

    Args:
        shift: Of the training grid, a thousand times from 1.
    """

    shift: float = 5.0

    def __post_init__(self) -> None:
        checks.positive(self, shift=self.shift)

    @property
    def mean(self) -> float:
        """The mean over the grid."""
        u = torch.arange(1000, 0, -1, dtype=torch.float64) / 1000
        return float((self.bell(self.shift * u / (1.0 + (self.shift - 1.0) * u))).mean())

    def bell(self, t: Tensor) -> Tensor:
        """The weight before its mean is divided out."""
        return torch.exp(-2.0 * (t - 0.5).square()) - math.exp(-0.5)

    def __call__(self, ratio: Tensor) -> Tensor:
        t = torch.where(torch.isinf(ratio), torch.ones_like(ratio), ratio / (1.0 + ratio))
        return self.bell(t) / self.mean


@dataclass(frozen=True)
class DenoisingLoss(Objective):
    """Weighted squared error of a denoiser against the truth.

    Args:
        target: The parametrisation in which the error is measured: ``x0`` (EDM), ``noise`` (DDPM), ``v``, ``velocity``
            (flow matching).
        weight: Weight of the noise level.
        reduction: ``mean`` over everything, or ``sum`` over the elements of a sample and mean over samples (SiD).
    """

    target: PredictionKind = "x0"
    weight: LevelWeight = EDMWeight()
    reduction: Literal["mean", "sum"] = "mean"

    def __call__(self, prediction: Prediction, x0: Tensor, noise: Tensor, factor: Tensor | None = None) -> Tensor:
        """Scalar loss; ``x0`` and ``noise`` are what ``prediction.x_t`` was made of, (B, ...).

        ``factor`` (B,) multiplies the samples' weights.
        """
        truth = Truth(prediction, x0, noise)
        error = (prediction.as_kind(self.target) - truth.as_kind(self.target)).square()
        if self.weight != UniformWeight():
            error = error * expand(self.weight(prediction.process.ratio(prediction.t)), error)
        if factor is not None:
            error = error * expand(factor, error)
        return error.mean() if self.reduction == "mean" else error.flatten(1).sum(1).mean()
