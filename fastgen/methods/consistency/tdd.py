"""Target-driven distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.methods.flow_maps.discrete_consistency import DiscreteConsistency
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.transition import TeacherStep, Transition
from fastgen.objectives.metrics import ElementwiseHuber, Metric
from fastgen.objectives.weights import JumpWeight, UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import JumpLaw, UnionTimes


class TDD(DiscreteConsistency):
    """Target-driven distillation (Wang et al. 2024, arXiv 2409.01347; github.com/RedAIGC/Target-Driven-Distillation).

    Jumps end where a student of four to eight steps would be called next. The guidance is decoupled: the teacher's
    scale is one, and a share of the samples loses its condition, so the student can be guided again when it samples.

    Differs: the relaxed end of a jump is not rounded down to a step.

    Args:
        student: Builds the student, or says how it is made from the frozen teacher: a LoRA of rank 64.
        times: Law of t, r and s: neighbours on 250 times.
        transition: One Euler (DDIM) step of the teacher.
        metric: Elementwise Huber with c = 1e-3.
        weight: None.
        guidance: The scale 4.5 (w = 3.5).
        condition_dropout: Probability of training on the null condition: 0.2.
        sampler: Four jumps, each to the time of the next call.
    """

    def __init__(
        self,
        student: Callable[[], Denoiser] | FromTeacher = LoRA(rank=64),
        times: JumpLaw = UnionTimes(),
        transition: Transition = TeacherStep(),
        metric: Metric = ElementwiseHuber(),
        weight: JumpWeight = UniformWeight(),
        guidance: TeacherGuidance = TeacherGuidance(low=4.5),
        condition_dropout: float = 0.2,
        sampler: Sampler = JumpSampler(steps=4),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            student=student,
            times=times,
            transition=transition,
            metric=metric,
            weight=weight,
            guidance=guidance,
            condition_dropout=condition_dropout,
            sampler=sampler,
            student_optimizer=student_optimizer,
            **kwargs,
        )
