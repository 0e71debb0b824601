"""ScoreDistiller: student, teacher and a critic that follows the student's distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.adapters import Adapter
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.warped import seen_on
from fastgen.errors import UserError
from fastgen.methods.base import Distiller
from fastgen.methods.batch import MicroBatch
from fastgen.methods.schedule import UpdateSchedule
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.processes import Prediction
from fastgen.randomness import Draws
from fastgen.run_facts import RunFacts, idle_guidance
from fastgen.sampling.guided import GuidedPrediction, guided
from fastgen.sampling.scores import critic_condition, health, level_and_noise, scores
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
        self.watches: dict[nn.Module, Callable[[Denoiser], Denoiser]] = {}

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
        return critic_condition(self.critic, part.condition, self.guidance, part.draws)

    def renoised(self, rollout: Rollout, draws: Draws, law: TimeLaw) -> tuple[Tensor, Tensor, Tensor]:
        """The rollout at a drawn level: (x_t, t, noise)."""
        t, noise = level_and_noise(self.student.process, rollout, law, draws)
        return self.renoise(rollout, t, noise), t, noise

    def renoise(self, rollout: Rollout, t: Tensor, noise: Tensor) -> Tensor:
        """The noisy sample at ``t``; a method whose student stops at a noisy anchor begins there."""
        return self.student.process.add_noise(rollout.x0, noise, t)

    def seen(self, network: Denoiser) -> Denoiser:
        """A network on the student's process, where samples are re-noised and scores are compared."""
        view = seen_on(network, self.student.process)
        return self.watches[network](view) if network in self.watches else view

    @contextmanager
    def watched(self, part: MicroBatch, x_t: Tensor) -> Iterator[None]:
        """Inside, networks are seen through what the extras watch them with; ``x_t`` is what they are asked about."""
        for extra in self.each_extra():
            if self.global_step >= extra.start:
                self.watches |= extra.watching(self, part, x_t)
        try:
            yield
        finally:
            self.watches = {}

    def critic_of(self, rollout: Rollout) -> Denoiser:
        """The network that knows the distribution of such rollouts; for methods with several."""
        return self.critic

    def scores(self, x_t: Tensor, t: Tensor, rollout: Rollout) -> tuple[GuidedPrediction, GuidedPrediction]:
        """Predictions of teacher and critic at ``x_t``, guided; with and without condition they are in there too."""
        with torch.set_grad_enabled(self.differentiate_scores and torch.is_grad_enabled()):
            teacher, critic = self.seen(self.teacher), self.seen(self.critic_of(rollout))
            return scores(teacher, critic, x_t, t, rollout.condition, self.guidance)

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
        with self.watched(part, x_t):
            real, fake = self.scores(x_t, t, rollout)
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
        prediction = guided(self.seen(self.critic_of(rollout)), x_t, t, condition, self.guidance.critic_training)
        return {"denoising": self.denoising_loss(rollout, prediction, noise)}

    def denoising_loss(self, rollout: Rollout, prediction: Prediction, noise: Tensor) -> Tensor:
        """How far the critic is from the samples."""
        return self.critic_objective(prediction, rollout.x0, noise)

    def record_health(self, rollout: Rollout, real: Prediction, fake: Prediction) -> None:
        """Log :func:`~fastgen.sampling.scores.health`."""
        for name, value in health(rollout, real, fake).items():
            self.record(name, value)
