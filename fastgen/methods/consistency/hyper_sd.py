"""Hyper-SD's consistency distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.distiller.averaging import ConstantEMA
from fastgen.methods.flow_maps.discrete_consistency import DiscreteConsistency
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.methods.flow_maps.transition import TeacherStep, Transition
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.objectives.weights import JumpWeight, UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.times import JumpLaw, SegmentTimes


class HyperSD(DiscreteConsistency):
    """Trajectory-segmented consistency distillation of Hyper-SD (Ren et al. 2024, arXiv 2404.13686; weights only).

    Within each of 8 segments, then 4, 2 and 1, the student's jump from t to any s of the segment agrees with that from
    where one step of the teacher leads; every stage goes on with the student of the last. What follows is composed: the
    adversarial term of the later stages is the extra ``GAN``, human feedback ``Reward``, the one-step stage
    ``DistributionMatching`` from pure noise.

    The training code is not public: the weights of the terms, the length of the stages, the scale of the guidance and
    the decay of the target are derived.

    Args:
        student: Builds the student, or says how it is made from the frozen teacher: a LoRA of rank 64.
        times: Law of t, r and s: neighbours on 50 times, jumps within 8, 4, 2 and 1 segments.
        transition: One Euler (DDIM) step of the teacher.
        metric: Mean squared error.
        weight: None.
        target: An average with the decay 0.95.
        guidance: The scale 7.5.
    """

    def __init__(
        self,
        student: Callable[[], Denoiser] | FromTeacher = LoRA(rank=64),
        times: JumpLaw = SegmentTimes(segments=(8, 4, 2, 1), end="inside"),
        transition: Transition = TeacherStep(),
        metric: Metric = SquaredError(),
        weight: JumpWeight = UniformWeight(),
        target: TargetNetwork = EMATarget(ConstantEMA(0.95)),
        guidance: TeacherGuidance = TeacherGuidance(low=7.5),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            student=student,
            times=times,
            transition=transition,
            metric=metric,
            weight=weight,
            target=target,
            guidance=guidance,
            student_optimizer=student_optimizer,
            **kwargs,
        )
