"""Score implicit matching."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.metrics import PseudoHuber
from fastgen.objectives.score_forms import SIMForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.optimizers import BetasAdam
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.times import KarrasLevel, TimeLaw


class SIM(ScoreDistiller):
    """Score Implicit Matching, data-free (Luo et al. 2024, arXiv 2410.16794; github.com/maple-research-lab/SIM).

    Any distance ``d(y)`` of the scores' difference ``y = s_fake - s_real``, averaged over the student's noisy samples
    with their law held still, has the gradient of ``-d'(y) . (s_fake - grad log q(x_t | x))`` (theorem 3.1). Here d is
    the paper's pseudo-Huber distance, whose root weighs the samples and stays in the graph:
    ``(mu_real - mu_fake) . (mu_fake - x) / sqrt(|mu_fake - mu_real|^2 + c^2 D)``.

    Differs from the paper: its repository can only sample, so everything but the loss is SiD's, whose setup it takes
    over; the metric's constant and the learning rates are not verified. The distance is measured in x0, where a noise
    level counts by how far the two predictions lie apart, not in scores.

    Args:
        metric: d; a large constant gives SiD with ``alpha: 1`` and a constant weight.
        sampler: How the student generates: one call at noise level (sigma / alpha) 2.5, as SiD.
        renoise_time: Law of the noise levels at which the scores are compared.
        critic_objective: The critic's loss: EDM's, summed over the elements of a sample.
        schedule: Turns of critic and student: 1:1 on fresh samples, the critic first.
    """

    def __init__(
        self,
        metric: PseudoHuber = PseudoHuber(0.03, per_element=True),
        sampler: Sampler = RenoiseSampler(level=2.5),
        renoise_time: TimeLaw = KarrasLevel(0.0, 0.8),
        critic_objective: DenoisingLoss = DenoisingLoss(reduction="sum"),
        schedule: UpdateSchedule = UpdateSchedule(critic_first=True),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            form=SIMForm(metric),
            sampler=sampler,
            renoise_time=renoise_time,
            critic_objective=critic_objective,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
