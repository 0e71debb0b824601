"""SwD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.distiller.extra import Extra
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras.token_mmd import TokenMMD
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.scales import ScaleSampler, resized
from fastgen.times import FlowTime, TimeLaw


class SwD(DMD2):
    """Scale-wise distillation (Starodubcev et al. 2025, arXiv 2503.16397; github.com/yandex-research/swd).

    A few-step student whose pictures grow from call to call: early calls, which only decide coarse things, are cheap. A
    rollout is one call on real samples that were made as small as the step before leaves them, enlarged and noised;
    without real samples it is the student's own chain. All is judged in the size of that call: DMD's gradient at the
    cleaner half of the levels, the discrepancy of tokens (``TokenMMD``) and, in the paper's recipe, the ``GAN`` with
    5e-3 and 1e-2 on the critic's features. Student and critic are adapters on the teacher.

    Differs: levels are drawn evenly in the shifted time, where the code draws among the 28 steps of its schedule.

    Args:
        student: Builds the student, or says how it is made from the frozen teacher: a LoRA of rank 64.
        critic: Builds the critic, or says how it is made from the frozen teacher: another one.
        sampler: How the student generates: four calls at growing scales.
        renoise_time: Law of the noise levels at which the scores are compared: steps 12 to 27 of SD3's 28.
        critic_time: Law of the noise levels at which the critic learns: all 28.
        critic_objective: The critic's loss: the squared error of x0.
        guidance: 7 for the teacher.
        schedule: Turns of critic and student: five of the critic, then one of the student.
        extras: Further loss terms; ``published`` is the discrepancy of tokens, a ``TokenMMD``.
    """

    sampler: ScaleSampler

    def __init__(
        self,
        student: Callable[[], Denoiser] | FromTeacher = LoRA(rank=64),
        critic: Callable[[], Denoiser] | FromTeacher = LoRA(rank=64),
        sampler: ScaleSampler = ScaleSampler(),
        renoise_time: TimeLaw = FlowTime(1 / 28, 16 / 28, 3.0),
        critic_time: TimeLaw = FlowTime(1 / 28, 1.0, 3.0),
        critic_objective: DenoisingLoss = DenoisingLoss("x0", UniformWeight()),
        guidance: Guidance = Guidance(teacher=7.0),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=5, exclusive=True, student_start=5),
        extras: Sequence[Extra] | Literal["published"] = "published",
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6),
        **kwargs: Any,
    ) -> None:
        checks.kind(self, ScaleSampler, sampler=sampler)
        super().__init__(
            student=student,
            critic=critic,
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            schedule=schedule,
            extras=[TokenMMD()] if isinstance(extras, str) else extras,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        """One call on real samples, or without them the student's own chain."""
        if part.x0 is None:
            return super().make_rollout(part, role, condition)
        draws = part.draws.scoped(self.rollout_scope(role))
        told = self.student_condition(condition, draws)
        made = self.sampler.from_data(self.student, part.x0, draws, told, self.noise_dtype())
        return replace(made, condition=condition)

    def real_samples(self, part: MicroBatch, beside: Rollout | None = None) -> Tensor | None:
        real = super().real_samples(part)
        return real if real is None or beside is None else resized(real, beside.x0.shape[1:])
