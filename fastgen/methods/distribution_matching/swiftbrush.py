"""SwiftBrush."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.score_forms import VSDForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import VPSignalWeight
from fastgen.optimizers import BetasAdam
from fastgen.times import TimeLaw, UniformTime


class SwiftBrush(ScoreDistiller):
    """One-step text-to-image by variational score distillation, image-free (Nguyen & Tran 2023, arXiv 2312.05239).

    Student: ``0.5 mean (x - sg[x - g])^2``, ``g = sigma_t^2 (noise_real - noise_fake)`` with both guided. The critic is
    a LoRA adapter on the frozen teacher, so one network serves both, and is updated after the student on the same
    samples. alpha and sigma in the weights are those of the variance-preserving process at the same noise level, which
    on VP changes nothing. The student is called at t_max (step 999); the official code drops the critic's prompt for a
    whole batch at once, here each sample's is dropped.

    Args:
        critic: Builds the critic, or says how it is made from the frozen teacher: a LoRA on the queries and values of
            all attention layers, as in the official code (github.com/VinAIResearch/SwiftBrush); a network whose layers
            have other names needs other ``layers``.
        critic_time: Law of the noise levels at which the critic learns: all alike.
        critic_objective: The critic's loss: ``mean alpha^2 (noise_fake - noise)^2``.
        guidance: 4.5 for teacher and critic; the critic's condition is dropped with probability 0.1.
        schedule: Turns of critic and student.
    """

    def __init__(
        self,
        critic: Callable[[], Denoiser] | FromTeacher = LoRA(rank=64, alpha=108.0, layers="*.to_[qv]"),
        critic_time: TimeLaw = UniformTime(0.0, 1.0),
        critic_objective: DenoisingLoss = DenoisingLoss("noise", VPSignalWeight()),
        guidance: Guidance = Guidance(teacher=4.5, critic=4.5, condition_dropout=0.1),
        schedule: UpdateSchedule = UpdateSchedule(critic_first=False, reuse_rollout=True),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-3),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            form=VSDForm(),
            critic=critic,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
