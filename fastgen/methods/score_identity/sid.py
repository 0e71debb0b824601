"""Score identity distillation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen import checks
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.score_forms import SiDForm
from fastgen.objectives.score_identity import InverseDistance
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import LevelWeight
from fastgen.optimizers import BetasAdam
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.times import KarrasLevel, TimeLaw


class SiD(ScoreDistiller):
    """Score identity Distillation, data-free (Zhou et al. 2024, arXiv 2404.04057; github.com/mingyuanzhou/SiD).

    Loss: ``omega (mu_real - mu_fake) . [(mu_real - x) - alpha (mu_real - mu_fake)]`` with gradients through both
    networks. With ``guidance`` it is SiD-LSG (Zhou et al. 2024, arXiv 2406.01561).

    The official code replaces non-finite gradients by large numbers; here such an update is skipped and counted.

    Args:
        alpha: 1.2 is the paper's default; 1.0 and 0.5 are the unbiased choices. If samples turn to noise, lower it.
        loss_scale: Factor of the loss. With Adam it only matters beside extras and epsilon.
        weight: SiD's ``1 / mean |x - mu_real|``, or a weight of the noise level.
        sampler: How the student generates: one call at noise level (sigma / alpha) 2.5, step 625 of Stable Diffusion.
        renoise_time: Law of the noise levels at which the scores are compared; position 0.8 of EDM's grid is level 24.
        critic_objective: The critic's loss: EDM's, summed over the elements of a sample.
        schedule: Turns of critic and student; SiD updates the critic first, 1:1, on fresh samples.
    """

    def __init__(
        self,
        alpha: float = 1.2,
        loss_scale: float = 100.0,
        weight: LevelWeight | InverseDistance = InverseDistance(),
        sampler: Sampler = RenoiseSampler(level=2.5),
        renoise_time: TimeLaw = KarrasLevel(0.0, 0.8),
        critic_objective: DenoisingLoss = DenoisingLoss(reduction="sum"),
        schedule: UpdateSchedule = UpdateSchedule(critic_first=True),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        checks.finite(self, alpha=alpha)
        checks.positive(self, loss_scale=loss_scale)
        super().__init__(
            form=SiDForm(alpha, loss_scale, weight),
            sampler=sampler,
            renoise_time=renoise_time,
            critic_objective=critic_objective,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
