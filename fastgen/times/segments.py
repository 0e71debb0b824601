"""Neighbours on a grid whose jumps end before data: at the end of a segment, inside it, or where samplers may call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.jumps import JumpLaw, JumpTimes

CLOSE = 1.0 - 1e-9
"""Times that are closer than this are one."""


@dataclass(frozen=True)
class SegmentTimes(JumpLaw):
    """Neighbours on the process's own grid, with jumps that end in the segment where they begin.

    Segments lie between the calls of a student of so many steps on its grid, so trainer and sampler agree on every
    process: PCM (Wang et al. 2024, arXiv 2405.18407) has one number of them, Hyper-SD (Ren et al. 2024, arXiv
    2404.13686) 8, 4, 2 and 1 in turn.

    Args:
        steps: Number of grid times; the clean end follows the last.
        segments: How many segments, or how many in each stage of the training.
        stage_updates: Student updates of every stage but the last.
        end: Where jumps end: at the segment's ``edge``, or uniformly (in the levels that networks are trained at)
            ``inside``, between that and ``r``.
    """

    steps: int = 50
    segments: int | Sequence[int] = 4
    stage_updates: int = 5000
    end: Literal["edge", "inside"] = "edge"

    def __post_init__(self) -> None:
        checks.whole(self, steps=self.steps, stage_updates=self.stage_updates)
        checks.not_empty(self, segments=self.stages)
        checks.whole(self, 1, self.steps, segments=self.stages)

    @property
    def stages(self) -> Sequence[int]:
        """The number of segments of every stage."""
        return [self.segments] if isinstance(self.segments, int) else self.segments

    def edges(self, process: Process, update: int) -> list[float]:
        """Where segments begin, from ``t_max`` down, after ``update`` student updates; the last ends in data."""
        stage = min(update // self.stage_updates, len(self.stages) - 1)
        return process.student_grid(self.stages[stage])

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        grid = torch.tensor([*process.grid(self.steps), process.t_clean], dtype=torch.float64, device=draws.device)
        edges = grid.new_tensor([process.t_clean, *self.edges(process, update)[::-1]])
        index = draws.integers("time", self.steps)
        t = grid[index]
        edge = edges[torch.searchsorted(edges, t * CLOSE) - 1]
        r = torch.maximum(grid[index + 1], edge)
        if self.end == "edge":
            return JumpTimes(t, edge, r)
        low, high = process.fraction(edge), process.fraction(r)
        s = process.position(low + (high - low) * draws.uniform("end"))
        return JumpTimes(t, torch.minimum(torch.maximum(s, edge), r), r)


@dataclass(frozen=True)
class UnionTimes(JumpLaw):
    """Neighbours on the process's own grid that jump to where a student of some number of steps would be called.

    TDD (Wang et al. 2024, arXiv 2409.01347): destinations are the calls of students of ``fewest`` to ``most`` steps,
    and data; of those at or below ``r`` one within a window below the noisiest is drawn, and made a little cleaner at
    random, so that samplers may add noise again.

    Args:
        steps: Number of grid times; the clean end follows the last.
        fewest: Fewest steps of the students whose calls are destinations.
        most: Most steps of these.
        window: Width of the window, in positions of the levels that networks are trained at.
        relax: Destinations are multiplied by ``1 - relax u`` in these positions, u uniform.
    """

    steps: int = 250
    fewest: int = 4
    most: int = 8
    window: float = 0.26
    relax: float = 0.3

    def __post_init__(self) -> None:
        checks.whole(self, steps=self.steps, fewest=self.fewest, most=self.most)
        checks.ascending(self, fewest=self.fewest, most=self.most)
        checks.fraction(self, window=self.window, relax=self.relax)

    def destinations(self, process: Process) -> list[float]:
        """All of them, ascending; data is the first."""
        calls = {time for count in range(self.fewest, self.most + 1) for time in process.student_grid(count)[1:]}
        return [process.t_clean, *sorted(calls)]

    def sample(self, draws: Draws, process: Process, update: int) -> JumpTimes:
        grid = torch.tensor([*process.grid(self.steps), process.t_clean], dtype=torch.float64, device=draws.device)
        index = draws.integers("time", self.steps)
        t, r = grid[index], grid[index + 1]
        ends = grid.new_tensor(self.destinations(process))
        highest = torch.searchsorted(ends, r / CLOSE).clamp(min=1) - 1
        bottom = process.fraction(ends[highest]) - self.window
        lowest = torch.searchsorted(process.fraction(ends), bottom - 1e-9)
        chosen = lowest + (draws.uniform("end") * (highest - lowest + 1)).long()
        return JumpTimes(t, torch.minimum(self.relaxed(process, ends[chosen], draws), r), r)

    def relaxed(self, process: Process, s: Tensor, draws: Draws) -> Tensor:
        """Destinations a little cleaner than ``s`` (B,); data stays where it is."""
        cleaner = process.position(process.fraction(s) * (1.0 - self.relax * draws.uniform("relax")))
        return torch.where(s <= process.t_clean, s, torch.minimum(cleaner, s))
