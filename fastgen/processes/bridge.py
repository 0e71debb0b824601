"""The Brownian bridge between a clean sample and its degraded one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes.base import Process


@dataclass(frozen=True)
class BrownianBridge(Process):
    """What a Brownian bridge from x0 to x_T differs by from ``t x_T``: ``y_t = (1 - t) x0 + sqrt(V t (1 - t)) noise``.

    The bridge itself is ``x_t = y_t + t x_T`` (Liu et al. 2023, I2SB, arXiv 2302.05872, with V the integral of its beta
    and t the part of that integral up to a time; its paper's schedules are choices of t). With x_T known, ``y_t`` is a
    Gaussian process like the others: noise on clean samples, the Markov kernel and conversions of predictions are
    those of the bridge. :class:`~fastgen.denoisers.wrappers.bridge.Bridge` shows ``x_t`` to its network.

    Args:
        variance: V, the variance of the unbridged motion from t = 0 to 1.
    """

    variance: float = 1.0
    LATEST: ClassVar[float] = 0.999
    """At 1 nothing of x0 is left in ``y_t``, nor any noise."""

    def __post_init__(self) -> None:
        checks.positive(self, variance=self.variance)

    @property
    def t_max(self) -> float:
        return self.LATEST

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - t, (self.variance * t * (1.0 - t)).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), 0.5 * self.variance * (1.0 - 2.0 * t) / self.sigma(t)

    def time(self, ratio: Tensor) -> Tensor:
        square = ratio.square()
        return torch.where(torch.isinf(square), torch.ones_like(ratio), square / (self.variance + square))
