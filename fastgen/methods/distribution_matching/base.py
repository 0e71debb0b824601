"""ScoreDistiller: student, teacher and a critic that follows the student's distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher, FromTeacher
from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.run_facts import RunFacts, idle_guidance
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.distiller.score_term import ScoreTerm
from fastgen.errors import UserError
from fastgen.objectives.score_forms import DMDForm, ScoreForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import Sampler
from fastgen.times import LogNormalLevel, TimeLaw, UniformTime


class ScoreDistiller(ScoreTerm, Distiller):
    """Compares teacher and critic at re-noised student samples; the critic learns to denoise those samples.

    A method gives a ``form``, or overrides a hook of :class:`~fastgen.distiller.score_term.ScoreTerm`.

    Args:
        form: How the two scores become the student's loss.
        critic: Builds the critic (fake score), or says how it is made from the frozen teacher.
        critic_optimizer: Builds the critic's optimizer.
        critic_lr_scheduler: Builds the critic's learning-rate schedule; it steps with every critic update.
        renoise_time: Law of the noise levels at which the scores are compared.
        critic_time: Law of the noise levels at which the critic learns.
        critic_objective: The critic's loss.
        guidance: Guidance scales of teacher and critic.
        schedule: Turns of critic and student.
    """

    teacher: Denoiser
    critic: Denoiser

    def __init__(
        self,
        form: ScoreForm = DMDForm(),
        critic: Callable[[], Denoiser] | FromTeacher = CopyOfTeacher(),
        critic_optimizer: OptimizerCallable = torch.optim.Adam,
        critic_lr_scheduler: LRSchedulerCallable | None = None,
        renoise_time: TimeLaw = UniformTime(0.02, 0.98),
        critic_time: TimeLaw = LogNormalLevel(),
        critic_objective: DenoisingLoss = DenoisingLoss(),
        guidance: Guidance = Guidance(),
        schedule: UpdateSchedule = UpdateSchedule(),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.factories["critic"] = critic
        self.optimizer_factories["critic"] = critic_optimizer
        self.lr_scheduler_factories["critic"] = critic_lr_scheduler
        self.renoise_time = renoise_time
        self.critic_time = critic_time
        self.critic_objective = critic_objective
        self.form = form
        self.guidance = guidance
        self.schedule = schedule
        self.watches = {}

    @property
    def method(self) -> Distiller:
        return self

    def score_term(self) -> ScoreTerm:
        return self

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError(f"{type(self).__name__} needs a teacher; give model.init_args.teacher.")
        self.critic = self.build_role("critic")

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        yield from super().without_effect(run)
        yield from idle_guidance(run, self.guidance, self.teacher, self.critic)

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"student": [self.student], "critic": [self.critic]}

    def turns(self, iteration: int) -> tuple[str, ...]:
        return self.schedule.turns(iteration)

    def rollout(self, part: MicroBatch, role: str, condition: Condition | None = None) -> Rollout:
        """As of any method; those of the student's turn are the critic's too if the schedule says so."""
        made = super().rollout(part, role, condition)
        if role == "student" and self.schedule.reuse_rollout:
            part.rollouts.setdefault("critic", made.detach())
        return made

    def rollout_sampler(self) -> Sampler:
        return self.sampler

    def rollout_scope(self, role: str) -> str:
        return "rollout" if self.schedule.reuse_rollout else super().rollout_scope(role)

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Rollout, re-noise, compare."""
        return self.matching_losses(part)

    def critic_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Denoise the student's samples."""
        return self.denoising_losses(part)
