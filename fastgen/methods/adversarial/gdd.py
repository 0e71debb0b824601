"""GAN-only distillation with frozen layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.freezing import freeze
from fastgen.distiller.base import Distiller
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.extras.backbones import Backbone
from fastgen.extras.gan import GAN
from fastgen.extras.vision_gan import VisionGAN
from fastgen.optimizers import BetasAdam
from fastgen.times import TimeLaw, UniformTime

KINDS: tuple[tuple[str, ...], ...] = (
    ("conv", "proj"),
    ("qkv", "to_q", "to_k", "to_v"),
    ("skip", "shortcut"),
)
"""What each level freezes beside the level below, by parts of names: those of EDM's networks and of diffusers'."""


def names_of_level(network: nn.Module, level: int) -> list[str]:
    """The parameters that a level freezes: those inside numbered blocks whose names say what they are.

    Raises:
        UserError: If the network calls its parts otherwise.
    """
    found = []
    for name, _ in network.named_parameters():
        kind = next((rank for rank in (2, 1, 0) if any(word in name for word in KINDS[rank])), 3)
        if kind < level and re.search(r"\.\d+\.", name):
            found.append(name)
    if level and not found:
        raise UserError(
            f"GDD: no part of {type(network).__name__} is called as level {level} expects; give patterns as 'frozen'."
        )
    return found


class GDD(Distiller):
    """GAN Distillation at Distribution level: "Diffusion Models Are Innate One-Step Generators".

    Zheng & Yang 2024, arXiv 2405.20750; github.com/Zyriix/GDD. The teacher's weights start the student and teach
    nothing: real samples do, through a discriminator alone. Student: ``sum_heads softplus(-D(x))``; discriminator:
    softplus of both and a lazy R1. GDD-I trains only what ``frozen`` leaves, which the paper shows to be enough.

    The official discriminator reads ImageNet networks at clean images: give ``backbones``, e.g. VGG16 and DeiT of timm
    (:class:`~fastgen.extras.vision_gan.VisionGAN`). Without them its heads read the frozen teacher's features at noised
    samples, as every teacher has them (and no metric's network leaks into training). Left out is the distillation of
    single instances that the code has as an option.

    Args:
        level: What of the student stays as the teacher: 0 nothing, 1 convolutions and projections inside its blocks
            (GDD-I), 2 attention's queries, keys and values too, 3 skip connections too.
        frozen: Patterns of names of further parameters that stay, e.g. ``["*conv*"]``.
        backbones: Networks of images that the discriminator reads at clean samples, in place of the teacher.
        conditional: Whether heads on ``backbones`` are told the condition.
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
        level: Literal[0, 1, 2, 3] = 0,
        frozen: Sequence[str] = (),
        backbones: Sequence[Backbone] = (),
        conditional: bool = True,
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
        if backbones and layers != "bottleneck":
            raise UserError("GDD's discriminator reads 'backbones' or the teacher's 'layers', not both; leave one out.")
        if backbones:
            count = sum(len(backbone.layers) for backbone in backbones)
            read: dict[str, Any] = {"backbones": backbones, "conditional": conditional}
        else:
            count = 1 if isinstance(layers, str) else len(layers)
            read = {
                "features": "teacher",
                "layer": layers if isinstance(layers, str) else list(layers),
                "time": time,
            }
        gan = (VisionGAN if backbones else GAN)(
            weight=count,  # sums over heads, not means
            discriminator_weight=count,
            width=width,
            optimizer=discriminator_optimizer,
            r1_gamma=r1_gamma,
            r1_interval=r1_interval,
            **read,
        )
        super().__init__(student_optimizer=student_optimizer, extras=[gan, *extras], **kwargs)
        self.lr_scheduler_factories["discriminator"] = discriminator_lr_scheduler
        self.frozen = list(frozen)
        self.level = level

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError("GDD needs a teacher, whose weights start the student; give model.init_args.teacher.")
        freeze(self.student, [*names_of_level(self.student, self.level), *self.frozen])

    def all_turns(self, iteration: int) -> tuple[str, ...]:
        """The discriminator first."""
        return tuple(reversed(super().all_turns(iteration)))
