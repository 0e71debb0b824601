"""Forms of score distillation of few-step students, which differ from DMD's in what they are divided by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fastgen import checks
from fastgen.objectives.distribution_matching import normalised, over_gap, pseudo_loss
from fastgen.objectives.metrics import elementwise_huber
from fastgen.objectives.score_forms import ScoreForm, weighted
from fastgen.processes import Prediction


@dataclass(frozen=True)
class NoisyGapForm(ScoreForm):
    """DMD's ``0.5 mean (x - sg[x - g])^2`` with ``g = (mu_fake - mu_real) / mean |x_t - mu_real|``.

    The normaliser sees the noisy sample where DMD's sees the clean one, as in the code of DP-DMD (arXiv 2602.03139).
    """

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        return pseudo_loss(x, weighted(normalised(fake.x0 - real.x0, real.x_t.detach(), real.x0), weight))


@dataclass(frozen=True)
class ColumnHuberForm(ScoreForm):
    """TDM's pseudo-Huber distance, divided by a gap of its own for each column: the mean over channels and rows.

    ``mean (sqrt((x - sg[x - g])^2 + c^2) - c) / mean_{C,H} |x - mu_real|``, ``g = mu_fake - mu_real`` and
    ``c = base sqrt(D / 16384)`` for D elements, as in the code of 1.x-Distill (arXiv 2604.04018), whose mean leaves the
    last axis out. On samples with fewer than three axes it is the mean over all of them.

    Args:
        base: c of a latent of 16 x 32 x 32 elements.
    """

    base: float = 1e-3

    def __post_init__(self) -> None:
        checks.positive(self, base=self.base)

    def __call__(self, x: Tensor, real: Prediction, fake: Prediction, weight: Tensor | None = None) -> Tensor:
        c = self.base * math.sqrt(x[0].numel() / 16384)
        axes = (1, 2) if x.ndim > 3 else tuple(range(1, x.ndim))
        gap = (x - real.x0).detach().abs().mean(axes, keepdim=True)
        distance = elementwise_huber(x - (x - (fake.x0 - real.x0)).detach(), c)
        return weighted(over_gap(distance, gap), weight).mean()
