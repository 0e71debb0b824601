"""Target networks: who makes the targets of a flow map, a student of now or of before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.averaging import ConstantEMA, EMARule, move_average
from fastgen.precision import KeepsPrecision


class TargetWeights(KeepsPrecision, nn.ModuleList):
    """The copies of the student that a target keeps, and what it has counted; part of the method's checkpoints."""

    updates: Tensor
    samples: Tensor

    def __init__(self, networks: Sequence[Denoiser]) -> None:
        super().__init__(networks)
        if not networks:
            return
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))

    def networks(self) -> list[Denoiser]:
        """The copies."""
        return [cast(Denoiser, network) for network in self]


class TargetNetwork(Component, ABC):
    """Which network makes targets, and how it follows the student. A method owns its weights and saves them."""

    def copies(self) -> int:
        """How many copies of the student it keeps."""
        return 0

    @abstractmethod
    def network(self, student: Denoiser, kept: Sequence[Denoiser]) -> Denoiser:
        """Who is asked: the student, or one of the ``copies()`` networks ``kept``."""

    def beta(self, update: int, samples_seen: int, samples: int) -> list[float]:
        """How much of each copy survives a student update: 1 leaves it as it is, 0 makes it the student.

        Args:
            update: Number of the update, 1, 2, ...
            samples_seen: Samples that the student had learned from before it.
            samples: Samples of the update, over all ranks.
        """
        return []

    def build(self, copy: Callable[[], Denoiser]) -> TargetWeights:
        """Its weights, made by ``copy``, which copies the student."""
        return TargetWeights([copy() for _ in range(self.copies())])

    @torch.no_grad()
    def begin(self, student: Denoiser, weights: TargetWeights) -> None:
        """Let every copy be the student with which training begins."""
        for network in weights:
            move_average(network, student, 0.0)

    @torch.no_grad()
    def follow(self, student: Denoiser, weights: TargetWeights, samples: int) -> None:
        """Move the copies after an update of the student on so many samples."""
        if not len(weights):
            return
        weights.updates += 1
        betas = self.beta(int(weights.updates), int(weights.samples), samples)
        weights.samples += samples
        for network, beta in zip(weights, betas, strict=True):
            if beta < 1.0:
                move_average(network, student, beta)


@dataclass(frozen=True)
class StudentTarget(TargetNetwork):
    """The student itself, without gradient."""

    def network(self, student: Denoiser, kept: Sequence[Denoiser]) -> Denoiser:
        return student


@dataclass(frozen=True)
class EMATarget(TargetNetwork):
    """A moving average of the student, in eval mode.

    Args:
        rule: How fast it moves, as of the callback EMA; LCM: 0.95.
    """

    rule: EMARule = ConstantEMA(0.95)

    def copies(self) -> int:
        return 1

    def network(self, student: Denoiser, kept: Sequence[Denoiser]) -> Denoiser:
        return kept[0]

    def beta(self, update: int, samples_seen: int, samples: int) -> list[float]:
        return [self.rule.beta(update, samples_seen, samples)]


@dataclass(frozen=True)
class SnapshotTarget(TargetNetwork):
    """The student as it was, in eval mode.

    Args:
        every: Student updates between snapshots; 0 keeps the student with which training begins.
    """

    every: int = 1000

    def __post_init__(self) -> None:
        checks.whole(self, 0, every=self.every)

    def copies(self) -> int:
        return 1

    def network(self, student: Denoiser, kept: Sequence[Denoiser]) -> Denoiser:
        return kept[0]

    def beta(self, update: int, samples_seen: int, samples: int) -> list[float]:
        return [0.0 if self.every and update % self.every == 0 else 1.0]
