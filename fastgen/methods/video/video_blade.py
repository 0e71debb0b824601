"""Video-BLADE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.block_sparse import SparseCopy
from fastgen.denoisers.wrappers.from_teacher import FromTeacher
from fastgen.methods.distribution_matching.tdm import TDM
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import TrajectorySampler


class VideoBLADE(TDM):
    """Video-BLADE (Gu et al. 2025, arXiv 2508.10774; github.com/ziplab/VIDEO-BLADE): few sparse steps.

    :class:`TDM` with eight calls whose student, and critic, have block-sparse attention from the start
    (:class:`BlockSparsity`); the teacher stays dense. No clips are needed. With a ``least`` share of 1 it is TDM.

    Differs: the code mixes the predicted noise with fresh one (eta 0.9), skips the critic's updates of losses above 2,
    and adapts by LoRA of rank 64.

    Args:
        student: How the student is made from the teacher: with sparse attention.
        critic: The same.
        sampler: How the student generates: eight steps.
        guidance: 5 for the teacher.
    """

    def __init__(
        self,
        student: Callable[[], Denoiser] | FromTeacher = SparseCopy(),
        critic: Callable[[], Denoiser] | FromTeacher = SparseCopy(),
        sampler: TrajectorySampler = TrajectorySampler(steps=8),
        guidance: Guidance = Guidance(teacher=5.0),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-4, beta1=0.0, beta2=0.95),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-4, beta1=0.0, beta2=0.95),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            student=student,
            critic=critic,
            sampler=sampler,
            guidance=guidance,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
