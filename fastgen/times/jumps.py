"""Laws for the times of flow maps: where a jump starts, where it ends, and where its target is evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.levels import LogitNormalTime, LogNormalLevel, TimeLaw


@dataclass(frozen=True)
class JumpTimes:
    """``s <= r <= t``, each (B,), fp64.

    Attributes:
        t: Where the student is asked, the noisiest.
        s: Where its output lives; the clean end for a consistency model.
        r: Where the target network is asked; ``t`` for rules in the limit r -> t.
    """

    t: Tensor
    s: Tensor
    r: Tensor

    def at_most(self, high: float) -> JumpTimes:
        """The same times, cut at ``high``."""
        return JumpTimes(*(time.clamp(max=high) for time in (self.t, self.s, self.r)))


class JumpLaw(Component, ABC):
    """A distribution of the times of a jump."""

    @abstractmethod
    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        """Times on ``process`` for every sample of the batch, after ``update`` student updates."""


@dataclass(frozen=True)
class ToData(JumpLaw):
    """From a drawn time to data, without a middle: continuous-time consistency.

    Args:
        law: Law of ``t``; the default is sCM's (arXiv 2410.11081).
    """

    law: TimeLaw = LogNormalLevel(-1.0, 1.4)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        t = self.law.sample(draws, process)
        return JumpTimes(t, torch.full_like(t, process.t_clean), t)


@dataclass(frozen=True)
class GridTimes(JumpLaw):
    """Neighbours on the process's own grid, jumping to data (LCM: 50 of the 1000 steps, arXiv 2310.04378).

    Args:
        steps: Number of grid times; the clean end follows the last.
        skip: Grid steps between ``t`` and ``r``.
    """

    steps: int = 50
    skip: int = 1

    def __post_init__(self) -> None:
        checks.whole(self, steps=self.steps, skip=self.skip)
        checks.ascending(self, skip=self.skip, steps=self.steps)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        grid = torch.tensor([*process.grid(self.steps), process.t_clean], dtype=torch.float64, device=draws.device)
        index = draws.integers("time", self.steps)
        clean = torch.full_like(grid[index], process.t_clean)
        return JumpTimes(grid[index], clean, grid[(index + self.skip).clamp(max=self.steps)])


@dataclass(frozen=True)
class SortedTimes(JumpLaw):
    """Two draws of one law in order, and with some probability the earlier one twice.

    MeanFlow (Geng et al. 2025, arXiv 2505.13447): logit-normal(-0.4, 1), three quarters diagonal. Flow map
    self-distillation (Boffi et al. 2025, arXiv 2505.18825): uniform, three quarters diagonal, and ``r`` in the middle
    or uniform between the two.

    Args:
        law: Law of both times.
        diagonal: Probability of ``s = t``.
        to_data: Probability of ``s`` at the clean end, of the samples that are not diagonal.
        middle: Fraction of the way from ``t`` to ``s`` at which ``r`` lies; ``None`` draws it uniformly.
    """

    law: TimeLaw = LogitNormalTime(-0.4, 1.0)
    diagonal: float = 0.75
    to_data: float = 0.0
    middle: float | None = 0.5

    def __post_init__(self) -> None:
        checks.fraction(self, diagonal=self.diagonal, to_data=self.to_data, middle=self.middle)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        first, second = (self.law.sample(draws.scoped(name), process) for name in ("first", "second"))
        t, s = torch.maximum(first, second), torch.minimum(first, second)
        s = torch.where(draws.uniform("to_data") < self.to_data, process.t_clean, s)
        s = torch.where(draws.uniform("diagonal") < self.diagonal, t, s)
        fraction = draws.uniform("middle") if self.middle is None else self.middle
        return JumpTimes(t, s, t + fraction * (s - t))


@dataclass(frozen=True)
class DyadicTimes(JumpLaw):
    """Jumps of length 1, 1/2, .., 2^-(levels - 1) on their own grids, with the middle; else the diagonal.

    Frans et al. 2024, Shortcut, arXiv 2410.12557, on a process whose time runs from 0 to 1.

    Args:
        levels: Number of lengths; 7 means that the shortest jump is 1/64 and its halves 1/128.
        bootstrap: Probability of a jump.
    """

    levels: int = 7
    bootstrap: float = 0.125

    def __post_init__(self) -> None:
        checks.whole(self, 1, 30, levels=self.levels)
        checks.fraction(self, bootstrap=self.bootstrap)

    @property
    def shortest(self) -> float:
        """Length of the shortest jump."""
        return 2.0 ** (1 - self.levels)

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        count = torch.exp2(draws.integers("level", self.levels).double())  # jumps on the way
        index = (draws.uniform("slot") * count).floor()
        jump = draws.uniform("bootstrap") < self.bootstrap
        finest = 2.0**self.levels
        t = torch.where(jump, 1.0 - index / count, 1.0 - (draws.uniform("time") * finest).floor() / finest)
        s = torch.where(jump, t - 1.0 / count, t)
        return JumpTimes(t, s, 0.5 * (t + s))
