"""Forms of score distillation that methods of two times bring."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastgen import checks
from fastgen.objectives.distribution_matching import pseudo_loss
from fastgen.objectives.regression import flow_velocity
from fastgen.objectives.score_forms import ScoreForm, weighted
from fastgen.processes import Prediction
from fastgen.shapes import expand


@dataclass(frozen=True)
class VelocityGapForm(ScoreForm):
    """``0.5 mean (x - sg[x - g])^2`` with ``g = (v_real - v_fake) / (mean (v_real - v_fake)^2 + c)^power``.

    Velocities are ``noise - x0``, those of rectified flow, at the noisy sample. FreeFlow's correction (arXiv
    2511.19428).

    Args:
        c: Floor.
        power: k; 1 keeps gradients large where the two agree.
    """

    c: float = 1e-3
    power: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, c=self.c)
        checks.not_negative(self, power=self.power)

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        gap = (flow_velocity(real) - flow_velocity(fake)).detach()
        scale = (gap.square().flatten(1).mean(1) + self.c).pow(-self.power)
        return pseudo_loss(x, weighted(expand(scale, gap) * gap, weight))
