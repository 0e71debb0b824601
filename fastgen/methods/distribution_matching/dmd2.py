"""DMD2."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.optimizers import BetasAdamW
from fastgen.times import TimeLaw, UniformTime


class DMD2(ScoreDistiller):
    """Improved Distribution Matching Distillation (Yin et al. 2024, arXiv 2405.14867; github.com/tianweiy/DMD2).

    Student: ``0.5 mean (x - sg[x - g])^2``, ``g = (mu_fake - mu_real) / mean |x - mu_real|`` with ``mu_real`` guided.
    Critic: denoising, five updates per student update, on the same samples, also in the student's iterations.
    Several steps train by backward simulation: give ``sampler.times``. The GAN of the paper is the extra
    ``fastgen.extras.GAN``. The official code has no EMA; add the callback to have one.

    Args:
        critic_time: Law of the noise levels at which the critic learns: all alike.
        schedule: Turns of critic and student; the paper uses 5:1 (ImageNet, SDXL) and 10:1 (SD1.5).
    """

    def __init__(
        self,
        critic_time: TimeLaw = UniformTime(0.0, 1.0),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=5, critic_first=False, reuse_rollout=True),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            critic_time=critic_time,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
