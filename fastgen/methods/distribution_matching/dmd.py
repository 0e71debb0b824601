"""DMD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable

from fastgen.distiller.extra import Extra
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras.paired_regression import PairedRegression
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.optimizers import BetasAdamW


class DMD(DMD2):
    """One-step Diffusion with Distribution Matching Distillation (Yin et al. 2023, arXiv 2311.18828).

    Student: ``0.5 mean (x - sg[x - g])^2``, ``g = (mu_fake - mu_real) / mean |x - mu_real|`` (eqs. 7-8), and a
    regression on pairs of noise and the teacher's sample (eq. 9), the extra ``PairedRegression``. Critic: denoising,
    1:1, after the student on the same samples. One step from pure noise. No code was published; what is shared with
    DMD2 is as there.

    Pairs come from files (``fastgen pairs``, by the data module ``Pairs`` or the extra's ``pairs``); without any the
    solver makes them in every update. For released weights give the extra ``perceptual: {class_path: LPIPS}``.

    Not verified against a source: the learning rates (2e-6 on ImageNet-64, 5e-5 on CIFAR-10, 1e-5 on SD1.5), LPIPS'
    backbone and the size at which it looks. Differs: on LAION the paper also matches the paired samples themselves.

    Args:
        schedule: Turns of critic and student: 1:1.
        extras: Further loss terms; ``published`` is the paper's regression, a ``PairedRegression`` of weight 0.25.
    """

    def __init__(
        self,
        schedule: UpdateSchedule = UpdateSchedule(critic_first=False, reuse_rollout=True),
        extras: Sequence[Extra] | Literal["published"] = "published",
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            schedule=schedule,
            extras=[PairedRegression()] if isinstance(extras, str) else extras,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
