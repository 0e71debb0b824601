"""Phased consistency models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.errors import UserError
from fastgen.methods.flow_maps.discrete_consistency import DiscreteConsistency
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.transition import TeacherStep, Transition
from fastgen.objectives.metrics import ElementwiseHuber, Metric
from fastgen.objectives.weights import JumpWeight, UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import SegmentTimes


class PCM(DiscreteConsistency):
    """Phased consistency models (Wang et al. 2024, arXiv 2405.18407; github.com/G-U-N/Phased-Consistency-Model).

    The flow is cut into phases, and the student is consistent within each: its DDIM jump to the phase's end from a grid
    time agrees with that from where one guided step of the teacher leads. Sampling is deterministic, one jump a phase.
    Without guidance of the teacher the student can be guided itself when it samples.

    Differs: the end of the last phase is data instead of step 0; at a phase's end the map is the identity by itself.

    Args:
        student: Builds the student, or says how it is made from the frozen teacher: a LoRA of rank 64.
        times: Law of t, r and s: neighbours on 50 times in 4 phases.
        transition: One Euler (DDIM) step of the teacher.
        metric: Elementwise Huber with c = 1e-3.
        weight: None.
        guidance: Scales from 5 to 6 (w from 4 to 5).
        sampler: A jump from the beginning of each phase to its end.
    """

    times: SegmentTimes

    def __init__(
        self,
        student: Callable[[], Denoiser] | FromTeacher = LoRA(rank=64),
        times: SegmentTimes = SegmentTimes(),
        transition: Transition = TeacherStep(),
        metric: Metric = ElementwiseHuber(),
        weight: JumpWeight = UniformWeight(),
        guidance: TeacherGuidance = TeacherGuidance(low=5.0, high=6.0),
        sampler: Sampler = JumpSampler(steps=4),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6, decay=1e-3),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            student=student,
            times=times,
            transition=transition,
            metric=metric,
            weight=weight,
            guidance=guidance,
            sampler=sampler,
            student_optimizer=student_optimizer,
            **kwargs,
        )

    def build_roles(self) -> None:
        super().build_roles()
        calls, edges = self.sampler.schedule(self.student), self.times.edges(self.student.process, 0)
        if self.sampler.moves == "jump" and not any(math.isclose(calls[-1], edge) for edge in edges):
            raise UserError(
                f"The student is called at {calls}, but its phases begin at {edges}: give model.init_args.sampler as "
                "many steps as model.init_args.times has segments."
            )
