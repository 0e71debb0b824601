"""Laws for training times: how often each noise level is visited, one law per loss term and role."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.errors import UserError
from fastgen.processes import Process
from fastgen.randomness import Draws

if TYPE_CHECKING:
    from fastgen.times.chains import Chain


class TimeLaw(Component, ABC):
    """A distribution of times on a process."""

    @abstractmethod
    def sample(self, draws: Draws, process: Process) -> Tensor:
        """One time per sample of the batch, shape (B,), fp64, in the units of ``process``."""

    def given(self, chain: Chain) -> TimeLaw:
        """This law for samples of a student's chain; only laws that look at the chain change."""
        return self


def time_of_level(process: Process, level: Tensor) -> Tensor:
    """The time at which ``sigma / alpha`` is ``level``, kept within what networks know: from 0 to ``t_max``."""
    return process.time(level).clamp(0.0, process.t_max)


@dataclass(frozen=True)
class UniformTime(TimeLaw):
    """Uniform over the levels that networks of a process are trained at.

    That is uniform in t on VP and flows, and uniform in the position on the rho grid on EDM, where uniform noise levels
    would be almost pure noise. DMD2 (Yin et al. 2024, arXiv 2405.14867) draws its scores in [0.02, 0.98].

    Args:
        low: Lower end in [0, 1], 0 is clean.
        high: Upper end in [0, 1], 1 is ``t_max``.
    """

    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        checks.fraction(self, low=self.low, high=self.high)
        checks.ascending(self, low=self.low, high=self.high)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        return process.position(self.low + (self.high - self.low) * draws.uniform("time"))


@dataclass(frozen=True)
class PowerTime(TimeLaw):
    """``1 - u^power`` of the levels that networks are trained at, u uniform: near pure noise for powers above 1.

    DMDX's generator (Lu et al. 2025, arXiv 2507.18569) draws with power 3.

    Args:
        power: The exponent.
    """

    power: float = 3.0

    def __post_init__(self) -> None:
        checks.positive(self, power=self.power)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        return process.position(1.0 - draws.uniform("time") ** self.power)


@dataclass(frozen=True)
class UniformStep(TimeLaw):
    """Uniform over the integer steps ``low .. high``, both included, of a discrete process such as VP.

    Args:
        low: First step.
        high: Last step.
    """

    low: int = 20
    high: int = 979

    def __post_init__(self) -> None:
        checks.whole(self, 0, low=self.low, high=self.high)
        checks.ascending(self, low=self.low, high=self.high)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        if self.high > process.t_max:
            raise UserError(
                f"UniformStep draws steps up to {self.high}, but the student's process ends at {process.t_max:g}; "
                "lower 'high', or take a law that counts levels, such as UniformTime."
            )
        return (self.low + draws.integers("time", self.high - self.low + 1)).double()


@dataclass(frozen=True)
class KarrasLevel(TimeLaw):
    """Noise levels at uniform positions of the rho grid (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Position 0 is ``sigma_min`` and 1 is ``sigma_max``. SiD draws from [0, 0.8], a cap near 24.

    Args:
        low: Lowest position.
        high: Highest position.
        sigma_min: Noise level (sigma / alpha) at position 0.
        sigma_max: Noise level at position 1.
        rho: Exponent of the grid.
    """

    low: float = 0.0
    high: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        checks.fraction(self, low=self.low, high=self.high)
        checks.ascending(self, low=self.low, high=self.high)
        checks.positive(self, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)
        checks.strictly_ascending(self, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        position = self.low + (self.high - self.low) * draws.uniform("time")
        first, last = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return time_of_level(process, (first + position * (last - first)) ** self.rho)


@dataclass(frozen=True)
class LogNormalLevel(TimeLaw):
    """log(sigma / alpha) ~ N(mean, std) (Karras et al. 2022, arXiv 2206.00364, table 1).

    Args:
        mean: Mean of the log noise level.
        std: Standard deviation of the log noise level.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        checks.finite(self, mean=self.mean)
        checks.not_negative(self, std=self.std)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        return time_of_level(process, torch.exp(self.mean + self.std * draws.gauss("time")))


@dataclass(frozen=True)
class LogitNormalTime(TimeLaw):
    """t / t_max = sigmoid(N(mean, std)) (Esser et al. 2024, arXiv 2403.03206, eq. 19).

    Args:
        mean: Mean of the logit.
        std: Standard deviation of the logit.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        checks.finite(self, mean=self.mean)
        checks.not_negative(self, std=self.std)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        return torch.sigmoid(self.mean + self.std * draws.gauss("time")) * process.t_max


@dataclass(frozen=True)
class FlowTime(TimeLaw):
    """sigma / (alpha + sigma) uniform: the times of rectified flow, at equal noise level on any process.

    Liu et al. 2022, arXiv 2209.03003.

    Args:
        low: Lower end in [0, 1], 0 is clean.
        high: Upper end in [0, 1], 1 is pure noise (or ``t_max``, where a process ends before).
        shift: Factor s of u -> s u / (1 + (s - 1) u), i.e. of the noise level (Esser et al. 2024, arXiv 2403.03206);
            rCM compares scores at shift 5 (arXiv 2510.08431).
    """

    low: float = 1e-3
    high: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        checks.fraction(self, low=self.low, high=self.high)
        checks.ascending(self, low=self.low, high=self.high)
        checks.positive(self, shift=self.shift)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        u = self.low + (self.high - self.low) * draws.uniform("time")
        return time_of_level(process, self.shift * u / (1.0 - u))


@dataclass(frozen=True)
class UShapedTime(TimeLaw):
    """Times of rectified flow with the density ``e^(a t) + e^(a (1 - t))``: both ends often, the middle seldom.

    rf++ (Lee et al. 2024, arXiv 2405.20320, and its code; the recipes take 4).

    Args:
        a: Steepness; 0 is uniform.
        margin: Distance from 0 and 1 to which times are squeezed.
    """

    a: float = 4.0
    margin: float = 1e-5

    def __post_init__(self) -> None:
        checks.not_negative(self, a=self.a)
        checks.between(self, 0.0, 0.5, "[)", margin=self.margin)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        u = draws.uniform("time")
        rising = torch.log1p(u * math.expm1(self.a)) / self.a if self.a else u
        time = torch.where(draws.uniform("side") < 0.5, rising, 1.0 - rising)
        time = self.margin + (1.0 - 2.0 * self.margin) * time
        return time_of_level(process, time / (1.0 - time))
