"""GridEMA: a target that follows the student the more slowly the finer the grid is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastgen import checks
from fastgen.distiller.averaging import EMARule
from fastgen.times.curricula import Curriculum, SquareRootLevels


@dataclass(frozen=True)
class GridEMA(EMARule):
    """``mu(k) = exp(s0 log mu0 / N(k))`` (Song et al. 2023, arXiv 2303.01469, appendix C).

    The authors' code divides by N(k) - 1.

    Args:
        curriculum: N(k) and, at k = 0, s0.
        first: mu0, the decay at first.
    """

    curriculum: Curriculum = SquareRootLevels()
    first: float = 0.95

    def __post_init__(self) -> None:
        checks.between(self, 0.0, 1.0, "()", first=self.first)

    def beta(self, update: int, samples_seen: int, samples_per_update: int) -> float:
        return math.exp(self.curriculum.levels(0) * math.log(self.first) / self.curriculum.levels(update))
