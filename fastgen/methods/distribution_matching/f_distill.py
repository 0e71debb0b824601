"""f-distill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.divergences import WEIGHTS, Divergence, density_ratio
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.scores import ScoreInputs

EPSILON = 1e-6


class FDistill(DMD2):
    """One-step Diffusion Models with f-Divergence Distribution Matching (Xu et al. 2025, arXiv 2502.15681).

    DMD2 whose gradient is weighted per sample: ``h(r) (mu_fake - mu_real) / mean |x - mu_real|``, where the ratio ``r``
    of teacher to student density at x_t is ``exp D(x_t)`` of the GAN's discriminator. Normalised twice, as in
    NVlabs/FastGen: ``r`` by its mean at similar noise levels, ``h(r)`` by its mean; both means are over the whole batch
    of all ranks. With ``reverse_kl`` it is DMD2 with a GAN.

    Two differences: the ten noise-level bins are equally wide in the positions that ``UniformTime`` draws (on flows and
    VP that is equally wide in time), and a bin without samples keeps its mean. With several micro-batches the student's
    samples are made twice, because the means are needed before the first gradient.

    Args:
        divergence: Which f-divergence; ``jensen_shannon`` is the paper's best on ImageNet-64 and SD1.5.
        memory: Share of a bin's old mean that stays in an update (0.5 on ImageNet-64, 0 elsewhere).
        bins: Number of noise-level bins.
        extras: Must hold a GAN; by default one on the teacher's features that judges the samples whose scores are
            compared.
    """

    ratio_means: Tensor
    weight_mean: Tensor

    def __init__(
        self,
        divergence: Divergence = "jensen_shannon",
        memory: float = 0.0,
        bins: int = 10,
        extras: list[Extra] | None = None,
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        **kwargs: Any,
    ) -> None:
        checks.between(self, 0.0, 1.0, "[)", memory=memory)
        checks.whole(self, bins=bins)
        extras = [GAN(features="teacher", at_scores=True)] if extras is None else extras
        super().__init__(
            extras=extras, student_optimizer=student_optimizer, critic_optimizer=critic_optimizer, **kwargs
        )
        if divergence not in WEIGHTS:
            raise UserError(f"divergence is one of {', '.join(WEIGHTS)}, got '{divergence}'.")
        if len([extra for extra in extras if isinstance(extra, GAN)]) != 1:
            raise UserError("FDistill reads density ratios from a discriminator; give extras exactly one GAN.")
        self.divergence = divergence
        self.memory = memory
        self.register_buffer("ratio_means", torch.ones(bins, dtype=torch.float64))
        self.register_buffer("weight_mean", torch.ones((), dtype=torch.float64))

    @property
    def gan(self) -> GAN:
        """The discriminator."""
        return next(extra for extra in self.each_extra() if isinstance(extra, GAN))

    @torch.no_grad()
    def ratio(self, inputs: ScoreInputs) -> Tensor:
        """Density ratio (B,) of teacher and student at x_t, fp64."""
        return density_ratio(self.gan.judge(self, inputs.x_t, inputs.t, inputs.rollout.condition)).double()

    def bin(self, t: Tensor) -> Tensor:
        """Index (B,) of the noise-level bin of times ``t``."""
        count = len(self.ratio_means)
        return (self.student.process.fraction(t) * count).long().clamp(max=count - 1)

    def weight(self, ratio: Tensor, t: Tensor) -> Tensor:
        """The weight h (B,) of ratios normalised by the mean at similar levels; not yet normalised itself."""
        return WEIGHTS[self.divergence](ratio / (self.ratio_means[self.bin(t)] + EPSILON))

    def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """Measure the two means on the whole batch."""
        if role != "student":
            return
        ratios, times = [], []
        for part in parts:
            with torch.set_grad_enabled(len(parts) == 1):
                inputs = self.score_inputs(part)
            ratios.append(self.ratio(inputs))
            times.append(inputs.t)
            if len(parts) > 1:  # the graphs of all pieces at once would not fit
                part.forget_samples()
        ratio, t = torch.cat(ratios), torch.cat(times)
        sums = torch.zeros(2, len(self.ratio_means), dtype=torch.float64, device=ratio.device)
        sums.index_add_(1, self.bin(t), torch.stack([ratio, torch.ones_like(ratio)]))
        total, count = self.sum_over_ranks(sums)
        moved = self.memory * self.ratio_means + (1.0 - self.memory) * total / count.clamp(min=1.0)
        # What is not finite makes this update a skipped one; the means of later updates must not inherit it.
        self.ratio_means.copy_(torch.where((count > 0) & moved.isfinite(), moved, self.ratio_means))
        weight = self.weight(ratio, t)
        total, count = self.sum_over_ranks(torch.stack([weight.sum(), torch.ones_like(weight).sum()]))
        self.weight_mean.copy_(total / count)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """The sum over all ranks."""
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    @torch.no_grad()
    def sample_weight(self, part: MicroBatch) -> Tensor:
        """``h(r)`` (B,) over its mean."""
        ratio = density_ratio(self.gan.logits_at_scores(self, part)).double()
        self.record("health/density_ratio", ratio.mean())
        return self.weight(ratio, self.score_inputs(part).t) / (self.weight_mean + EPSILON)
