"""NearbyTimes: times a little cleaner and a little noisier than a drawn one, on a flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.jumps import JumpLaw, JumpTimes
from fastgen.times.levels import FlowTime, TimeLaw


@dataclass(frozen=True)
class NearbyTimes(JumpLaw):
    """``r = t - u min(t, reach)`` and, noisier, ``t + u' min(t_max - t, reach)``, with jumps to data.

    SCFlow (Dao et al. 2024, arXiv 2412.16906); on a process whose time runs from 0 to 1.

    Args:
        law: Law of ``t``.
        reach: The farthest at first.
        growth: By how much it grows.
        every: Student updates between two growths; it ends at 1.
    """

    law: TimeLaw = FlowTime(1e-3, 1.0)
    reach: float = 0.1
    growth: float = 0.05
    every: int = 10000

    def __post_init__(self) -> None:
        checks.between(self, 0.0, 1.0, "(]", reach=self.reach)
        checks.not_negative(self, growth=self.growth)
        checks.whole(self, every=self.every)

    def farthest(self, update: int) -> float:
        """The reach after ``update`` student updates."""
        return min(self.reach + self.growth * (update // self.every), 1.0)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        t = self.law.sample(draws, process)
        r = t - draws.uniform("cleaner") * t.clamp(max=self.farthest(update))
        return JumpTimes(t, torch.full_like(t, process.t_clean), r)

    def noisier(self, draws: Draws, process: Process, t: Tensor, update: int) -> Tensor:
        """A time noisier than ``t`` (B,)."""
        return t + draws.uniform("noisier") * (process.t_max - t).clamp(max=self.farthest(update))
