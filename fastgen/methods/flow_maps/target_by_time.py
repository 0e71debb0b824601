"""TargetByTime: two target networks, one above a noise level and one below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.experts import Experts
from fastgen.methods.flow_maps.targets import SnapshotTarget, StudentTarget, TargetNetwork


@dataclass(frozen=True)
class TargetByTime(TargetNetwork):
    """One target above a noise level, another at and below it (TCM, Lee et al. 2024, arXiv 2410.14895).

    Args:
        level: Noise level sigma / alpha between the two.
        above: Who answers above it.
        below: Who answers at and below it; TCM: the model of its first stage, with which training begins.
    """

    level: float = 1.0
    above: TargetNetwork = StudentTarget()
    below: TargetNetwork = SnapshotTarget(every=0)

    def __post_init__(self) -> None:
        checks.positive(self, level=self.level)

    def copies(self) -> int:
        return self.above.copies() + self.below.copies()

    def network(self, student: Denoiser, kept: Sequence[Denoiser]) -> Denoiser:
        count = self.above.copies()
        two = self.above.network(student, kept[:count]), self.below.network(student, kept[count:])
        level = torch.tensor(self.level, dtype=torch.float64, device="cpu")
        return Experts(two, [float(student.process.time(level))])

    def beta(self, update: int, samples_seen: int, samples: int) -> list[float]:
        above, below = (target.beta(update, samples_seen, samples) for target in (self.above, self.below))
        return [*above, *below]
