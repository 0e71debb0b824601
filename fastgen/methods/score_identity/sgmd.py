"""Score gradient matching distillation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.score_gradient import SGMForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import FlowTime, TimeLaw

SHIFT = 5.0
"""Of the levels at which scores are compared."""
LOW, HIGH = (end / (SHIFT - (SHIFT - 1.0) * end) for end in (0.02, 0.98))
"""Ends of the levels before the shift."""


class SGMD(ScoreDistiller):
    """Score Gradient Matching Distillation (arXiv 2605.30116; github.com/ModelTC/LightX2V @f8aee98, trainers/sgmd.py).

    The critic's x0 prediction at the student's noisy sample is regressed on the teacher's, by a gradient through the
    critic's input, and a part ``residual`` of what the critic itself learns from is taken away: see
    :class:`~fastgen.objectives.score_gradient.SGMForm`. No data, no GAN. After each of the student's updates the critic
    has exactly one, on fresh samples: a critic that lags behind would match another law, so other ratios are refused.

    It costs one backward pass through the critic more than DMD2, which runs without dropout there. A collapsed student
    escapes only slowly (like the cube of its spread): start it from the teacher, and watch ``health/sample_std``.

    Differs from the code: levels are uniform between the two ends instead of cut to them (about a tenth of the code's
    draws is the noisier end). Of the paper only the abstract could be read; what is here is the code's.

    Args:
        residual: Factor of the negative residual.
        sampler: How the student generates: four deterministic steps of the process's own grid.
        renoise_time: Law of the noise levels at which the scores are compared: shifted by 5.
        critic_time: Law of the noise levels at which the critic learns: the same.
        critic_objective: The critic's loss: the squared error of the velocity.
        guidance: 3 for the teacher.
        schedule: Turns of critic and student.
    """

    def __init__(
        self,
        residual: float = 0.1,
        sampler: Sampler = JumpSampler(steps=4),
        renoise_time: TimeLaw = FlowTime(LOW, HIGH, SHIFT),
        critic_time: TimeLaw = FlowTime(LOW, HIGH, SHIFT),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        guidance: Guidance = Guidance(teacher=3.0),
        schedule: UpdateSchedule = UpdateSchedule(critic_first=False),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-7, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            form=SGMForm(residual),
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        if schedule.critic_updates != 1:
            raise UserError("SGMD updates the critic once for each update of the student; set critic_updates to 1.")
