"""Denoising score matching: how teachers and critics learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

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
