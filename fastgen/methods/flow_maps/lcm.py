"""Latent consistency models."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.methods.flow_maps.discrete_consistency import DiscreteConsistency
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.transition import TeacherStep, Transition
from fastgen.objectives.metrics import ElementwiseHuber, Metric
from fastgen.objectives.weights import JumpWeight, UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.times import GridTimes, JumpLaw


class LCM(DiscreteConsistency):
    """Latent Consistency Models (Luo et al. 2023, arXiv 2310.04378; diffusers' train_lcm_distill_*).

    One DDIM step of the teacher at a guidance scale drawn per sample leads to ``x_r``; the student is told the scale.
    LCM-LoRA (arXiv 2311.05556) is ``guidance.embedded: false``. The full method's target is an EMA:
    ``target: EMATarget``.

    Differs from the scripts: their boundary scalings are the identity to 1e-5 on the grid and are left out (predicted
    x0 is exact at the clean end); the last grid step leads to the clean end instead of step 0; a network that has no
    input of diffusers for the scale sees its logarithm.

    Args:
        times: Law of t and r: neighbours on the process's grid of 50 times.
        transition: One Euler (DDIM) step of the teacher.
        metric: Elementwise Huber with c = 1e-3.
        weight: None. Grids that go down to almost clean levels, such as EDM's, need ``StepWeight``: with 1 their low
            levels hardly learn, and every level inherits the errors of those below it.
        guidance: Default scales from 6 to 16, embedded (w from 5 to 15 in the paper), for Stable Diffusion.
    """

    def __init__(
        self,
        times: JumpLaw = GridTimes(),
        transition: Transition = TeacherStep(),
        metric: Metric = ElementwiseHuber(),
        weight: JumpWeight = UniformWeight(),
        guidance: TeacherGuidance = TeacherGuidance(low=6.0, high=16.0, embedded=True),
        student_optimizer: OptimizerCallable = lambda parameters: BetasAdamW(parameters, lr=1e-6, decay=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            times=times,
            transition=transition,
            metric=metric,
            weight=weight,
            guidance=guidance,
            student_optimizer=student_optimizer,
            **kwargs,
        )
