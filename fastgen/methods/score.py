"""ScoreDistiller: student, teacher and a critic that follows the student's distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from fastgen.conditions import Condition, Guidance, where
from fastgen.denoisers.adapters import Adapter
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.methods.base import Distiller
from fastgen.methods.batch import MicroBatch
from fastgen.methods.schedule import UpdateSchedule
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.processes import Prediction
from fastgen.randomness import Draws
from fastgen.sampling.guided import GuidedPrediction, guided
from fastgen.sampling.students import Rollout
from fastgen.times import LogNormalLevel, TimeLaw, UniformTime


class ScoreDistiller(Distiller, ABC):
    """Compares teacher and critic at re-noised student samples; the critic learns to denoise those samples.

    A method overrides :meth:`score_loss`, and sets ``differentiate_scores`` if its gradient runs through both networks
    into the noisy sample (second-order forms).

    Args:
        critic: Builds the critic (fake score), or an adapter to put on the frozen teacher; default a copy of the
            teacher.
        critic_optimizer: Builds the critic's optimizer.
        critic_lr_scheduler: Builds the critic's learning-rate schedule; it steps with every critic update.
        renoise_time: Law of the noise levels at which the scores are compared; default uniform in [0.02, 0.98].
        critic_time: Law of the noise levels at which the critic learns; default EDM's log-normal.
        critic_objective: The critic's loss; default EDM's.
        guidance: Guidance scales of teacher and critic.
        schedule: Turns of critic and student.
    """

    differentiate_scores = False
    teacher: Denoiser
    critic: Denoiser

    def __init__(
        self,
        critic: Callable[[], Denoiser] | Adapter | None = None,
        critic_optimizer: OptimizerCallable = torch.optim.Adam,
        critic_lr_scheduler: LRSchedulerCallable | None = None,
        renoise_time: TimeLaw | None = None,
        critic_time: TimeLaw | None = None,
        critic_objective: DenoisingLoss | None = None,
        guidance: Guidance = Guidance(),
        schedule: UpdateSchedule = UpdateSchedule(),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.factories["critic"] = critic
        self.optimizer_factories["critic"] = critic_optimizer
        self.lr_scheduler_factories["critic"] = critic_lr_scheduler
        self.renoise_time = renoise_time or UniformTime(0.02, 0.98)
        self.critic_time = critic_time or LogNormalLevel()
        self.critic_objective = critic_objective or DenoisingLoss()
        self.guidance = guidance
        self.schedule = schedule

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError(f"{type(self).__name__} needs a teacher; give model.init_args.teacher.")
        self.critic = self.build_role("critic")

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"student": [self.student], "critic": [self.critic]}

    def turns(self, iteration: int) -> tuple[str, ...]:
        return self.schedule.turns(iteration)

    def rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        """Student samples for the turn of ``role``; only the student's own turn records a graph.

        They stay in ``part.memory`` under the role's name (and, if shared, for the critic) for the extras.
        """
        shared = self.schedule.reuse_rollout
        if role == "critic" and "critic" in part.memory:
            return part.memory["critic"]
        draws = part.draws.scoped("rollout" if shared else f"{role}/rollout")
        with torch.set_grad_enabled(role == "student" and torch.is_grad_enabled()):
            rollout = self.sampler.rollout(self.student, draws, condition, self.noise_dtype())
        part.memory[role] = rollout
        if role == "student" and shared:
            part.memory["critic"] = rollout.detach()
        return rollout

    def critic_condition(self, part: MicroBatch) -> Condition:
        """The condition with some samples' dropped."""
        rate = self.guidance.condition_dropout
        if rate == 0.0 or not part.condition:
            return part.condition
        keep = part.draws.uniform("critic/dropout") >= rate
        return where(keep, part.condition, self.critic.null_condition(part.condition))

    def renoised(self, rollout: Rollout, draws: Draws, law: TimeLaw) -> tuple[Tensor, Tensor, Tensor]:
        """The rollout at a drawn level: (x_t, t, noise)."""
        t = law.given(rollout.t, rollout.t_anchor).sample(draws, self.student.process)
        noise = draws.normal("noise", rollout.x0.shape[1:], rollout.x0.dtype)
        return self.renoise(rollout, t, noise), t, noise

    def renoise(self, rollout: Rollout, t: Tensor, noise: Tensor) -> Tensor:
        """The noisy sample at ``t``; a method whose student stops at a noisy anchor begins there."""
        return self.student.process.add_noise(rollout.x0, noise, t)

    def scores(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[GuidedPrediction, GuidedPrediction]:
        """Predictions of teacher and critic at ``x_t``, guided; with and without condition they are in there too."""
        with torch.set_grad_enabled(self.differentiate_scores and torch.is_grad_enabled()):
            real = guided(self.teacher, x_t, t, condition, self.guidance.teacher)
            fake = guided(self.critic, x_t, t, condition, self.guidance.critic)
        return real, fake

    @abstractmethod
    def score_loss(self, rollout: Rollout, real: GuidedPrediction, fake: GuidedPrediction) -> Tensor:
        """The scalar that pulls the student from the critic towards the teacher."""

    def compared(self, part: MicroBatch) -> tuple[Rollout, Tensor, Tensor]:
        """The student's samples, and where the scores are asked about them: (rollout, x_t, t)."""
        rollout = self.rollout(part, "student", part.condition)
        x_t, t, _ = self.renoised(rollout, part.draws.scoped("student/renoise"), self.renoise_time)
        return rollout, x_t, t

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Rollout, re-noise, compare."""
        rollout, x_t, t = self.compared(part)
        part.memory["compared"] = x_t, t
        real, fake = self.scores(x_t, t, rollout.condition)
        self.record_health(rollout, real, fake)
        return self.match(part, rollout, real, fake)

    def match(
        self, part: MicroBatch, rollout: Rollout, real: GuidedPrediction, fake: GuidedPrediction
    ) -> dict[str, Tensor]:
        """The student's losses; for methods that need more of the batch than :meth:`score_loss` sees."""
        return {"match": self.score_loss(rollout, real, fake)}

    def critic_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Denoise the student's samples; guidance may act inside the loss.

        A dropped condition is dropped for the student's sample too, as in SiD-LSG (arXiv 2406.01561), unless the
        samples are shared with the student's turn.
        """
        condition = self.critic_condition(part)
        rollout = self.rollout(part, "critic", condition)
        x_t, t, noise = self.renoised(rollout, part.draws.scoped("critic"), self.critic_time)
        prediction = guided(self.critic, x_t, t, condition, self.guidance.critic_training)
        return {"denoising": self.denoising_loss(rollout, prediction, noise)}

    def denoising_loss(self, rollout: Rollout, prediction: Prediction, noise: Tensor) -> Tensor:
        """How far the critic is from the samples."""
        return self.critic_objective(prediction, rollout.x0, noise)

    def record_health(self, rollout: Rollout, real: Prediction, fake: Prediction) -> None:
        """Log the gap between critic and teacher and the spread of the samples (a collapse alarm)."""
        # Detached copies: a prediction remembers what it was converted to, and here that would be without its graph.
        real, fake = real.detach(), fake.detach()
        with torch.no_grad():
            self.record("health/score_gap", (fake.x0 - real.x0).abs().mean())
            self.record("health/teacher_gap", (rollout.x0 - real.x0).abs().mean())
            self.record("health/sample_std", rollout.x0.std())
