"""Easy consistency tuning."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.methods.flow_maps.discrete_consistency import DiscreteConsistency
from fastgen.optimizers import BetasRAdam


class ECT(DiscreteConsistency):
    """Easy Consistency Tuning (Geng et al. 2024, arXiv 2406.14548; github.com/locuslab/ect).

    ``L = |D(x_t, t) - sg D(x_r, r)| / (t - r)`` with the same noise, r / t = 1 - n(t) / q^(stage + 1) (``EasyTimes``);
    where r = 0 the target is the datum, so the first stage begins as denoising and the last is consistency. The student
    starts from a pretrained denoiser: give ``student`` with weights (or ``teacher``, which is copied and not asked).
    ECD, its distillation, is ``transition: TeacherStep``; ImageNet recipes use ``weight: EDMWeight`` and ``q: 4``.

    Differs from the code: r / t is at most 0.999, and a metric constant of 0 has the gradient 0 where outputs agree.
    """

    def __init__(
        self,
        student_optimizer: OptimizerCallable = lambda params: BetasRAdam(params, lr=1e-4),
        **kwargs: Any,
    ) -> None:
        super().__init__(student_optimizer=student_optimizer, **kwargs)
