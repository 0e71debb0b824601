"""Jumps whose length is drawn, jumps from pure noise, and pairs of steps on a ladder of grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.jumps import JumpLaw, JumpTimes
from fastgen.times.levels import FlowTime, LogitNormalTime, TimeLaw


@dataclass(frozen=True)
class GapTimes(JumpLaw):
    """The length of a jump by a law, its end anywhere that it fits: ``s ~ U[0, t_max - length]``, ``t = s + length``.

    AYF (Sabour et al. 2025, arXiv 2506.14603, by independent implementations).

    Args:
        length: Law of ``t - s``.
        longest: Largest length; DisCa restricts mean flows to lengths that a few-step student needs.
    """

    length: TimeLaw = LogitNormalTime(-0.8, 1.0)
    longest: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, longest=self.longest)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        length = self.length.sample(draws, process).clamp(max=min(self.longest, process.t_max))
        s = draws.uniform("end") * (process.t_max - length)
        return JumpTimes(s + length, s, s + length)


@dataclass(frozen=True)
class FromNoise(JumpLaw):
    """Destinations of jumps from pure noise: ``s`` by a law of times, and ``r`` so much before it.

    Args:
        law: Law of ``s``.
        step: From ``s`` to ``r``, in positions of the levels that networks are trained at.
    """

    law: TimeLaw = FlowTime(0.0, 0.95)
    step: float = 0.0

    def __post_init__(self) -> None:
        checks.fraction(self, step=self.step)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        s = self.law.sample(draws, process)
        r = process.position((process.fraction(s) + self.step).clamp(max=1.0))
        return JumpTimes(torch.full_like(s, process.t_max), s, r)


@dataclass(frozen=True)
class EtaTimes(JumpLaw):
    """``t ~ U[low, high], s ~ U[low, t]``, and r one decrement of eta = sigma / alpha before t, at least s.

    IMM (Zhou et al. 2025, arXiv 2503.07565) on a process whose time runs from 0 to 1.

    Args:
        low: Lowest time.
        high: Highest time.
        eta_max: Largest eta.
        k: The decrement is ``eta_max / 2^k``.
    """

    low: float = 0.006
    high: float = 0.994
    eta_max: float = 160.0
    k: int = 15

    def __post_init__(self) -> None:
        checks.positive(self, low=self.low, high=self.high, eta_max=self.eta_max)
        checks.strictly_ascending(self, low=self.low, high=self.high)
        checks.whole(self, k=self.k)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        t = self.low + (self.high - self.low) * draws.uniform("t")
        s = self.low + (t - self.low) * draws.uniform("s")
        r = process.time((process.ratio(t) - self.eta_max / 2**self.k).clamp(min=0.0))
        return JumpTimes(t, s, torch.maximum(r, s))


@dataclass(frozen=True)
class LadderTimes(JumpLaw):
    """Two steps in a row, from an even one, of a grid whose number of steps and shift are drawn for each sample.

    SCFM (arXiv 2510.17858; github.com/caitree/scfm, ``get_scfm_timesteps``): with some probability the teacher's grid,
    else one of the student's; the times ``1, .., 1/n, 0`` go through ``u -> k u / (1 + (k - 1) u)``.

    Args:
        teacher: Probability of the teacher's grid.
        teacher_steps: Its number of steps.
        steps: Numbers of steps of the student's grids, all even.
        low_shift: Smallest k.
        high_shift: Largest k.
    """

    teacher: float = 0.4
    teacher_steps: int = 32
    steps: Sequence[int] = (2, 4, 8, 16)
    low_shift: float = 2.5
    high_shift: float = 4.5

    def __post_init__(self) -> None:
        checks.fraction(self, teacher=self.teacher)
        checks.not_empty(self, steps=self.steps)
        checks.whole(self, 2, teacher_steps=self.teacher_steps)
        for count in self.steps:
            checks.whole(self, 2, steps=count)
        checks.positive(self, low_shift=self.low_shift, high_shift=self.high_shift)
        checks.ascending(self, low_shift=self.low_shift, high_shift=self.high_shift)

    def by_teacher(self, draws: Draws) -> Tensor:
        """Which samples are on the teacher's grid, (B,)."""
        return draws.uniform("teacher") < self.teacher

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        own = torch.tensor(list(self.steps), dtype=torch.float64, device=draws.device)
        count = own[draws.integers("steps", len(self.steps))]
        count = torch.where(self.by_teacher(draws), float(self.teacher_steps), count)
        first = 2.0 * (draws.uniform("start") * (count / 2.0).floor()).floor()
        shift = self.low_shift + (self.high_shift - self.low_shift) * draws.uniform("shift")

        def time(index: Tensor) -> Tensor:
            u = 1.0 - index / count
            return process.t_max * shift * u / (1.0 + (shift - 1.0) * u)

        return JumpTimes(time(first), time(first + 2.0), time(first + 1.0))
