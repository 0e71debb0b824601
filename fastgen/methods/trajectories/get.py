"""GET: regression of an equilibrium transformer on pairs."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.methods.trajectories.kd import KD
from fastgen.objectives.metrics import AbsoluteError, Metric
from fastgen.optimizers import BetasAdamW


class GET(KD):
    """One-Step Diffusion Distillation via Deep Equilibrium Models (Geng et al. 2023, arXiv 2401.08639;
    github.com/locuslab/get).

    The loss is that of ``KD``: absolute errors, or LPIPS by ``perceptual``, over pairs of noise and the solver's x (a
    million in the paper, batches of 128). What is new is the student, no copy of the teacher but a
    :class:`~fastgen.denoisers.networks.get.GETransformer`, whose depth is a fixed point with a backward pass of its
    own: give it in ``student``; any other network works too.

    Args:
        metric: Distance of the student's samples from the pairs'.
    """

    def __init__(
        self,
        metric: Metric = AbsoluteError(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-4),
        **kwargs: Any,
    ) -> None:
        super().__init__(metric=metric, student_optimizer=student_optimizer, **kwargs)
