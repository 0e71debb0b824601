"""Statistics shield: every image of the student has the mean and the variance that images have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fastgen import checks
from fastgen.distiller.extra import Extra
from fastgen.objectives.divergences import gaussian_kl

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class StatisticsShield(Extra):
    """``weight * mean KL(N(m, s^2) || N(mean, variance))`` with each sample's own mean m and variance s^2.

    The simplest shield of Decoupled DMD (Liu et al. 2025, arXiv 2511.22677): it holds the brightness and contrast that
    guidance alone would drive away. The code of CDM (arXiv 2605.06376) has it with the numbers of SDXL's latents, which
    are the defaults here; whether its variance is that of the sample or of a population was not verified (here the
    former).

    Args:
        weight: Factor of the term.
        start: Student update from which it is active.
        mean: Of the elements of a real sample.
        variance: Of the elements of a real sample.
    """

    def __init__(self, weight: float = 1.0, start: int = 0, mean: float = 0.075, variance: float = 0.81) -> None:
        checks.finite(self, mean=mean)
        checks.positive(self, variance=variance)
        super().__init__(weight, start)
        self.mean = mean
        self.variance = variance

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        elements = method.rollout(part, "student").x0.flatten(1)
        variance, mean = elements.var(1, correction=0), elements.mean(1)
        return {"statistics": self.weight * gaussian_kl(mean, variance, self.mean, self.variance).mean()}
