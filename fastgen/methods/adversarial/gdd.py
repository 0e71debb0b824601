"""GAN-only distillation with frozen layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.freezing import freeze
from fastgen.distiller.base import Distiller
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.optimizers import BetasAdam
from fastgen.times import TimeLaw, UniformTime


class GDD(Distiller):
    """GAN Distillation at Distribution level: "Diffusion Models Are Innate One-Step Generators".

    Zheng & Yang 2024, arXiv 2405.20750; github.com/Zyriix/GDD. The teacher's weights start the student and teach
    nothing: real samples do, through a discriminator alone. Student: ``sum_heads softplus(-D(x))``; discriminator:
    softplus of both and a lazy R1. GDD-I trains only what ``frozen`` leaves, which the paper shows to be enough.

    The official discriminator reads ImageNet networks (VGG16, DeiT) at clean images; here its heads read the frozen
    teacher's features at noised samples, as every teacher has them (and no metric's network leaks into training).

    Args:
        frozen: Patterns of names of the student's parameters that stay as the teacher's, e.g. ``["*conv*"]``. The
            paper's level 1 freezes ``conv`` and ``proj`` inside blocks, level 2 also ``qkv``, level 3 also ``skip``.
        layers: Module paths of the teacher's features, one head each; ``bottleneck`` is where the network is narrowest.
        time: Law of the noise levels at which features are read: the lower half.
        r1_gamma: Factor of R1 at real samples; 0 leaves it out.
        r1_interval: Discriminator updates between two R1 terms, whose factor grows by as much.
        width: Channels of the heads; ``features`` for as many as the features have.
        discriminator_optimizer: Builds the discriminator's optimizer.
        discriminator_lr_scheduler: Builds the discriminator's learning-rate schedule.
        extras: Further loss terms, beside the GAN that GDD is.
    """

    teacher: Denoiser

    def __init__(
        self,
        frozen: Sequence[str] = (),
        layers: Sequence[str] | Literal["bottleneck"] = "bottleneck",
        time: TimeLaw = UniformTime(0.0, 0.5),
        r1_gamma: float = 1e-4,
        r1_interval: int = 16,
        width: int | Literal["features"] = "features",
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4, beta1=0.0, beta2=0.99),
        discriminator_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4, beta1=0.0, beta2=0.99),
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        extras: Sequence[Extra] = (),
        **kwargs: Any,
    ) -> None:
        checks.not_empty(self, layers=layers)
        heads = 1 if isinstance(layers, str) else len(layers)
        gan = GAN(
            weight=heads,  # sums over heads, not means
            discriminator_weight=heads,
            features="teacher",
            layer=layers if isinstance(layers, str) else list(layers),
            time=time,
            width=width,
            optimizer=discriminator_optimizer,
            r1_gamma=r1_gamma,
            r1_interval=r1_interval,
        )
        super().__init__(student_optimizer=student_optimizer, extras=[gan, *extras], **kwargs)
        self.lr_scheduler_factories["discriminator"] = discriminator_lr_scheduler
        self.frozen = list(frozen)

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError(
                "GDD needs a teacher, whose features its discriminator reads; give model.init_args.teacher."
            )
        freeze(self.student, self.frozen)

    def all_turns(self, iteration: int) -> tuple[str, ...]:
        """The discriminator first."""
        return tuple(reversed(super().all_turns(iteration)))
