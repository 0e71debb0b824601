"""Diff-Instruct."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.score_forms import IKLForm
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.optimizers import BetasAdam
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.times import LogNormalLevel, TimeLaw


class DiffInstruct(ScoreDistiller):
    """Diff-Instruct: an integral Kullback-Leibler divergence (Luo et al. 2023, arXiv 2305.18455).

    Student: ``mean_B sum sg[mu_fake - mu_real] . x``, without weight or normaliser. Critic first, 1:1, on fresh
    samples. The official code (github.com/pkulwj1994/diff_instruct) runs both networks with one dropout mask; here they
    run without dropout.

    Args:
        sampler: How the student generates: one call at noise level 1, the paper's init_sigma; later work uses 2.5.
        renoise_time: Law of the noise levels at which the scores are compared: EDM's log-normal.
        critic_objective: The critic's loss: EDM's, summed over the elements of a sample.
    """

    def __init__(
        self,
        sampler: Sampler = RenoiseSampler(level=1.0),
        renoise_time: TimeLaw = LogNormalLevel(),
        critic_objective: DenoisingLoss = DenoisingLoss(reduction="sum"),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-5),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            form=IKLForm(),
            sampler=sampler,
            renoise_time=renoise_time,
            critic_objective=critic_objective,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
