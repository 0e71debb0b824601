"""DP-DMD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.distiller.extra import Extra
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras.first_step_anchor import FirstStepAnchor
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.few_step_forms import NoisyGapForm
from fastgen.objectives.score_forms import ScoreForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import FlowTime, SharedLevel, TimeLaw


class DPDMD(DMD2):
    """Diversity-preserved DMD (arXiv 2602.03139; github.com/Multimedia-Analytics-Laboratory/dpdmd).

    The student is its own deterministic chain. Its first step learns from the teacher's path alone (the extra
    ``FirstStepAnchor``), and DMD's gradient on the end of the chain runs through all steps after it and stops there, so
    that its mode seeking cannot reach what decides the composition. The scores are compared at one noise level for the
    whole batch; the normaliser is ``mean |x_t - mu_real|`` of the noisy sample, as in the official code. No GAN;
    prompts only. Critic: flow matching, five updates of its own for each of the student's.

    Args:
        sampler: How the student generates: four steps, a gradient through the last three.
        form: How the two scores become the student's loss.
        renoise_time: Law of the noise levels at which the scores are compared: SD3's shifted times, one for a batch.
        critic_time: Law of the noise levels at which the critic learns: the same.
        critic_objective: The critic's loss: the squared error of the velocity.
        guidance: 3.5 for the teacher.
        schedule: Turns of critic and student: five of the critic, then one of the student.
        extras: Further loss terms; ``published`` is the paper's anchor, a ``FirstStepAnchor``.
    """

    def __init__(
        self,
        sampler: Sampler = JumpSampler(steps=4, stop="last", gradient_calls=3),
        form: ScoreForm = NoisyGapForm(),
        renoise_time: TimeLaw = SharedLevel(FlowTime(shift=3.0)),
        critic_time: TimeLaw = SharedLevel(FlowTime(shift=3.0)),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        guidance: Guidance = Guidance(teacher=3.5),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=5, exclusive=True, student_start=5),
        extras: Sequence[Extra] | Literal["published"] = "published",
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5, decay=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5, decay=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sampler=sampler,
            form=form,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            schedule=schedule,
            extras=[FirstStepAnchor()] if isinstance(extras, str) else extras,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
