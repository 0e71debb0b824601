"""Consistency training."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable

from fastgen.methods.consistency.grid_ema import GridEMA
from fastgen.methods.consistency.perceptual import PerceptualConsistency
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.objectives.weights import JumpWeight, UniformWeight
from fastgen.optimizers import BetasRAdam
from fastgen.times import GrowingGrid


class CT(PerceptualConsistency):
    """Consistency training (Song et al. 2023, arXiv 2303.01469, algorithm 3; github.com/openai/consistency_models).

    No teacher: the datum with the same noise stands at both levels of a pair, on a grid that grows from s0 to s1 levels
    while the average that makes targets follows more slowly. In the paper d is LPIPS (``perceptual``).

    Differs: the map to the lowest level is a DDIM jump along the network's own prediction instead of a second pair of
    scalings; both are the identity there.

    Args:
        times: Law of t, r and s: a grid of 2 levels at first and 201 after 800000 updates.
        metric: Mean squared error, where ``perceptual`` is not given.
        weight: None.
        target: ``by the grid`` is an average with ``exp(s0 log 0.95 / N(k))`` for the N(k) of ``times``.
    """

    def __init__(
        self,
        times: GrowingGrid = GrowingGrid(),
        metric: Metric = SquaredError(),
        weight: JumpWeight = UniformWeight(),
        target: TargetNetwork | Literal["by the grid"] = "by the grid",
        student_optimizer: OptimizerCallable = lambda params: BetasRAdam(params, lr=1e-4),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            times=times,
            metric=metric,
            weight=weight,
            target=EMATarget(GridEMA(times.curriculum)) if isinstance(target, str) else target,
            student_optimizer=student_optimizer,
            **kwargs,
        )
