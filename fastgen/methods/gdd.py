"""GAN-only distillation with frozen layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.features import DiscriminatorHead, feature_shapes, tap
from fastgen.denoisers.freezing import freeze
from fastgen.errors import UserError
from fastgen.methods.base import Distiller
from fastgen.methods.batch import MicroBatch
from fastgen.objectives.adversarial import discriminator_loss, generator_loss, gradient_penalty
from fastgen.optimizers import BetasAdam
from fastgen.randomness import Draws, derive_seed
from fastgen.sampling.samplers import Sampler
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
        layers: Module paths of the teacher's features, one head each; default its bottleneck.
        time: Law of the noise levels at which features are read: the lower half.
        r1_gamma: Factor of R1 at real samples; 0 leaves it out.
        r1_interval: Discriminator updates between two R1 terms, whose factor grows by as much.
        width: Channels of the heads; default those of the features.
        discriminator_optimizer: Builds the discriminator's optimizer.
        discriminator_lr_scheduler: Builds the discriminator's learning-rate schedule.
    """

    teacher: Denoiser

    def __init__(
        self,
        frozen: Sequence[str] = (),
        layers: Sequence[str] | None = None,
        time: TimeLaw = UniformTime(0.0, 0.5),
        r1_gamma: float = 1e-4,
        r1_interval: int = 16,
        width: int | None = None,
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4, beta1=0.0, beta2=0.99),
        discriminator_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4, beta1=0.0, beta2=0.99),
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, r1_gamma=r1_gamma)
        checks.whole(self, r1_interval=r1_interval, width=width)
        checks.not_empty(self, layers=layers)
        super().__init__(student_optimizer=student_optimizer, **kwargs)
        self.optimizer_factories["discriminator"] = discriminator_optimizer
        self.lr_scheduler_factories["discriminator"] = discriminator_lr_scheduler
        self.frozen = list(frozen)
        self.layers = layers
        self.time = time
        self.r1_gamma, self.r1_interval, self.width = r1_gamma, r1_interval, width

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError(
                "GDD needs a teacher, whose features its discriminator reads; give model.init_args.teacher."
            )
        if self.r1_gamma > 0 and isinstance(getattr(self._trainer, "strategy", None), ModelParallelStrategy):
            raise UserError(
                "R1 differentiates the teacher twice, but sharded weights are there for one derivative only; set "
                "model.init_args.r1_gamma to 0, or trainer.strategy to ddp_find_unused_parameters_true."
            )
        freeze(self.student, self.frozen)
        self.taps = list(self.layers or [self.teacher.feature_path])
        shapes = feature_shapes(self.teacher, self.taps)
        with torch.random.fork_rng(devices=[]):  # the heads are a function of the seed
            torch.manual_seed(derive_seed(self.seed, "heads"))
            self.heads = nn.ModuleList(DiscriminatorHead(shape, self.width) for shape in shapes)

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"student": [self.student], "discriminator": [self.heads]}

    def turns(self, iteration: int) -> tuple[str, ...]:
        return ("discriminator", "student")

    def logits(self, x0: Tensor, condition: Condition, draws: Draws) -> Tensor:
        """D of every head at a noised ``x0``, (B, heads); positive means real."""
        process = self.teacher.process
        t = self.time.sample(draws, process)
        x_t = process.add_noise(x0, draws.normal("noise", x0.shape[1:], x0.dtype), t)
        with tap(self.teacher, self.taps, "left out") as features:
            self.teacher(x_t, t, condition)
        return torch.stack([head(features[name]) for name, head in zip(self.taps, self.heads, strict=True)], dim=1)

    def rollout_sampler(self) -> Sampler:
        return self.sampler

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Generate, and look real to every head."""
        rollout = self.rollout(part, "student")
        logits = self.logits(rollout.x0, part.condition, part.draws.scoped("student/fake"))
        return {"gan": len(self.taps) * generator_loss(logits)}

    def discriminator_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Tell real samples from the student's."""
        if part.x0 is None:
            raise UserError("GDD learns from real samples; the data module gives none ('x0' is missing).")
        draws = part.draws.scoped("discriminator")
        fake = self.rollout(part, "discriminator").x0
        penalised = self.r1_gamma > 0 and part.draws.step % self.r1_interval == 0
        # Validation runs without gradients, but R1 is one.
        with torch.inference_mode(False), torch.set_grad_enabled(penalised or torch.is_grad_enabled()):
            x0 = part.x0.clone().requires_grad_(penalised)
            # Fused attention has no second derivative.
            with sdpa_kernel(SDPBackend.MATH) if penalised else nullcontext():
                real = self.logits(x0, part.condition, draws.scoped("real"))
            losses = {}
            if penalised:
                penalty = gradient_penalty(real.sum(1), x0)
                losses["r1"] = self.r1_gamma * self.r1_interval * penalty
        generated = self.logits(fake, part.condition, draws.scoped("fake"))
        return {"gan": len(self.taps) * discriminator_loss(real, generated)} | losses
