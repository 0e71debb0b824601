"""Uni-Instruct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods.distribution_matching.density_ratios import EPSILON, DensityRatios
from fastgen.methods.score_identity.sida import SiDA
from fastgen.objectives.divergences import Divergence, ForwardKL
from fastgen.objectives.score_identity import InverseDistance, expansion_loss
from fastgen.optimizers import BetasAdam


class UniInstruct(DensityRatios, SiDA):
    """Uni-Instruct (Wang et al. 2025, arXiv 2505.20755; github.com/a-little-hoof/Uni_Instruct).

    Any f-divergence of student and teacher, expanded over the noise levels:
    ``omega {1/2 (h - r h') |D|^2 + h D . (mu_fake - x)}`` with ``D = mu_real - mu_fake`` and ``h = r^2 f''(r)``. The
    ratio r of densities is ``exp D(x_t)`` of SiDA's discriminator, and gradients run through it and through both
    networks to the noisy samples; only so the gradient is the divergence's. ``ReverseKL`` is SiD with alpha = 1/2,
    ``ForwardKL`` leaves the second term alone, weighted by r.

    Differs from the code, in which r is 1 to three digits whatever the samples are (it is computed from a loss that
    was scaled by the size of an image before), so that its forward KL is SiDA. Ratios and weights are normalised as in
    f-distill, and ratios lie between 0.1 and 20.

    Args:
        divergence: Which f-divergence; the paper's best on ImageNet-64 are ``ForwardKL`` and ``ChiSquare``.
        memory: Share of a bin's old mean that stays in an update.
        bins: Number of noise-level bins.
        loss_scale: Factor of the loss, as in SiDA.
        gan_weight: Factor of the adversarial loss, as in SiDA.
        discriminator_weight: Factor of the discriminator's loss.
        gan_start: Student updates before the student learns from the discriminator's loss.
        extras: Further loss terms.
        schedule: Turns of critic and student.
    """

    def __init__(
        self,
        divergence: Divergence = ForwardKL(),
        memory: float = 0.0,
        bins: int = 10,
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
        super().__init__(
            divergence=divergence,
            memory=memory,
            bins=bins,
            loss_scale=loss_scale,
            gan_weight=gan_weight,
            discriminator_weight=discriminator_weight,
            gan_start=gan_start,
            extras=extras,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.loss_scale = loss_scale

    def matching_losses(self, part: MicroBatch) -> dict[str, Tensor]:
        """The expansion, over the mean of its weights."""
        inputs, found = self.score_inputs(part), self.comparison(part)
        x, real, fake = inputs.rollout.x0, found.real.x0, found.fake.x0
        ratio = self.relative(self.ratio_at_scores(part), inputs.t)
        omega = InverseDistance()(x, real) / (self.weight_mean + EPSILON)
        return {"match": self.loss_scale * expansion_loss(x, real, fake, ratio, self.divergence, omega)}
