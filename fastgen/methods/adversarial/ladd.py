"""Latent adversarial diffusion distillation, and students that learn at noised data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.distiller.base import Distiller
from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.objectives.adversarial import AdversarialLoss, Hinge
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.noised_data import noised_data
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.times import LogitNormalTime, TimeLaw


class FromNoisedData(Distiller):
    """A few-step student that is trained at noised real samples, by a discriminator whose turn comes first."""

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError(f"{type(self).__name__} needs a teacher; give model.init_args.teacher.")

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        draws = part.draws.scoped(self.rollout_scope(role))
        times, told = self.sampler.schedule(self.student), self.student_condition(condition, draws)
        made = noised_data(self.student, times, part.x0, draws, told, self.noise_dtype())
        return replace(made, condition=condition)

    def all_turns(self, iteration: int) -> tuple[str, ...]:
        """The discriminator first."""
        return tuple(reversed(super().all_turns(iteration)))

    @abstractmethod
    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """What the student loses beside the discriminator's verdict."""


class LADD(FromNoisedData):
    """Latent Adversarial Diffusion Distillation (Sauer et al. 2024, arXiv 2403.12015; no code): SD3-Turbo.

    The student sees noised samples at the times at which it will be called (pure noise at the first) and predicts x0.
    That is noised once more, at levels of a logit-normal law that prefers much noise, and heads on many layers of the
    *frozen teacher* tell it from real latents: ``-mean D(fake)`` against a hinge loss. No distance to the teacher's
    prediction is used. The paper's "real" samples are the teacher's own (``fastgen pairs`` makes them).

    From memory and from the reimplementation in NVlabs/FastGen, so not verified: learning rates, batch, and the
    parameter of the levels; FastGen takes the softplus losses (``objective: NonSaturating``).

    Args:
        layers: Module paths of the teacher's features, a head each; ``bottleneck`` is where the network is narrowest.
            The paper reads every attention block.
        time: Law of the noise levels at which features are read.
        width: Channels of the heads; ``features`` for as many as the features have.
        objective: The two losses of the logits.
        sampler: How the student generates: four steps of the process's own grid.
        student_optimizer: Builds the student's optimizer.
        discriminator_optimizer: Builds the discriminator's optimizer.
        discriminator_lr_scheduler: Builds the discriminator's learning-rate schedule.
        extras: Further loss terms, beside the GAN that LADD is.
    """

    def __init__(
        self,
        layers: Sequence[str] | Literal["bottleneck"] = "bottleneck",
        time: TimeLaw = LogitNormalTime(1.0, 1.0),
        width: int | Literal["features"] = "features",
        objective: AdversarialLoss = Hinge(),
        sampler: Sampler = RenoiseSampler(steps=4),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5, beta1=0.0),
        discriminator_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5, beta1=0.0),
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        extras: Sequence[Extra] = (),
        **kwargs: Any,
    ) -> None:
        checks.not_empty(self, layers=layers)
        gan = GAN(
            weight=1.0,
            discriminator_weight=1.0,
            features="teacher",
            layer=layers if isinstance(layers, str) else list(layers),
            time=time,
            width=width,
            optimizer=discriminator_optimizer,
            objective=objective,
        )
        super().__init__(sampler=sampler, student_optimizer=student_optimizer, extras=[gan, *extras], **kwargs)
        self.lr_scheduler_factories["discriminator"] = discriminator_lr_scheduler

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Nothing."""
        return {}
