"""Consistency models: metrics between two outputs, and weights. One number per sample, (B,)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component


class Metric(Component, ABC):
    """A distance between two batches."""

    @abstractmethod
    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Distances (B,) of ``x`` (B, ...) and ``target`` (B, ...)."""


@dataclass(frozen=True)
class PseudoHuber(Metric):
    """``sqrt(|x - y|^2 + c^2) - c`` with the norm over all elements of a sample.

    Song & Dhariwal 2023, iCT, arXiv 2310.14189, eq. 7. The vector form: :class:`ElementwiseHuber` with the same ``c``
    is another metric, the constants differ by the root of the number of elements.

    Args:
        c: Distances far below it count by their square; 0 is the plain norm. iCT: 0.00054 times the root of the number
            of elements.
    """

    c: float = 0.0

    def __post_init__(self) -> None:
        checks.not_negative(self, c=self.c)

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        squared = (x - target).square().flatten(1).sum(1)
        # The bound gives the norm the gradient 0 at 0; it is far below any rounding error.
        return (squared + self.c**2).clamp(min=1e-30).sqrt() - self.c


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
        return (((x - target).square() + self.c**2).sqrt() - self.c).flatten(1).mean(1)


@dataclass(frozen=True)
class SquaredError(Metric):
    """Mean squared difference over the elements of a sample."""

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        return (x - target).square().flatten(1).mean(1)


def easy_ratio(level: Tensor, stage: int, q: float = 2.0, k: float = 8.0, b: float = 1.0) -> Tensor:
    """``r / t = max(0, 1 - q^-(stage + 1) n(t))``, ``n(t) = 1 + k sigmoid(-b t)``, for noise levels t (B,).

    Geng et al. 2024, ECT, arXiv 2406.14548, eq. 13 and code (``t_to_r_sigmoid``). At stage 0 with q = 2 small levels
    get r = 0, which is plain denoising; large levels tend to 1/2.
    """
    n = 1.0 + k * torch.sigmoid(-b * level)
    return (1.0 - n * q ** -(stage + 1)).clamp(min=0.0)
