"""Metrics: distances between two batches, one number per sample. The pseudo-Huber metrics are one family,

    sqrt(d^2 + c^2) - c

with d a number (:class:`ElementwiseHuber`) or the norm of a whole sample (:class:`PseudoHuber`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fastgen import checks
from fastgen.objectives.base import Objective

Reduction = Literal["mean", "sum"]
"""Over the elements of a sample."""


class Metric(Objective, ABC):
    """A distance between two batches."""

    @abstractmethod
    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Distances (B,) of ``x`` (B, ...) and ``target`` (B, ...)."""


def reduced(values: Tensor, reduction: Reduction) -> Tensor:
    """The mean or sum (B,) over the elements of each sample of ``values`` (B, ...)."""
    values = values.flatten(1)
    return values.mean(1) if reduction == "mean" else values.sum(1)


@dataclass(frozen=True)
class SquaredError(Metric):
    """Squared difference.

    Args:
        scale: Factor of the squares; with 1/2 the gradient is the difference (Luhman & Luhman 2021, arXiv 2101.02388).
        reduction: Over the elements of a sample.
    """

    scale: float = 1.0
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        checks.positive(self, scale=self.scale)

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        return self.scale * reduced((x - target).square(), self.reduction)


@dataclass(frozen=True)
class AbsoluteError(Metric):
    """Absolute difference.

    Args:
        reduction: Over the elements of a sample.
    """

    reduction: Reduction = "mean"

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        return reduced((x - target).abs(), self.reduction)


@dataclass(frozen=True)
class PseudoHuber(Metric):
    """``sqrt(|x - y|^2 + c^2) - c`` with the norm over all elements of a sample.

    Song & Dhariwal 2023, iCT, arXiv 2310.14189, eq. 7. The vector form: :class:`ElementwiseHuber` with the same ``c``
    is another metric, the constants differ by the root of the number of elements.

    Args:
        c: Distances far below it count by their square; 0 is the plain norm.
        per_element: ``c`` is multiplied by the root of the number of elements, with which norms grow, so that it means
            the same at every resolution (iCT: 0.00054).
    """

    c: float = 0.0
    per_element: bool = False

    def __post_init__(self) -> None:
        checks.not_negative(self, c=self.c)

    def constant(self, x: Tensor) -> float:
        """The constant for samples like those of ``x`` (B, ...)."""
        return self.c * x[0].numel() ** 0.5 if self.per_element else self.c

    def root(self, gap: Tensor) -> Tensor:
        """``sqrt(|gap|^2 + c^2)`` (B,) of ``gap`` (B, ...), over which the metric's gradient is ``gap``."""
        # The bound gives the norm the gradient 0 at 0; it is far below any rounding error.
        return (gap.square().flatten(1).sum(1) + self.constant(gap) ** 2).clamp(min=1e-30).sqrt()

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        return self.root(x - target) - self.constant(x)


def elementwise_huber(gap: Tensor, c: float) -> Tensor:
    """``sqrt(gap^2 + c^2) - c``, number by number."""
    return (gap.square() + c * c).sqrt() - c


@dataclass(frozen=True)
class ElementwiseHuber(Metric):
    """``mean_i sqrt((x_i - y_i)^2 + c^2) - c`` (Luo et al. 2023, LCM, arXiv 2310.04378; reference scripts).

    Args:
        c: Differences far below it count by their square.
    """

    c: float = 1e-3

    def __post_init__(self) -> None:
        checks.positive(self, c=self.c)

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        return elementwise_huber(x - target, self.c).flatten(1).mean(1)
