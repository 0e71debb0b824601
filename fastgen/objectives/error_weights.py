"""Weights of a sample by its own error, for flow maps whose target moves with the student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.objectives.base import Objective


class ErrorWeight(Objective, ABC):
    """A weight of a summed squared error, without gradient."""

    @abstractmethod
    def __call__(self, error: Tensor, tangent: Tensor) -> Tensor:
        """Weights (B,) of summed squared errors ``error`` (B,), those of ``tangent`` (B, ...)."""


@dataclass(frozen=True)
class AdaptiveWeight(ErrorWeight):
    """``1 / (error + c)^power`` (MeanFlow, arXiv 2505.13447, eq. 22).

    Args:
        c: Floor; 1e-2 on ImageNet latents, 1e-3 on CIFAR-10.
        power: 0 is the plain squared error, 1/2 resembles a pseudo-Huber metric.
    """

    c: float = 1e-2
    power: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, c=self.c)
        checks.not_negative(self, power=self.power)

    def __call__(self, error: Tensor, tangent: Tensor) -> Tensor:
        return (error.detach() + self.c).pow(-self.power)


@dataclass(frozen=True)
class TangentWeight(ErrorWeight):
    """``1 / (rms + c)`` of the tangent, divided by the root of its number of elements.

    NVIDIA's FastGen for video (``opt_grad`` with ``tangent_spatial_invariance``): with the floor of 10 it is nearly the
    same for every sample.

    Args:
        c: Floor; 10 on Wan.
    """

    c: float = 10.0

    def __post_init__(self) -> None:
        checks.positive(self, c=self.c)

    def __call__(self, error: Tensor, tangent: Tensor) -> Tensor:
        count = tangent[0].numel()
        rms = torch.linalg.vector_norm(tangent.detach().flatten(1), dim=1) / count**0.5
        return 1.0 / ((rms + self.c) * count**0.5)
