"""Denoising score matching: how teachers and critics learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.processes import Prediction, PredictionKind
from fastgen.shapes import expand


def edm_weight(ratio: Tensor, sigma_data: float) -> Tensor:
    """1 / sigma^2 + 1 / sigma_data^2 at noise levels ``ratio`` (B,) = sigma / alpha (Karras 2022, 2206.00364)."""
    return ratio.pow(-2) + sigma_data**-2


class Truth(Prediction):
    """What a prediction should have been. The noise is at hand: deriving it from x0 would divide by a small sigma."""

    def __init__(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> None:
        super().__init__(prediction.process, prediction.x_t, prediction.t, x0, "x0")
        self.drawn = noise

    @property
    def noise(self) -> Tensor:
        return self.drawn


@dataclass(frozen=True)
class DenoisingLoss(Component):
    """Weighted squared error of a denoiser against the truth.

    Args:
        target: The parametrisation in which the error is measured: ``x0`` (EDM), ``noise`` (DDPM), ``v``, ``velocity``
            (flow matching).
        weight: ``edm``: 1 / sigma^2 + 1 / sigma_data^2; ``one``: 1; ``vp_alpha2``: alpha^2 of the variance-preserving
            process at that noise level (SwiftBrush).
        reduction: ``mean`` over everything, or ``sum`` over the elements of a sample and mean over samples (SiD).
        sigma_data: Standard deviation of the data, for the ``edm`` weight.
    """

    target: PredictionKind = "x0"
    weight: Literal["edm", "one", "vp_alpha2"] = "edm"
    reduction: Literal["mean", "sum"] = "mean"
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        checks.positive(self, sigma_data=self.sigma_data)

    def __call__(self, prediction: Prediction, x0: Tensor, noise: Tensor, factor: Tensor | None = None) -> Tensor:
        """Scalar loss; ``x0`` and ``noise`` are what ``prediction.x_t`` was made of, (B, ...).

        ``factor`` (B,) multiplies the samples' weights.
        """
        truth = Truth(prediction, x0, noise)
        error = (prediction.as_kind(self.target) - truth.as_kind(self.target)).square()
        if self.weight == "edm":
            error = error * expand(edm_weight(prediction.process.ratio(prediction.t), self.sigma_data), error)
        elif self.weight == "vp_alpha2":
            error = error * expand(1.0 / (1.0 + prediction.process.ratio(prediction.t).square()), error)
        if factor is not None:
            error = error * expand(factor, error)
        return error.mean() if self.reduction == "mean" else error.flatten(1).sum(1).mean()
