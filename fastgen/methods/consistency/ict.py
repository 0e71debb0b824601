"""Improved consistency training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.methods.flow_maps.discrete_consistency import DiscreteConsistency
from fastgen.objectives.metrics import Metric, PseudoHuber
from fastgen.objectives.weights import JumpWeight, StepWeight
from fastgen.optimizers import BetasRAdam
from fastgen.times import JumpLaw, LogNormalGrid


class ICT(DiscreteConsistency):
    """Improved techniques for training consistency models (Song & Dhariwal 2023, arXiv 2310.14189; no official code).

    Consistency training with the student itself for a target, the pseudo-Huber metric with ``c = 0.00054 sqrt(D)``, the
    weight ``1 / (sigma_{i+1} - sigma_i)``, pairs drawn by a log-normal law, and a grid that doubles from 11 levels to
    1281.

    Differs: as ``CT``; the metric is the paper's norm of a whole sample, where a widely used reimplementation takes
    every element alone.

    Args:
        times: Law of t, r and s.
        metric: Pseudo-Huber.
        weight: The inverse step of noise levels.
    """

    def __init__(
        self,
        times: JumpLaw = LogNormalGrid(),
        metric: Metric = PseudoHuber(0.00054, per_element=True),
        weight: JumpWeight = StepWeight(),
        student_optimizer: OptimizerCallable = lambda params: BetasRAdam(params, lr=1e-4),
        **kwargs: Any,
    ) -> None:
        super().__init__(times=times, metric=metric, weight=weight, student_optimizer=student_optimizer, **kwargs)
