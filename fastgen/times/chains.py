"""Laws of levels that look at the student's own chain."""

from __future__ import annotations

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
    """

    t: Tensor
    t_anchor: Tensor
    step: int | Tensor = 0
    update: int = 0


@dataclass(frozen=True)
class WithinChain(TimeLaw):
    """Uniform between two levels that depend on where the student's chain stands, measured as in ``UniformTime``.

    ``low=anchor, high=student`` is the segment of the student's last step (TDM), ``low=anchor, high=1`` everything
    noisier than its end (Phased DMD), ``low=0, high=student`` everything cleaner than its input (Decoupled DMD).

    Args:
        low: Lower end: ``anchor``, where the chain stopped, or a position in [0, 1].
        high: Upper end: ``student``, the time of the student's last call, or a position in [0, 1].
        floor: Least position: below it, teachers are seldom trained.
    """

    low: float | Literal["anchor"] = "anchor"
    high: float | Literal["student"] = "student"
    floor: float = 0.02

    def __post_init__(self) -> None:
        low, high = (None if isinstance(end, str) else end for end in (self.low, self.high))
        checks.fraction(self, low=low, high=high, floor=self.floor)
        checks.ascending(self, low=self.low, high=self.high)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        raise UserError("WithinChain needs a student's chain; use it for renoise_time, critic_time or guidance_time.")

    def given(self, chain: Chain) -> TimeLaw:
        low = chain.t_anchor if isinstance(self.low, str) else self.low
        high = chain.t if isinstance(self.high, str) else self.high
        return _UniformBetween(low, high, self.floor)


@dataclass(frozen=True, eq=False)
class _UniformBetween(TimeLaw):
    """Uniform between two ends, each a time per sample (B,) or a position in [0, 1], and above ``floor``."""

    low: Tensor | float
    high: Tensor | float
    floor: float

    def sample(self, draws: Draws, process: Process) -> Tensor:
        u = draws.uniform("time")
        low, high = (
            (process.fraction(end) if isinstance(end, Tensor) else torch.full_like(u, end)).clamp(min=self.floor)
            for end in (self.low, self.high)
        )
        return process.position(low + (high - low) * u)
