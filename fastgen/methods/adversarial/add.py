"""Adversarial diffusion distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.wrappers.guided import guided
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras.backbones import Backbone
from fastgen.extras.vision_gan import VisionGAN
from fastgen.methods.adversarial.ladd import FromNoisedData
from fastgen.objectives.adversarial import AdversarialLoss, Hinge
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.shapes import expand
from fastgen.times import LogitNormalTime, TimeLaw


class ADD(FromNoisedData):
    """Adversarial Diffusion Distillation (Sauer et al. 2023, arXiv 2311.17042; no code): SDXL-Turbo.

    As :class:`LADD`, but the discriminator reads a frozen network of images (DINOv2) at decoded samples, told the
    condition, with R1; and the student's x0 is drawn to the teacher's: ``distance mean c(t) |x - sg mu_teacher|^2``
    at the student's sample under fresh noise, ``c = alpha_t``, so that clean levels count more.

    From memory, so not verified: the factor 2.5 of the distance, its levels, R1's factor, learning rates. Left out is
    the discriminator's second condition, the embedding of the image that the student began with.

    Args:
        backbones: The discriminator's networks; see :class:`~fastgen.extras.vision_gan.VisionGAN`.
        distance: Factor of the distance to the teacher's x0.
        guidance: Guidance scale of that x0.
        time: Law of the noise levels of that x0.
        r1_gamma: Factor of R1 at real samples.
        augment: Whether the discriminator sees samples augmented.
        objective: The two losses of the logits.
        sampler: How the student generates: four steps of the process's own grid.
        student_optimizer: Builds the student's optimizer.
        discriminator_optimizer: Builds the discriminator's optimizer.
        discriminator_lr_scheduler: Builds the discriminator's learning-rate schedule.
        extras: Further loss terms, beside the discriminator.
    """

    def __init__(
        self,
        backbones: Sequence[Backbone],
        distance: float = 2.5,
        guidance: float = 1.0,
        time: TimeLaw = LogitNormalTime(0.0, 1.0),
        r1_gamma: float = 1e-5,
        augment: bool = True,
        objective: AdversarialLoss = Hinge(),
        sampler: Sampler = RenoiseSampler(steps=4),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5, beta1=0.0),
        discriminator_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5, beta1=0.0),
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        extras: Sequence[Extra] = (),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, distance=distance, guidance=guidance)
        gan = VisionGAN(
            backbones, optimizer=discriminator_optimizer, r1_gamma=r1_gamma, augment=augment, objective=objective
        )
        super().__init__(sampler=sampler, student_optimizer=student_optimizer, extras=[gan, *extras], **kwargs)
        self.lr_scheduler_factories["discriminator"] = discriminator_lr_scheduler
        self.distance = distance
        self.guidance = guidance
        self.time = time

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """The distance to what the teacher sees in the student's sample."""
        if self.distance == 0.0:
            return {}
        assert self.teacher is not None  # build_roles
        rollout, process = self.rollout(part, "student"), self.student.process
        draws = part.draws.scoped("student/teacher")
        t = self.time.sample(draws, process)
        with torch.no_grad():
            x_t = process.add_noise(rollout.x0, draws.normal("noise", rollout.x0.shape[1:], rollout.x0.dtype), t)
            target = guided(on_process(self.teacher, process), x_t, t, rollout.condition, self.guidance).x0
        apart = expand(process.alpha(t), target) * (rollout.x0 - target).square()
        return {"distance": self.distance * apart.mean()}
