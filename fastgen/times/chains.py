"""Laws of levels that look at the student's own chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.errors import UserError
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.levels import TimeLaw


@dataclass(frozen=True)
class Chain:
    """Where the student's chains stand that are noised.

    Attributes:
        t: The time of the student's last call, (B,).
        t_anchor: The time at which it stopped, (B,).
        step: Index of that call among the sampler's steps, one for all samples or one for each (B,).
        update: Student updates so far.
        times: The times of all the student's calls, decreasing.
    """

    t: Tensor
    t_anchor: Tensor
    step: int | Tensor = 0
    update: int = 0
    times: Sequence[float] = ()


@dataclass(frozen=True)
class WithinChain(TimeLaw):
    """Uniform between two levels that depend on where the student's chain stands, measured as in ``UniformTime``.

    ``low=anchor, high=student`` is the segment of the student's last step (TDM), ``low=anchor, high=1`` everything
    noisier than its end (Phased DMD), ``low=0, high=student`` everything cleaner than its input (Decoupled DMD).

    Args:
        low: Lower end: ``anchor``, where the chain stopped, or a position in [0, 1].
        high: Upper end: ``student``, the time of the student's last call, or a position in [0, 1].
        floor: Least position: below it, teachers are seldom trained.
        margin: Distance from both ends, in positions; where they are closer than twice that, their middle.
        shift: Factor s of u -> s u / (1 + (s - 1) u) from even to drawn positions, for flows whose steps are shifted
            (Esser et al. 2024, arXiv 2403.03206); ``margin`` counts even positions.
    """

    low: float | Literal["anchor"] = "anchor"
    high: float | Literal["student"] = "student"
    floor: float = 0.02
    margin: float = 0.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        low, high = (None if isinstance(end, str) else end for end in (self.low, self.high))
        checks.fraction(self, low=low, high=high, floor=self.floor, margin=self.margin)
        checks.positive(self, shift=self.shift)
        checks.ascending(self, low=self.low, high=self.high)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        raise UserError("WithinChain needs a student's chain; use it for renoise_time, critic_time or guidance_time.")

    def given(self, chain: Chain) -> TimeLaw:
        low = chain.t_anchor if isinstance(self.low, str) else self.low
        high = chain.t if isinstance(self.high, str) else self.high
        return _UniformBetween(low, high, self.floor, self.margin, self.shift)


@dataclass(frozen=True, eq=False)
class _UniformBetween(TimeLaw):
    """Uniform between two ends, each a time per sample (B,) or a position in [0, 1], and above ``floor``."""

    low: Tensor | float
    high: Tensor | float
    floor: float
    margin: float
    shift: float

    def sample(self, draws: Draws, process: Process) -> Tensor:
        u = draws.uniform("time")
        low, high = (
            (process.fraction(end) if isinstance(end, Tensor) else torch.full_like(u, end)).clamp(min=self.floor)
            for end in (self.low, self.high)
        )
        if self.shift != 1.0:
            low, high = (f / (self.shift - (self.shift - 1.0) * f) for f in (low, high))
        if self.margin > 0.0:
            inset = torch.minimum(torch.full_like(u, self.margin), 0.5 * (high - low))
            low, high = low + inset, high - inset
        even = low + (high - low) * u
        return process.position(even if self.shift == 1.0 else self.shift * even / (1.0 + (self.shift - 1.0) * even))


@dataclass(frozen=True)
class StudentLevels(TimeLaw):
    """Uniform among the times of the student's own calls (SD3.5-Flash, arXiv 2509.21318).

    Args:
        noisier: All of them; else only those cleaner than the input of its last call, and half the time of that input
            where there are none.
    """

    noisier: bool = False

    def sample(self, draws: Draws, process: Process) -> Tensor:
        raise UserError("StudentLevels needs a student's chain; use it for renoise_time, critic_time or guidance_time.")

    def given(self, chain: Chain) -> TimeLaw:
        return _OneOf(tuple(chain.times), None if self.noisier else chain.t)


@dataclass(frozen=True, eq=False)
class _OneOf(TimeLaw):
    """Uniform among some decreasing times, of each sample those below a time of its own (B,), or half of that."""

    times: Sequence[float]
    below: Tensor | None

    def sample(self, draws: Draws, process: Process) -> Tensor:
        known, u = torch.tensor(self.times, dtype=torch.float64, device=draws.device), draws.uniform("time")
        if self.below is None:
            return known[(u * len(known)).long()]
        allowed = (known < self.below[:, None] * (1.0 - 1e-9)).sum(1)
        index = len(known) - allowed + (u * allowed).long()
        return torch.where(allowed > 0, known[index.clamp(max=len(known) - 1)], 0.5 * self.below)
