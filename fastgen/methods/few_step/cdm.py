"""CDM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition, Guidance
from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras.implicit_alignment import ImplicitAlignment
from fastgen.methods.distribution_matching.decoupled_dmd import DecoupledDMD
from fastgen.objectives.distribution_matching import over_gap, pseudo_loss
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import RandomScheduleSampler
from fastgen.sampling.scores import ScoreInputs, last_call
from fastgen.times import TimeLaw, UniformTime


class CDM(DecoupledDMD):
    """Continuous-time distribution matching (arXiv 2605.06376; github.com/byliutao/cdm).

    Decoupled DMD on trajectories with a random number of calls at random times, so that no level is privileged, with a
    third term beside guidance and matching: the student's input is moved along its own velocity to any other time, off
    the trajectory, and what it makes there is matched too. All three judge one call of each trajectory. The critic
    learns what the call after it makes, and follows the student's weights (``ImplicitAlignment``, after its updates).

    As in the official code each term is divided by its own gap, at least 0.1, and is a squared error without the half
    (weights 2); its guidance scale of 7 stands before the difference of the predictions, which is w = 8 here. Differs:
    levels are drawn in [0.02, 0.98], where the code clamps draws from all levels; the values of a schedule are drawn
    for each sample.

    Args:
        off_time: Law of the times off the trajectory.
        off_weight: Factor of the third term.
        sampler: How the student generates: four steps; rollouts of 1 to 28.
        renoise_time: Law of the noise levels at which matching compares the scores.
        critic_time: Law of the noise levels at which the critic learns: the same.
        critic_objective: The critic's loss: the squared error of the velocity.
        guidance: 8 for the teacher.
        schedule: Turns of critic and student: 2:1.
        extras: Further loss terms; ``published`` is an ``ImplicitAlignment`` of decay 0.999.
    """

    sampler: RandomScheduleSampler

    def __init__(
        self,
        off_time: TimeLaw = UniformTime(0.0, 1.0),
        off_weight: float = 2.0,
        sampler: RandomScheduleSampler = RandomScheduleSampler(),
        renoise_time: TimeLaw = UniformTime(0.02, 0.98),
        critic_time: TimeLaw = UniformTime(0.02, 0.98),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        normaliser: Literal["none", "shared", "per_term"] = "per_term",
        floor: float = 0.1,
        matching_weight: float = 2.0,
        guidance_weight: float = 2.0,
        guidance: Guidance = Guidance(teacher=8.0),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=2),
        extras: Sequence[Extra] | Literal["published"] = "published",
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5, decay=1e-4),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6, decay=1e-4),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, off_weight=off_weight)
        checks.kind(self, RandomScheduleSampler, sampler=sampler)
        super().__init__(
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            normaliser=normaliser,
            floor=floor,
            matching_weight=matching_weight,
            guidance_weight=guidance_weight,
            guidance=guidance,
            schedule=schedule,
            extras=[ImplicitAlignment(0.999, follows="critic")] if isinstance(extras, str) else extras,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.off_time = off_time
        self.off_weight = off_weight

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        draws = part.draws.scoped(self.rollout_scope(role))
        told = self.student_condition(condition, draws)
        made = self.sampler.rollout(self.student, draws, told, self.noise_dtype(), ahead=int(role == "critic"))
        return replace(made, condition=condition)

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        losses = super().matching_losses(part)
        inputs = self.off_trajectory(part, self.score_inputs(part).rollout)
        with torch.no_grad():
            real, fake = self.teacher_scores(part, inputs), self.critic_scores(part, inputs)
        x = inputs.rollout.x0
        matching = over_gap(fake.x0 - real.conditional.x0, self.gap(x, real.x0))
        return losses | {"off_trajectory": self.off_weight * pseudo_loss(x, matching)}

    def off_trajectory(self, part: MicroBatch, rollout: Rollout) -> ScoreInputs:
        """What the student makes of its input moved along its own velocity, under noise of its own."""
        process, draws = self.student.process, part.draws.scoped("student/off_trajectory")
        s = self.off_time.sample(draws, process)
        x_s = process.jump(last_call(rollout).detach(), s)
        made = self.student(x_s, s, self.student_condition(rollout.condition, draws))
        beside = replace(rollout, x0=made.x0, t=s, anchor=made.x0, trajectory=(made,))
        return self.renoise(self.renoise_time)(process, beside, draws.scoped("renoise"))
