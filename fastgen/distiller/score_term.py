"""ScoreTerm: teacher and critic are compared at noisy samples of the student; the critic learns these samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import GuidedPrediction, guided
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.objectives.score_forms import ScoreForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.processes import Prediction
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.scores import Comparison, Renoise, ScoreInputs, critic_condition, health
from fastgen.times import TimeLaw

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class ScoreTerm(ABC):
    """Student samples, noise on them, two scores, a form; and the denoising that keeps the critic up to date.

    A :class:`~fastgen.methods.distribution_matching.base.ScoreDistiller` is a method whose loss is one; the extra
    :class:`~fastgen.extras.DistributionMatching` is one beside the loss of any method. Subclasses may override

    - ``sample_weight``: a factor of each sample;
    - ``judged``: which samples;
    - ``comparing``: how samples become noisy where scores are compared;
    - ``teacher_scores``, ``critic_scores``, ``critic_of``: who is asked and how;
    - ``denoising_loss``: what the critic learns;
    - ``matching_losses``: all of the student's losses.

    Attributes:
        critic_role: The critic's name among the roles of the method, which owns it.
        form: How scores become a loss.
        renoise_time: Law of the noise levels at which the scores are compared.
        critic_time: Law of the noise levels at which the critic learns.
        critic_objective: The critic's loss.
        guidance: Guidance scales of teacher and critic.
    """

    critic_role: str = "critic"
    form: ScoreForm
    renoise_time: TimeLaw
    critic_time: TimeLaw
    critic_objective: DenoisingLoss
    guidance: Guidance
    watches: dict[nn.Module, Callable[[Denoiser], Denoiser]]

    @property
    @abstractmethod
    def method(self) -> Distiller:
        """Whose student learns."""

    def scope(self, name: str) -> str:
        """A scope of random numbers; terms beside the first, whose critics have other names, have their own."""
        # Random numbers are keyed by names. Those of the usual critic have none before them, so that a term draws the
        # same whether others stand beside it or not.
        return name if self.critic_role == ScoreTerm.critic_role else f"{self.critic_role}/{name}"

    # ------------------------------------------------------------------ networks

    def critic_of(self, rollout: Rollout) -> Denoiser:
        """The network that knows the distribution of such rollouts; for methods with several."""
        return getattr(self.method, self.critic_role)

    def seen(self, network: Denoiser) -> Denoiser:
        """A network on the student's process, where samples are re-noised and scores are compared."""
        view = on_process(network, self.method.student.process)
        return self.watches[network](view) if network in self.watches else view

    @contextmanager
    def watched(self, part: MicroBatch, x_t: Tensor, role: str) -> Iterator[None]:
        """Inside, networks are seen through what the extras watch them with.

        Args:
            part: Whose samples.
            x_t: What networks are asked about.
            role: Whose turn it is.
        """
        for extra in self.method.active_extras():
            self.watches |= extra.watching(self, part, x_t, role)
        try:
            yield
        finally:
            self.watches = {}

    # ------------------------------------------------------------------ the student's turn

    def judged(self, part: MicroBatch, role: str, condition: Condition | None = None) -> Rollout:
        """The samples that the turn of ``role`` judges, of the student asked for ``condition`` (default the data's)."""
        return self.method.rollout(part, role, condition)

    def score_inputs(self, part: MicroBatch) -> ScoreInputs:
        """The student's samples and where the scores are asked about them; drawn once."""
        if self.critic_role not in part.score_inputs:
            rollout = self.judged(part, "student")
            draws = part.draws.scoped(self.scope("student/renoise"))
            part.score_inputs[self.critic_role] = self.comparing()(self.method.student.process, rollout, draws)
        return part.score_inputs[self.critic_role]

    def renoise(self, law: TimeLaw) -> Renoise:
        """How samples are noised whose levels follow ``law``."""
        times = self.method.rollout_sampler().schedule(self.method.student)
        return Renoise(law, self.method.student_updates, times)

    def comparing(self) -> Renoise:
        """How samples are noised where scores are compared."""
        return self.renoise(self.renoise_time)

    def comparison(self, part: MicroBatch) -> Comparison:
        """What teacher and critic see there; asked once."""
        if self.critic_role not in part.comparisons:
            inputs = self.score_inputs(part)
            with self.watched(part, inputs.x_t, "student"):
                found = part.comparisons[self.critic_role] = self.scores(part, inputs)
            for name, value in health(inputs.rollout, found.real, found.fake).items():
                self.method.record(name, value)
        return part.comparisons[self.critic_role]

    def scores(self, part: MicroBatch, inputs: ScoreInputs) -> Comparison:
        """What both say; a graph is recorded of those through which the form differentiates."""
        learning = torch.is_grad_enabled()
        with torch.set_grad_enabled(learning and "teacher" in self.form.differentiates):
            real = self.teacher_scores(part, inputs)
        with torch.set_grad_enabled(learning and "critic" in self.form.differentiates):
            fake = self.critic_scores(part, inputs)
        return Comparison(real, fake)

    def teacher_scores(self, part: MicroBatch, inputs: ScoreInputs) -> GuidedPrediction:
        """The teacher's prediction at ``inputs.x_t``, guided."""
        teacher, condition = self.method.teacher, self.method.role_condition(part, "teacher", inputs.rollout.condition)
        assert teacher is not None  # refused when roles are built
        return guided(self.seen(teacher), inputs.x_t, inputs.t, condition, self.guidance.teacher)

    def critic_scores(self, part: MicroBatch, inputs: ScoreInputs) -> GuidedPrediction:
        """The critic's prediction at ``inputs.x_t``, guided."""
        condition = self.method.role_condition(part, self.critic_role, inputs.rollout.condition)
        critic = self.seen(self.critic_of(inputs.rollout))
        return guided(critic, inputs.x_t, inputs.t, condition, self.guidance.critic)

    def sample_weight(self, part: MicroBatch) -> Tensor | None:
        """A constant factor of each sample's loss, (B,), e.g. a density ratio; ``None`` for 1."""
        return None

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        """Rollout, re-noise, compare: the student's named losses, not weighted."""
        inputs, found = self.score_inputs(part), self.comparison(part)
        return {"match": self.form(inputs.rollout.x0, found.real, found.fake, self.sample_weight(part))}

    # ------------------------------------------------------------------ the critic's turn

    def denoising_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        """Denoise the student's samples; guidance may act inside the loss.

        A dropped condition is dropped for the student's sample too, as in SiD-LSG (arXiv 2406.01561), unless the
        samples are shared with the student's turn.
        """
        role, student = self.critic_role, self.method.student
        critic = getattr(self.method, role)
        own = self.method.role_condition(part, role, part.condition)
        condition = critic_condition(critic, own, self.guidance, part.draws, role)
        rollout = self.judged(part, role, condition)
        inputs = self.renoise(self.critic_time)(student.process, rollout, part.draws.scoped(role))
        part.denoised[role] = inputs
        with self.watched(part, inputs.x_t, role):
            asked = self.seen(self.critic_of(rollout))
            prediction = guided(asked, inputs.x_t, inputs.t, condition, self.guidance.critic_training)
        return {"denoising": self.denoising_loss(inputs, prediction)}

    def denoising_loss(self, inputs: ScoreInputs, prediction: Prediction) -> Tensor:
        """How far the critic is from the samples."""
        return self.critic_objective(prediction, inputs.rollout.x0, inputs.noise)
