"""Adversarial score identity distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen import checks
from fastgen.distiller.extra import Extra
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras.shared_encoder import SharedEncoder
from fastgen.methods.score_identity.sid import SiD
from fastgen.optimizers import BetasAdam


class SiDA(SiD):
    """Adversarial Score identity Distillation (Zhou et al. 2024, arXiv 2410.14919; github.com/mingyuanzhou/SiD, sida).

    ``1/2 100 L_SiD(alpha = 1) + 1/2 0.01 L_GAN``: SiD and, with the same scale of each sample, an adversarial loss
    whose discriminator is the critic's encoder, without parameters of its own; see
    :class:`~fastgen.extras.shared_encoder.SharedEncoder`. It needs real samples. Starting from a student of SiD
    (``--init_from``) it is the paper's SiD2A.

    The official run trains critic and discriminator alone for the first 100,000 images and lets the student learn from
    the discriminator after 200,000: iterations 391 and 782 at the batch of 256 of CIFAR-10.

    Differs from the code: until the discriminator counts, SiD's loss keeps its factor 1/2, which Adam does not see;
    non-finite gradients skip the update instead of becoming large numbers, and gradients of the critic are clipped by
    norm, if at all, not by value.

    Args:
        alpha: 1 here.
        loss_scale: Factor of SiD's loss, the half of 100.
        gan_weight: Factor of the adversarial loss, the half of 0.01.
        discriminator_weight: Factor of the discriminator's loss.
        gan_start: Student updates before the student learns from the discriminator.
        extras: Further loss terms.
        schedule: Turns of critic and student.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        loss_scale: float = 50.0,
        gan_weight: float = 5e-3,
        discriminator_weight: float = 200.0,
        gan_start: int = 391,
        extras: Sequence[Extra] = (),
        schedule: UpdateSchedule = UpdateSchedule(critic_first=True, student_start=391),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, gan_weight=gan_weight)
        checks.whole(self, 0, gan_start=gan_start)
        super().__init__(
            alpha=alpha,
            loss_scale=loss_scale,
            extras=[SharedEncoder(gan_weight, discriminator_weight, student_start=gan_start), *extras],
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
