"""Weights of noise levels: numbers (B,) by which the errors of a batch are multiplied.

A level is the ratio sigma / alpha of a process, which means the same on every process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.objectives.base import Objective


class JumpWeight(Objective, ABC):
    """A weight of a jump between two noise levels."""

    @abstractmethod
    def between(self, level: Tensor, following: Tensor) -> Tensor:
        """Weights (B,) of jumps from noise levels ``level`` (B,) to the lower ones ``following`` (B,)."""


class LevelWeight(JumpWeight):
    """A weight of a noise level; that of a jump is the weight of where it begins."""

    @abstractmethod
    def __call__(self, ratio: Tensor) -> Tensor:
        """Weights (B,) of noise levels ``ratio`` (B,) = sigma / alpha."""

    def between(self, level: Tensor, following: Tensor) -> Tensor:
        return self(level)


@dataclass(frozen=True)
class UniformWeight(LevelWeight):
    """1: the error as it is."""

    def __call__(self, ratio: Tensor) -> Tensor:
        return torch.ones_like(ratio)


@dataclass(frozen=True)
class EDMWeight(LevelWeight):
    """``1 / sigma^2 + 1 / sigma_data^2``, the inverse of EDM's ``c_out^2`` (Karras et al. 2022, arXiv 2206.00364).

    Args:
        sigma_data: Standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        checks.positive(self, sigma_data=self.sigma_data)

    def __call__(self, ratio: Tensor) -> Tensor:
        return ratio.pow(-2) + self.sigma_data**-2


@dataclass(frozen=True)
class VPSignalWeight(LevelWeight):
    """``alpha^2`` of the variance-preserving process at that level (SwiftBrush, arXiv 2312.05239)."""

    def __call__(self, ratio: Tensor) -> Tensor:
        return 1.0 / (1.0 + ratio.square())


@dataclass(frozen=True)
class SNRWeight(LevelWeight):
    """``alpha^2 / sigma^2``: makes the error of x0 that of the noise."""

    def __call__(self, ratio: Tensor) -> Tensor:
        return ratio.pow(-2)


@dataclass(frozen=True)
class TruncatedSNRWeight(LevelWeight):
    """``max(alpha^2 / sigma^2, 1)``: the larger of the errors of x0 and of the noise.

    Salimans & Ho 2022, arXiv 2202.00512, section 4.
    """

    def __call__(self, ratio: Tensor) -> Tensor:
        return ratio.pow(-2).clamp(min=1.0)


@dataclass(frozen=True)
class SNRPlusOneWeight(LevelWeight):
    """``alpha^2 / sigma^2 + 1``: makes the error of x0 that of v (Salimans & Ho 2022, arXiv 2202.00512, section 4)."""

    def __call__(self, ratio: Tensor) -> Tensor:
        return ratio.pow(-2) + 1.0


@dataclass(frozen=True)
class MinSNRWeight(LevelWeight):
    """``min(alpha^2 / sigma^2, cap)`` of the error of x0 (Hang et al. 2023, Min-SNR, arXiv 2303.09556).

    With the target x0 it trains networks of any prediction as the paper does: to one that predicts noise it is
    ``min(SNR, cap) / SNR`` of the noise's error.

    Args:
        cap: Largest weight, the paper's gamma.
    """

    cap: float = 5.0

    def __post_init__(self) -> None:
        checks.positive(self, cap=self.cap)

    def __call__(self, ratio: Tensor) -> Tensor:
        return ratio.pow(-2).clamp(max=self.cap)


@dataclass(frozen=True)
class FlowWeight(LevelWeight):
    """``(1 - sigma)^signal_power sigma^noise_power`` in the time sigma of rectified flow.

    Zhou et al. 2025, SiD-DiT, arXiv 2509.25127 and its code (github.com/apple-aiml-research/ml-sid-dit), which knows
    (2, -2) as ``snr``, (1, -1) as ``snr_sqrt``, and (0, -1), (0, -2), (1, 0), (2, 0).

    Args:
        signal_power: Power of ``1 - sigma``.
        noise_power: Power of ``sigma``.
        floor: Lower bound of sigma.
    """

    signal_power: float = 1.0
    noise_power: float = 0.0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        checks.finite(self, signal_power=self.signal_power, noise_power=self.noise_power)
        checks.positive(self, floor=self.floor)

    def __call__(self, ratio: Tensor) -> Tensor:
        sigma = torch.where(torch.isinf(ratio), torch.ones_like(ratio), ratio / (1.0 + ratio)).clamp(min=self.floor)
        return (1.0 - sigma).pow(self.signal_power) * sigma.pow(self.noise_power)


@dataclass(frozen=True)
class StepWeight(JumpWeight):
    """``1 / (t - r)`` of noise levels t and r (iCT, arXiv 2310.14189; ECT, arXiv 2406.14548)."""

    def between(self, level: Tensor, following: Tensor) -> Tensor:
        return 1.0 / (level - following)
