"""Consistency distillation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.distiller.averaging import ConstantEMA
from fastgen.methods.consistency.perceptual import PerceptualConsistency
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.methods.flow_maps.transition import TeacherStep, Transition
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.objectives.weights import JumpWeight, UniformWeight
from fastgen.optimizers import BetasRAdam
from fastgen.sampling.solvers import Heun
from fastgen.times import GridTimes, JumpLaw


class CD(PerceptualConsistency):
    """Consistency distillation (Song et al. 2023, arXiv 2303.01469, algorithm 2; github.com/openai/consistency_models).

    ``L = w(t) d(f(x_t, t), sg f-(x_r, r))``: one Heun step of the teacher leads from a time of a fixed grid to the
    next, and an average of the student makes the target. In the paper d is LPIPS (``perceptual``), of local weights.

    Differs: the boundary lies at the clean end, so the grid has a last pair from its lowest level to data, and the
    networks keep their own scalings (those of EDM are the identity there).

    Args:
        times: Law of t and r: neighbours on the process's grid of 40 times (ImageNet 64; 18 on CIFAR-10).
        transition: One Heun step of the teacher.
        metric: Mean squared error, where ``perceptual`` is not given.
        weight: None, as in all of the paper's runs.
        target: An average with the decay 0.95.
    """

    def __init__(
        self,
        times: JumpLaw = GridTimes(40),
        transition: Transition = TeacherStep(Heun()),
        metric: Metric = SquaredError(),
        weight: JumpWeight = UniformWeight(),
        target: TargetNetwork = EMATarget(ConstantEMA(0.95)),
        student_optimizer: OptimizerCallable = lambda params: BetasRAdam(params, lr=8e-6),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            times=times,
            transition=transition,
            metric=metric,
            weight=weight,
            target=target,
            student_optimizer=student_optimizer,
            **kwargs,
        )
