"""One-step training without a teacher's score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from fastgen.distiller.base import Distiller
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.objectives.adversarial import LogRatio
from fastgen.objectives.divergences import Divergence, ReverseKL
from fastgen.optimizers import BetasAdam
from fastgen.times import TimeLaw, UniformTime


class WithoutDistillation(Distiller):
    """One-step training without a teacher's score (arXiv 2502.08005).

    Zhang et al. 2025, "Towards Training One-Step Diffusion Models Without Distillation". The teacher's weights start
    the student and the classifier, and teach nothing: its score is never asked. A classifier of noisy samples, real or
    the student's, at all levels, is the log of the ratio of their densities, l(x_t, t), whose gradient stands for the
    difference of two scores:

        student: -mean sg[h(r)] l(x_t, t),   r = exp l,   h(r) = r^2 f''(r)

    for the divergence f (:class:`~fastgen.objectives.adversarial.LogRatio`). Real samples are needed. The paper finds
    that good features of the start are essential: without the teacher's weights training fails.

    Not verified (abstract and reviews only): all constants; whether the ratio is trained before the student as well.
    The weights h are derived, from f-distill's identity.

    Args:
        divergence: Which divergence becomes smaller.
        layers: Module paths of the classifier's features, a head each; ``bottleneck`` is where it is narrowest.
        width: Channels of the heads; ``features`` for as many as the features have.
        time: Law of the noise levels.
        student_optimizer: Builds the student's optimizer.
        discriminator_optimizer: Builds the classifier's optimizer.
        discriminator_lr_scheduler: Builds the classifier's learning-rate schedule.
        extras: Further loss terms.
    """

    def __init__(
        self,
        divergence: Divergence = ReverseKL(),
        layers: Sequence[str] | Literal["bottleneck"] = "bottleneck",
        width: int | Literal["features"] = "features",
        time: TimeLaw = UniformTime(0.0, 1.0),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        discriminator_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5, beta1=0.0),
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        extras: Sequence[Extra] = (),
        **kwargs: Any,
    ) -> None:
        gan = GAN(
            weight=1.0,
            discriminator_weight=1.0,
            features="own",
            layer=layers if isinstance(layers, str) else list(layers),
            time=time,
            width=width,
            optimizer=discriminator_optimizer,
            objective=LogRatio(divergence),
        )
        super().__init__(student_optimizer=student_optimizer, extras=[gan, *extras], **kwargs)
        self.lr_scheduler_factories["discriminator"] = discriminator_lr_scheduler

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError("WithoutDistillation starts from a teacher's weights; give model.init_args.teacher.")

    def all_turns(self, iteration: int) -> tuple[str, ...]:
        """The classifier first."""
        return tuple(reversed(super().all_turns(iteration)))
