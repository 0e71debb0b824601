"""Guidance of the teacher in a flow-map method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fastgen import checks
from fastgen.randomness import Draws


@dataclass(frozen=True)
class TeacherGuidance:
    """Classifier-free guidance of the teacher in a flow-map method: a scale, or a range to draw from per sample.

    Args:
        low: Lowest scale, with 1 for none; LCM draws from 6 to 16 (its w is the scale minus 1).
        high: Highest scale; ``low`` draws none and always takes that one.
        embedded: The student is told the scale, by an input that it has (FLUX.1-dev, LCM's U-Nets) or gets. U-Nets get
            that of diffusers' LCM checkpoints, so that their pipelines can be told ``guidance_scale``.
        sampling: The scale that an embedded student is told when it generates; ``middle`` is that of the range.
        power: Scales are drawn with a density like ``scale^-power``: 0 is uniform, 1 uniform in the logarithm (iMF).
    """

    low: float = 1.0
    high: float | Literal["low"] = "low"
    embedded: bool = False
    sampling: float | Literal["middle"] = "middle"
    power: float = 0.0

    def __post_init__(self) -> None:
        told = {"high": self.high, "sampling": self.sampling}
        checks.not_negative(self, low=self.low, **{k: v for k, v in told.items() if not isinstance(v, str)})
        checks.ascending(self, low=self.low, high=self.high)
        checks.not_negative(self, power=self.power)
        if self.power > 0:
            checks.positive(self, low=self.low)

    @property
    def highest(self) -> float:
        """The highest scale."""
        return self.low if isinstance(self.high, str) else self.high

    @property
    def active(self) -> bool:
        """Whether the null condition is ever needed."""
        return (self.low, self.highest) != (1.0, 1.0)

    def draw(self, draws: Draws) -> Tensor:
        """One scale per sample, (B,), fp64."""
        u = draws.uniform("guidance")
        if self.power == 0.0:
            return self.low + (self.highest - self.low) * u
        if self.power == 1.0:
            return self.low * (self.highest / self.low) ** u
        rest = 1.0 - self.power
        return (self.low**rest + (self.highest**rest - self.low**rest) * u) ** (1.0 / rest)

    def when_sampling(self) -> float:
        """The scale that an embedded student is told when it generates."""
        return 0.5 * (self.low + self.highest) if isinstance(self.sampling, str) else self.sampling
