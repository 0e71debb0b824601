"""Causal consistency distillation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.distiller.averaging import ConstantEMA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.lcm import LCM
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.methods.video.forcing import CleanContext, real_clips
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import ChunkSampler
from fastgen.times import GridTimes, JumpLaw


class CausalConsistency(CleanContext, LCM):
    """Causal Forcing's initialisation by consistency (thu-ml/Causal-Forcing, "++"; arXiv 2605.15141, abstract alone).

    ``mean |x(x_i; clean) - sg x_ema(x_{i+1}; clean)|^2``, where x_{i+1} is one Euler step of a causal teacher from x_i
    and all see the real chunks before theirs; one noise level for all frames of a clip. It is :class:`LCM` on clips.

    Not verified: whether the guidance scale 3 counts from the unconditional prediction, as here.

    Args:
        sampler: How the student generates: four calls per chunk.
        times: Law of t and r: neighbours on the process's grid of 48 times.
        metric: The mean squared error.
        guidance: 3 for the teacher; the student is not told.
        target: An average of the student, of decay 0.99.
    """

    def __init__(
        self,
        sampler: ChunkSampler = ChunkSampler(steps=4),
        times: JumpLaw = GridTimes(48),
        metric: Metric = SquaredError(),
        guidance: TeacherGuidance = TeacherGuidance(low=3.0),
        target: TargetNetwork = EMATarget(ConstantEMA(0.99)),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sampler=sampler,
            times=times,
            metric=metric,
            guidance=guidance,
            target=target,
            student_optimizer=student_optimizer,
            **kwargs,
        )

    def context(self, part: MicroBatch) -> Tensor:
        return real_clips(part)
