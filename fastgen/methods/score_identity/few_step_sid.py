"""Few-step SiD."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.methods.score_identity.sid import SiD
from fastgen.objectives.score_identity import InverseDistance
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import FlowWeight, LevelWeight, UniformWeight
from fastgen.optimizers import BetasAdam
from fastgen.sampling.samplers import RenoiseSampler, Sampler
from fastgen.times import LogNormalLevel, TimeLaw

LOG_LEVEL = math.log(2.0)
"""Mean of log(sigma / alpha) at which scores are compared and the critic learns."""


class FewStepSiD(SiD):
    """Few-Step Diffusion via Score identity Distillation (Zhou et al. 2025, arXiv 2505.12674).

    SiD on the uniform mixture of what the student's steps put out: its own chain with fresh noise between the steps,
    cut at a random step, the gradient through that step alone. The optimum of every step is the data, so one student
    and one critic without a step input serve all steps. It is not the only optimum, as only the mixture is matched:
    what one step makes too seldom another may make too often, unless its level is too low to change what it is given.
    Let the last levels be low, and the learning rates decay.

    Weight, levels and guidance are those of its successor on flows, SiD-DiT (Zhou et al. 2025, arXiv 2509.25127;
    github.com/apple-aiml-research/ml-sid-dit), whose code is public; its calls are at t = 1, 0.75, 0.5 and 0.25.
    Guidance is a policy of the teacher's and the critic's scales: SiD-LSG's (the default), Zero-CFG (the critic never
    sees the condition, so that the difference of the scores carries it) or Anti-CFG (``critic`` below zero; the paper's
    scale is not verified); see ``Guidance``. Beside an unguided teacher, a critic's scale kappa leads where a teacher
    with the scale ``2 - kappa`` would. The adversarial variant adds ``extras: [SharedEncoder]``, whose features keep
    the condition and whose scale is this loss's; in that code it starts after 40,000 images.

    Args:
        sampler: How the student generates: four calls from noise level 2.5 (step 625 of Stable Diffusion) evenly down
            to data.
        renoise_time: Law of the noise levels at which the scores are compared: log(sigma / alpha) ~ N(log 2, 1.6), i.e.
            flow times sigmoid(N(log 2, 1.6)); SiD-LSG's are uniform in steps 20 to 979.
        critic_time: Law of the noise levels at which the critic learns: the same.
        critic_objective: The critic's loss: the squared error of the noise, summed over a sample, as in SiD-LSG.
        guidance: Guidance scales of teacher and critic.
        weight: Weight of the noise level: ``1 - sigma`` of rectified flow. SiD's own is ``InverseDistance``.
        alpha: Here 1.
    """

    def __init__(
        self,
        sampler: Sampler = RenoiseSampler(level=2.5, steps=4),
        renoise_time: TimeLaw = LogNormalLevel(LOG_LEVEL, 1.6),
        critic_time: TimeLaw = LogNormalLevel(LOG_LEVEL, 1.6),
        critic_objective: DenoisingLoss = DenoisingLoss("noise", UniformWeight(), "sum"),
        guidance: Guidance = Guidance(teacher=4.5, critic=4.5, critic_training=4.5),
        weight: LevelWeight | InverseDistance = FlowWeight(),
        alpha: float = 1.0,
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=5e-6, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=5e-6, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            weight=weight,
            alpha=alpha,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
