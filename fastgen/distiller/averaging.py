"""Moving averages of weights: rules of how fast they move, and the motion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.sharding import local


def half_life_beta(half_life: float, samples_per_update: int, samples_seen: int, ramp_up: float | None) -> float:
    """Factor of the old average such that a sample's influence halves every ``half_life`` samples.

    The half-life is at most ``ramp_up`` times the samples seen before this update, so that early weights are soon
    forgotten (Karras et al. 2022, EDM, arXiv 2206.00364, training code; None switches that off).
    """
    if ramp_up is not None:
        half_life = min(half_life, samples_seen * ramp_up)
    return 0.5 ** (samples_per_update / max(half_life, 1e-8))


def power_beta(gamma: float, update: int) -> float:
    """Factor of the old average at update 1, 2, ... for the profile ``t ** gamma`` (EDM2, 2312.02696, eq. 127)."""
    return (1.0 - 1.0 / update) ** (gamma + 1.0)


@lru_cache
def power_gamma(sigma_rel: float) -> float:
    """The exponent whose profile has width ``sigma_rel``, a fraction of the training (EDM2, arXiv 2312.02696, eq. 126).

    ``sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^(-1/2)``, i.e. the largest root of
    ``gamma^3 + 7 gamma^2 + (16 - sigma_rel^-2) gamma + 12 - sigma_rel^-2``: 0.05 gives 16.97, 0.10 gives 6.94.
    """
    import numpy as np

    inverse = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


class EMARule(Component, ABC):
    """How much of the old average survives an update."""

    @abstractmethod
    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        """Factor of the old average, in [0, 1]; 0 copies the student.

        Args:
            update: Number of this update, 1, 2, ..., counted from the EMA's start.
            samples_seen: Samples that the student had learned from before this update, from the EMA's start.
            samples_per_update: Samples of this update, over all ranks.
        """


@dataclass(frozen=True)
class ConstantEMA(EMARule):
    """The same factor at every update.

    Args:
        decay: Factor of the old average, e.g. 0.999.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        checks.between(self, 0.0, 1.0, "[)", decay=self.decay)

    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        return self.decay


@dataclass(frozen=True)
class HalfLifeEMA(EMARule):
    """A half-life in samples, independent of the batch size (EDM, SiD).

    Args:
        half_life: In thousands of samples that the student learned from, over all ranks (500 in EDM and SiD).
        ramp_up: The half-life is at most this fraction of the samples seen; ``None`` for no such limit.
    """

    half_life: float = 500.0
    ramp_up: float | None = 0.05

    def __post_init__(self) -> None:
        checks.positive(self, half_life=self.half_life, ramp_up=self.ramp_up)

    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        return half_life_beta(1000.0 * self.half_life, samples_per_update, samples_seen, self.ramp_up)


@dataclass(frozen=True)
class PowerEMA(EMARule):
    """A profile that widens with the training (Karras et al. 2023, EDM2, arXiv 2312.02696, section 3).

    Args:
        sigma_rel: Width of the profile as a fraction of the training so far; EDM2 uses 0.05 and 0.10.
        gamma: The exponent itself, instead of ``sigma_rel``; ``None`` goes by ``sigma_rel``.
    """

    sigma_rel: float = 0.10
    gamma: float | None = None

    def __post_init__(self) -> None:
        checks.not_negative(self, gamma=self.gamma)
        checks.between(self, 0.0, 0.28, "()", sigma_rel=self.sigma_rel)

    @property
    def exponent(self) -> float:
        """Gamma, given or of the width."""
        return power_gamma(self.sigma_rel) if self.gamma is None else self.gamma

    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        return power_beta(self.exponent, update)


@torch.no_grad()
def move_average(average: nn.Module, student: nn.Module, beta: float) -> None:
    """``average = beta * average + (1 - beta) * student`` for trained parameters, in the average's dtype.

    Buffers are copied.
    """
    pairs = [
        (local(old), local(new))
        for old, new in zip(average.parameters(), student.parameters(), strict=True)
        if new.requires_grad
    ]
    old = [pair[0] for pair in pairs]
    new = [pair[1].to(pair[0].dtype) for pair in pairs]
    torch._foreach_lerp_(old, new, 1.0 - beta)
    for kept, current in zip(average.buffers(), student.buffers(), strict=True):
        local(kept).copy_(local(current))


@torch.no_grad()
def is_finite(network: nn.Module) -> bool:
    """Whether all trained parameters on this process are finite."""
    trained = [local(parameter) for parameter in network.parameters() if parameter.requires_grad]
    largest = torch._foreach_norm(trained, float("inf"))
    return bool(torch.stack([value.float() for value in largest]).isfinite().all()) if trained else True
