"""Jumps whose times lie on a grid and whose targets are several of its steps away."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastgen import checks
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.jumps import JumpLaw, JumpTimes


@dataclass(frozen=True)
class SubGridTimes(JumpLaw):
    """``t`` on the process's own grid, ``r`` a number of its steps later, and ``s`` any of its times from ``r`` on.

    CTM (Kim et al. 2023, arXiv 2310.02279; github.com/sony/ctm): the number of steps is drawn once for all samples of
    an update, on all ranks, because the teacher takes as many.

    Args:
        steps: Number of times of the grid; the clean end follows the last. 18 on CIFAR-10, 40 on ImageNet 64.
        longest: Largest number of steps from ``t`` to ``r``: 17 and 39; 20 beside a discriminator.
        power: The number n has a probability like ``n^power``; 0 is uniform.
    """

    steps: int = 18
    longest: int = 17
    power: float = 0.0

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, longest=self.longest, steps=self.steps)
        checks.ascending(self, longest=self.longest, steps=self.steps)
        checks.not_negative(self, power=self.power)

    def count(self, draws: Draws) -> int:
        """The number of steps from ``t`` to ``r``, which all samples share."""
        chances = torch.arange(1, self.longest + 1, dtype=torch.float64, device="cpu").pow(self.power).cumsum(0)
        return int(torch.searchsorted(chances, draws.shared_uniform("steps") * chances[-1], right=True)) + 1

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        grid = torch.tensor([*process.grid(self.steps), process.t_clean], dtype=torch.float64, device=draws.device)
        count = self.count(draws)
        first = draws.integers("time", self.steps - count + 1)
        middle = first + count
        last = middle + (draws.uniform("end") * (self.steps + 1 - middle)).long()
        return JumpTimes(grid[first], grid[last], grid[middle])
