"""DensityRatios: what a discriminator says of teacher's and student's densities, normalised over the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.divergences import Divergence, density_ratio
from fastgen.sampling.scores import ScoreInputs

EPSILON = 1e-6


if TYPE_CHECKING:
    _Base = ScoreDistiller
else:
    _Base = object


class DensityRatios(_Base):
    """Beside a score distillation: weighs samples by ``h(r)`` of an f-divergence, r the ratio of densities at ``x_t``.

    Ratios are ``exp D(x_t)`` of the GAN among the extras. They are divided by their mean at similar noise levels, and
    the weights by theirs; both means are over the whole batch of all ranks (f-distill, arXiv 2502.15681, as in
    NVlabs/FastGen). With several micro-batches the student's samples are made twice, because the means are needed
    before the first gradient.

    Args:
        divergence: Which f-divergence.
        memory: Share of a bin's old mean that stays in an update.
        bins: Number of noise-level bins.
        bin_axis: What bins are equally wide in: the ``position`` that ``UniformTime`` draws, or the process's ``time``.
    """

    ratio_means: Tensor
    weight_mean: Tensor

    def __init__(
        self,
        divergence: Divergence,
        memory: float = 0.0,
        bins: int = 10,
        bin_axis: Literal["position", "time"] = "position",
        **kwargs: Any,
    ) -> None:
        checks.between(self, 0.0, 1.0, "[)", memory=memory)
        checks.whole(self, bins=bins)
        super().__init__(**kwargs)
        checks.kind(self, Divergence, divergence=divergence)
        if len([extra for extra in self.each_extra() if isinstance(extra, GAN)]) != 1:
            raise UserError(
                f"{type(self).__name__} reads density ratios from a discriminator; give extras exactly one GAN."
            )
        self.divergence = divergence
        self.memory = memory
        self.bin_axis = bin_axis
        self.register_buffer("ratio_means", torch.ones(bins, dtype=torch.float64))
        self.register_buffer("weight_mean", torch.ones((), dtype=torch.float64))

    @property
    def gan(self) -> GAN:
        """The discriminator."""
        return next(extra for extra in self.each_extra() if isinstance(extra, GAN))

    @torch.no_grad()
    def ratio(self, inputs: ScoreInputs) -> Tensor:
        """Density ratio (B,) of teacher and student at x_t, fp64, before anything is normalised."""
        return density_ratio(self.gan.judge(self, inputs.x_t, inputs.t, inputs.rollout.condition)).double()

    def bin(self, t: Tensor) -> Tensor:
        """Index (B,) of the noise-level bin of times ``t``."""
        process, count = self.student.process, len(self.ratio_means)
        share = process.fraction(t)
        if self.bin_axis == "time":
            first = process.position(torch.zeros_like(t))
            share = ((t - first) / (process.t_max - first)).clamp(min=0.0)
        return (share * count).long().clamp(max=count - 1)

    def relative(self, ratio: Tensor, t: Tensor) -> Tensor:
        """Ratios (B,) over their mean at similar levels."""
        return ratio / (self.ratio_means[self.bin(t)] + EPSILON)

    def weight(self, ratio: Tensor, t: Tensor) -> Tensor:
        """The weight h (B,) of such ratios; not yet normalised itself."""
        return self.divergence.weight(self.relative(ratio, t))

    def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """Measure the two means on the whole batch."""
        super().before_update(role, parts)
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

    def ratio_at_scores(self, part: MicroBatch) -> Tensor:
        """Density ratio (B,), fp64, with its graph to the noisy samples, of the call that compares the scores."""
        ratio = density_ratio(self.gan.logits_at_scores(self, part)).double()
        self.record("health/density_ratio", ratio.mean())
        return ratio
