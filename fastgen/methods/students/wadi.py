"""WaDi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.denoisers.wrappers.lorad import LoRaD
from fastgen.methods.distribution_matching.swiftbrush import SwiftBrush
from fastgen.optimizers import BetasAdam


class WaDi(SwiftBrush):
    """Weight-direction-aware distillation (arXiv 2603.08258; github.com/gudaochangsheng/WaDi).

    SwiftBrush's two losses for a student and a critic that turn the teacher's weights instead of changing them freely:
    one network in memory, and angles of rank 256 and 32 (see :class:`~fastgen.denoisers.wrappers.lorad.LoRaD`). The
    student is merged when it is exported.

    Differs from the code: Adam has no 8-bit states, and fp32 stands where fp16 does there.

    Args:
        student: Says how the student is made from the frozen teacher: all linear layers inside its blocks.
        critic: Says how the critic is: without the projections and the layers of the time.
        guidance: 1.5 for teacher and critic; the critic's condition is dropped with probability 0.1.
        student_optimizer: Builds the student's optimizer.
        critic_optimizer: Builds the critic's optimizer.
    """

    def __init__(
        self,
        student: Callable[[], Denoiser] | FromTeacher = LoRaD(256, without="*conv_shortcut*"),
        critic: Callable[[], Denoiser] | FromTeacher = LoRaD(
            32, without=("*proj_in*", "*proj_out*", "*time_emb_proj*")
        ),
        guidance: Guidance = Guidance(teacher=1.5, critic=1.5, condition_dropout=0.1),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-2),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            student=student,
            critic=critic,
            guidance=guidance,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
