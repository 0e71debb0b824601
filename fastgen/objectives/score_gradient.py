"""Score gradient matching: the critic's prediction, as a function of the student's sample, approaches the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fastgen import checks
from fastgen.objectives.distribution_matching import mean_absolute_gap
from fastgen.objectives.score_forms import Network, ScoreForm
from fastgen.processes import Prediction
from fastgen.shapes import expand

EPSILON = 1e-8
"""Added to the normaliser."""


@dataclass(frozen=True)
class SGMForm(ScoreForm):
    """``1/2 mean [(mu_fake - sg mu_real)^2 / n] - residual * R``, with ``n = mean |x - mu_real|`` of a sample.

    SGMD (arXiv 2605.30116; github.com/ModelTC/LightX2V, trainers/sgmd.py). R is a loss whose gradient in mu_fake is
    ``(mu_fake - x) / sigma`` over the number of elements, sigma that of rectified flow at the same noise level; it is
    the potential of the residual that the critic's own loss makes smaller. The gradient runs through the critic's input
    alone, so that with its Jacobian J it is ``alpha J^T [(mu_fake - mu_real) / n - residual (mu_fake - x) / sigma]``.

    Args:
        residual: Factor of the second term. It narrows the student: of a Gaussian law with standard deviation 1, the
            stationary one is 0.98, 0.95, 0.89, 0.80 at 0.02, 0.05, 0.1, 0.2, with an exact critic.
    """

    differentiates: ClassVar[frozenset[Network]] = frozenset({"critic"})
    residual: float = 0.1

    def __post_init__(self) -> None:
        checks.not_negative(self, residual=self.residual)

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        ratio = expand(fake.process.ratio(fake.t), x)
        gap = fake.x0 - real.x0.detach()
        matching = 0.5 * gap.square() / (mean_absolute_gap(x, real.x0) + EPSILON)
        pull = ((fake.x0 - x) * (1.0 + 1.0 / ratio)).detach()  # over sigma = ratio / (1 + ratio)
        residual = 0.5 * (fake.x0 - (fake.x0 - pull).detach()).square()
        loss = matching - self.residual * residual
        return (loss if weight is None else expand(weight, loss).to(loss.dtype) * loss).mean()
