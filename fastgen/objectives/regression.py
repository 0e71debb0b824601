"""Regression of samples and of straight paths on given targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.processes import Prediction


@dataclass(frozen=True)
class RegressionLoss(Component):
    """A distance between a prediction and its target.

    Args:
        metric: ``l2``: half the squared error (Luhman & Luhman 2021, arXiv 2101.02388); ``l1``; ``huber``:
            ``sqrt(|d|^2 + c^2) - c`` with the norm of a whole sample (Song & Dhariwal 2023, arXiv 2310.14189).
        reduction: ``mean`` or ``sum`` over the elements of a sample; always the mean over samples.
        c: Where ``huber`` turns from quadratic to linear, per element (times the root of their number for a sample).
    """

    metric: Literal["l2", "l1", "huber"] = "l2"
    reduction: Literal["mean", "sum"] = "mean"
    c: float = 0.03

    def __post_init__(self) -> None:
        checks.positive(self, c=self.c)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of ``prediction`` and ``target`` (B, ...)."""
        gap = (prediction - target).flatten(1)
        if self.metric == "l2":
            distance = 0.5 * gap.square().sum(1)
        elif self.metric == "l1":
            distance = gap.abs().sum(1)
        else:
            c_squared = self.c**2 * gap.shape[1]
            distance = (gap.square().sum(1) + c_squared).sqrt() - c_squared**0.5
        return distance.mean() / (gap.shape[1] if self.reduction == "mean" else 1)


def flow_velocity(prediction: Prediction) -> Tensor:
    """``noise - x0``, the velocity of rectified flow at the same noise level, from a prediction on any process."""
    return prediction.noise - prediction.x0
