"""EasyTimes: the times of a jump approach each other in stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.jumps import JumpLaw, JumpTimes
from fastgen.times.levels import LogNormalLevel, TimeLaw


def easy_ratio(level: Tensor, stage: int, q: float = 2.0, k: float = 8.0, b: float = 1.0) -> Tensor:
    """``r / t = max(0, 1 - q^-(stage + 1) n(t))``, ``n(t) = 1 + k sigmoid(-b t)``, for noise levels t (B,).

    Geng et al. 2024, ECT, arXiv 2406.14548, eq. 13 and code (``t_to_r_sigmoid``). At stage 0 with q = 2 small levels
    get r = 0, which is plain denoising; large levels tend to 1/2.
    """
    n = 1.0 + k * torch.sigmoid(-b * level)
    return (1.0 - n * q ** -(stage + 1)).clamp(min=0.0)


@dataclass(frozen=True)
class EasyTimes(JumpLaw):
    """Noise levels t and r = t (1 - n(t) / q^(stage + 1)), which approach each other in stages.

    Geng et al. 2024, ECT, arXiv 2406.14548. The stage is the number of student updates divided by ``double``.

    Args:
        law: Law of ``t``; the default is that on CIFAR-10.
        q: Base of the ratio; 2 with doubling, 256 in the one-hour recipe without.
        double: Student updates per stage; ``None`` stays in the first (250 ticks of 12.8 k images at batch 128 are
            25000 updates).
        k: Height of the sigmoid.
        b: Slope of the sigmoid.
        largest_ratio: Upper bound of r / t, so that the step does not vanish in late stages.
    """

    law: TimeLaw = LogNormalLevel(-1.1, 2.0)
    q: float = 2.0
    double: int | None = 25000
    k: float = 8.0
    b: float = 1.0
    largest_ratio: float = 0.999

    def __post_init__(self) -> None:
        checks.at_least(self, 1.0, q=self.q)
        checks.whole(self, double=self.double)
        checks.not_negative(self, k=self.k, b=self.b)
        checks.between(self, 0.0, 1.0, "[)", largest_ratio=self.largest_ratio)

    def stage(self, update: int) -> int:
        """Number of doublings so far."""
        return update // self.double if self.double else 0

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        t = self.law.sample(draws, process)
        level = process.ratio(t)
        ratio = easy_ratio(level, self.stage(update), self.q, self.k, self.b).clamp(max=self.largest_ratio)
        r = torch.where(ratio > 0, process.time(level * ratio), process.t_clean)
        return JumpTimes(t, torch.full_like(t, process.t_clean), torch.minimum(r, t))
