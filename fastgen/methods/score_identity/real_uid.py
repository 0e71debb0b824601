"""Universal inverse distillation with real data."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.wrappers.guided import guided
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.score_forms import SiDForm
from fastgen.optimizers import BetasAdam
from fastgen.processes import Prediction
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.sampling.scores import ScoreInputs, critic_condition
from fastgen.times import TimeLaw, UniformTime


def velocity(prediction: Prediction) -> Tensor:
    """``noise - x0`` of a prediction on any process: the velocity of rectified flow."""
    return prediction.noise - prediction.x0


def squares(value: Tensor) -> Tensor:
    """The sum of squares of each sample, averaged over samples."""
    return value.square().flatten(1).sum(1).mean()


class RealUID(ScoreDistiller):
    """Universal inverse distillation with real data (arXiv 2509.22459; github.com/David-cripto/RealUID).

    A min-max over the student and the critic in velocities, ``v = noise - x``, with shares ``alpha`` and ``beta``:

    - student: ``alpha |v_real(x_t) - (beta/alpha) v|^2 - alpha |v_fake(x_t) - (beta/alpha) v|^2`` at its own samples,
      with gradients through both networks;
    - critic: ``alpha |v_fake(x_t) - (beta/alpha) v|^2`` there and, at real samples under the same noise,
      ``(1 - alpha) |v_fake(y_t)|^2 - 2 (1 - beta) v_fake(y_t) . v``, which is the paper's square without its constant
      and holds for ``alpha: 1`` too.

    So real data enter through the critic, without a discriminator. With ``alpha = beta = 1`` it is data-free, and twice
    SiD with ``alpha: 0.5`` in velocities. The paper's adversarial term is the extra ``GAN`` on the critic's features.

    Differs from the paper: its best shares are between 0.85 and 1, ``beta / alpha`` about 0.98 or 1.02, and differ by
    data set; the defaults are those of unconditional CIFAR-10.

    Args:
        alpha: Share of the student's samples in the critic's squares.
        beta: Share of the student's samples in the critic's targets.
        sampler: How the student generates: one call from pure noise.
        renoise_time: Law of the noise levels at which velocities are compared; the paper's is uniform.
        critic_time: Law of the noise levels at which the critic learns: the same.
        schedule: Turns of critic and student; five critic updates, then one of the student alone.
        gradient_clip: Largest gradient norm.
    """

    def __init__(
        self,
        alpha: float = 0.92,
        beta: float = 0.94,
        sampler: Sampler = RenoiseSampler(),
        renoise_time: TimeLaw = UniformTime(0.0, 1.0),
        critic_time: TimeLaw = UniformTime(0.0, 1.0),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=5, exclusive=True),
        gradient_clip: float | dict[str, float] | None = 1.0,
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=3e-5, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=3e-5, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        checks.between(self, 0.0, 1.0, "(]", alpha=alpha, beta=beta)
        super().__init__(
            form=SiDForm(0.5),  # says that both networks are differentiated
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            schedule=schedule,
            gradient_clip=gradient_clip,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.alpha, self.beta = alpha, beta

    def target(self, inputs: ScoreInputs) -> Tensor:
        """``(beta / alpha) v`` of the student's samples."""
        return self.beta / self.alpha * (inputs.noise - inputs.rollout.x0)

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        """How much closer the critic's velocity is than the teacher's."""
        inputs, found = self.score_inputs(part), self.comparison(part)
        target = self.target(inputs)
        gap = squares(velocity(found.real) - target) - squares(velocity(found.fake) - target)
        return {"match": self.alpha * gap}

    def denoising_loss(self, inputs: ScoreInputs, prediction: Prediction) -> Tensor:
        return self.alpha * squares(velocity(prediction) - self.target(inputs))

    def denoising_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        """The critic on the student's samples and, unless both shares are 1, on real ones."""
        losses = super().denoising_losses(part)
        if self.alpha == self.beta == 1.0:
            return losses
        if part.x0 is None:
            raise UserError(
                "RealUID needs real samples while alpha or beta is below 1; the data module gives none ('x0' is "
                "missing): set both to 1, or take a data module with samples."
            )
        inputs, process = part.denoised[self.critic_role], self.student.process
        y_t = process.add_noise(part.x0, inputs.noise, inputs.t)
        own = self.role_condition(part, self.critic_role, part.condition)
        condition = critic_condition(self.critic, own, self.guidance, part.draws, self.critic_role)
        seen = velocity(guided(self.seen(self.critic), y_t, inputs.t, condition, self.guidance.critic_training))
        product = (seen * (inputs.noise - part.x0)).flatten(1).sum(1).mean()
        losses["real"] = (1.0 - self.alpha) * squares(seen) - 2.0 * (1.0 - self.beta) * product
        return losses
