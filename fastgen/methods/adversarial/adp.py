"""Adversarial pre-training on the teacher's pairs, the first stage of DMDX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.distiller.base import Distiller
from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras.backbones import Backbone
from fastgen.extras.gan import GAN
from fastgen.extras.vision_gan import VisionGAN
from fastgen.objectives.adversarial import Hinge
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import call
from fastgen.times import PowerTime, TimeLaw, UniformTime

PIXELS = "pixel_discriminator"
"""The second discriminator's role."""


class ADP(Distiller):
    """Adversarial distillation pre-training of one-call students, before ADM (Lu et al. 2025, DMDX, arXiv 2507.18569).

    From a pair of noise and the teacher's solution for it, the student predicts the solution at a point between, mostly
    near the noise (``1 - u^3`` of the levels). Discriminators tell its predictions from the solutions: heads on the
    frozen teacher's features of both under noise at any level (weight 0.85), and on those of an image network of both
    as decoded (0.15; the paper's is SAM). Pairs come from files (``fastgen pairs``, data module ``Pairs``), or the
    teacher's solver makes them in every step.

    Not verified (from a third-party summary): learning rates, layers, the exact law.

    Args:
        latent_weight: Factor of the losses in the denoiser's space.
        pixel_weight: Factor of those of decoded samples.
        backbones: Networks of images of the pixel discriminator; none leaves it out.
        layers: Module paths of the teacher's features, a head each; ``bottleneck`` is where the network is narrowest.
        time: Law of the student's times.
        feature_time: Law of the noise levels at which the teacher's features are read.
        student_optimizer: Builds the student's optimizer.
        discriminator_optimizer: Builds the discriminators' optimizer.
        discriminator_lr_scheduler: Builds the discriminators' learning-rate schedule.
        extras: Further loss terms.
    """

    def __init__(
        self,
        latent_weight: float = 0.85,
        pixel_weight: float = 0.15,
        backbones: Sequence[Backbone] = (),
        layers: Sequence[str] | Literal["bottleneck"] = "bottleneck",
        time: TimeLaw = PowerTime(3.0),
        feature_time: TimeLaw = UniformTime(0.0, 1.0),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6, beta1=0.0),
        discriminator_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6, beta1=0.0),
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        extras: Sequence[Extra] = (),
        **kwargs: Any,
    ) -> None:
        checks.positive(self, latent_weight=latent_weight, pixel_weight=pixel_weight)
        own: dict[str, Any] = {"optimizer": discriminator_optimizer, "objective": Hinge()}
        judges: list[Extra] = [
            GAN(
                weight=latent_weight,
                discriminator_weight=latent_weight,
                features="teacher",
                layer=layers if isinstance(layers, str) else list(layers),
                time=feature_time,
                **own,
            )
        ]
        if backbones:
            judges.append(VisionGAN(backbones, pixel_weight, pixel_weight, augment=False, role=PIXELS, **own))
        super().__init__(student_optimizer=student_optimizer, extras=[*judges, *extras], **kwargs)
        for role in ("discriminator", PIXELS) if backbones else ("discriminator",):
            self.lr_scheduler_factories[role] = discriminator_lr_scheduler
        self.time = time

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError("ADP needs a teacher, whose features are read; give model.init_args.teacher.")

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        draws, process = part.draws.scoped(self.rollout_scope(role)), self.student.process
        noise, x0 = self.pair(part)
        t = self.time.sample(draws, process)
        told = self.student_condition(condition, draws)
        made = call(self.student, process.add_noise(x0, noise, t), t, told, process.t_clean)
        return replace(
            Rollout(made.x0, told, t, 0, made.x0, torch.full_like(t, process.t_clean), (made,)), condition=condition
        )

    def real_samples(self, part: MicroBatch, beside: Rollout | None = None) -> Tensor:
        """The solutions."""
        return self.pair(part)[1]

    def all_turns(self, iteration: int) -> tuple[str, ...]:
        """The discriminator first."""
        return tuple(reversed(super().all_turns(iteration)))
