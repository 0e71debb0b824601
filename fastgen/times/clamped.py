"""ClampedTime: a law whose draws beyond two bounds lie on them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastgen import checks
from fastgen.processes import Process
from fastgen.randomness import Draws
from fastgen.times.chains import Chain
from fastgen.times.levels import FlowTime, TimeLaw


@dataclass(frozen=True)
class ClampedTime(TimeLaw):
    """Draws of a law, kept within positions ``low .. high`` of the levels that networks are trained at.

    CausVid (arXiv 2412.07772), Self Forcing (arXiv 2506.08009) and what follows them draw uniform steps, shift them,
    and then keep them within 20 and 980 of 1000. Unlike a law of that range the bounds themselves are drawn often.

    Args:
        law: The law.
        low: Lowest position in [0, 1], 0 is clean.
        high: Highest position, 1 is ``t_max``.
    """

    law: TimeLaw = FlowTime(low=0.0, high=0.999, shift=5.0)
    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        checks.fraction(self, low=self.low, high=self.high)
        checks.ascending(self, low=self.low, high=self.high)

    def sample(self, draws: Draws, process: Process) -> Tensor:
        position = process.fraction(self.law.sample(draws, process))
        return process.position(position.clamp(self.low, self.high))

    def given(self, chain: Chain) -> TimeLaw:
        return ClampedTime(self.law.given(chain), self.low, self.high)
