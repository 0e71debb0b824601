"""Trajectory Distribution Matching."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Guidance
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods.distribution_matching.base import ScoreDistiller
from fastgen.objectives.metrics import ElementwiseHuber, Metric
from fastgen.objectives.score_forms import DistanceForm
from fastgen.objectives.trajectory import trajectory_denoising_loss
from fastgen.optimizers import BetasAdamW
from fastgen.processes import Prediction
from fastgen.sampling.samplers import TrajectorySampler
from fastgen.sampling.scores import ScoreInputs
from fastgen.times import TimeLaw, WithinChain


class TDM(ScoreDistiller):
    """Few-step students by Trajectory Distribution Matching (Luo et al. 2025, arXiv 2503.06674; Luo-Yihong/TDM).

    The student is its own deterministic sampler. A random step of its trajectory is taken once more with a gradient; it
    ends at an anchor x_s, from which the Markov kernel q(x_t | x_s) leads to levels within that step's segment. There
    ``x* = x0 + mu_cond - mu_fake + (w - 1) (mu_cond - mu_uncond)`` is the target of the student's x0, in a pseudo-Huber
    distance over ``mean |x0 - mu_real|``. The segments of the steps do not overlap, so one critic serves all; it learns
    x0 with importance weights. Critic first, 1:1, on fresh samples; the paper's student learns five times slower.

    The critic's target is biased all the same, since x0 is a prediction and not what led to x_s (see Phased DMD, arXiv
    2510.27684). Not here: the variant with random numbers of steps.

    Args:
        sampler: How the student generates: four steps of the process's own grid.
        renoise_time: Law of the noise levels at which the scores are compared: uniform within the step's segment, and
            above position 0.02.
        critic_time: Law of the noise levels at which the critic learns: the same.
        guidance: 4.5 for the teacher (PixArt-alpha).
        schedule: Turns of critic and student.
        metric: The distance of x0 and x*, elementwise pseudo-Huber.
        snr_cap: Largest weight of the critic's loss, of alpha^2 / sigma^2.
    """

    def __init__(
        self,
        sampler: TrajectorySampler = TrajectorySampler(),
        renoise_time: TimeLaw = WithinChain("anchor", "student"),
        critic_time: TimeLaw = WithinChain("anchor", "student"),
        guidance: Guidance = Guidance(teacher=4.5),
        schedule: UpdateSchedule = UpdateSchedule(critic_first=True),
        metric: Metric = ElementwiseHuber(),
        snr_cap: float = 5.0,
        student_optimizer: OptimizerCallable = lambda parameters: BetasAdamW(
            parameters, lr=4e-6, beta1=0.0, beta2=0.95
        ),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-5, beta1=0.0, beta2=0.95),
        **kwargs: Any,
    ) -> None:
        checks.positive(self, snr_cap=snr_cap)
        checks.kind(self, TrajectorySampler, sampler=sampler)
        super().__init__(
            form=DistanceForm(metric),
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            guidance=guidance,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.snr_cap = snr_cap

    def denoising_loss(self, inputs: ScoreInputs, prediction: Prediction) -> Tensor:
        return trajectory_denoising_loss(prediction, inputs.rollout.x0, inputs.noise, self.snr_cap)
