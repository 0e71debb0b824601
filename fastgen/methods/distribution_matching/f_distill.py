"""f-distill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras.gan import GAN
from fastgen.methods.distribution_matching.density_ratios import EPSILON, DensityRatios
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.divergences import Divergence, JensenShannon
from fastgen.optimizers import BetasAdamW


class FDistill(DensityRatios, DMD2):
    """One-step Diffusion Models with f-Divergence Distribution Matching (Xu et al. 2025, arXiv 2502.15681).

    DMD2 whose gradient is weighted per sample: ``h(r) (mu_fake - mu_real) / mean |x - mu_real|``, where the ratio ``r``
    of teacher to student density at x_t is ``exp D(x_t)`` of the GAN's discriminator. Normalised twice, as in
    NVlabs/FastGen: ``r`` by its mean at similar noise levels, ``h(r)`` by its mean; both means are over the whole batch
    of all ranks. With ``ReverseKL`` it is DMD2 with a GAN.

    Two differences: the ten noise-level bins are by default equally wide in the positions that ``UniformTime`` draws,
    not in time (the same on flows and VP; on EDM bins of time would hold 65 % of all draws in the first and none in the
    last), and a bin without samples keeps its mean.

    Args:
        divergence: Which f-divergence; ``JensenShannon`` is the paper's best on ImageNet-64 and SD1.5.
        memory: Share of a bin's old mean that stays in an update (0.5 on ImageNet-64, 0 elsewhere).
        bins: Number of noise-level bins.
        bin_axis: What bins are equally wide in: ``position``, or the process's ``time`` as in NVlabs/FastGen.
        extras: Must hold a GAN; ``published`` is one on the teacher's features that judges the samples whose scores are
            compared.
    """

    def __init__(
        self,
        divergence: Divergence = JensenShannon(),
        memory: float = 0.0,
        bins: int = 10,
        bin_axis: Literal["position", "time"] = "position",
        extras: Sequence[Extra] | Literal["published"] = "published",
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            divergence=divergence,
            memory=memory,
            bins=bins,
            bin_axis=bin_axis,
            extras=[GAN(features="teacher", at_scores=True)] if isinstance(extras, str) else extras,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )

    @torch.no_grad()
    def sample_weight(self, part: MicroBatch) -> Tensor:
        """``h(r)`` (B,) over its mean."""
        weight = self.weight(self.ratio_at_scores(part), self.score_inputs(part).t)
        return weight / (self.weight_mean + EPSILON)
