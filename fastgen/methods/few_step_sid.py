"""Few-step SiD."""

from __future__ import annotations

from typing import Any

from fastgen.conditions import Guidance
from fastgen.methods.sid import SiD
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.sampling.students import StudentSampler
from fastgen.times import TimeLaw, UniformTime


class FewStepSiD(SiD):
    """Few-Step Diffusion via Score identity Distillation (Zhou et al. 2025, arXiv 2505.12674).

    SiD on the uniform mixture of what the student's steps put out: its own chain with fresh noise between the steps,
    cut at a random step, the gradient through that step alone. The optimum of every step is the data, so one student
    and one critic without a step input serve all steps. It is not the only optimum, as only the mixture is matched:
    what one step makes too seldom another may make too often, unless its level is too low to change what it is given.
    Let the last levels be low, and the learning rates decay.

    Guidance is a policy of the teacher's and the critic's scales: Zero-CFG (the default: the critic never sees the
    condition, so that the difference of the scores carries it), Anti-CFG (``critic`` below zero; the paper's scale is
    not verified) or SiD-LSG's; see ``Guidance``. The adversarial variant adds ``extras: [GAN]`` on the critic's
    features, which keep the condition.

    Args:
        sampler: Default four calls from noise level 2.5 (step 625 of Stable Diffusion) evenly down to data.
        renoise_time: Default uniform in [0.02, 0.98] (steps 20-979), for the critic's training too.
        critic_time: As ``renoise_time``.
        critic_objective: Default the squared error of the noise, summed over a sample, as in SiD-LSG.
        guidance: Default Zero-CFG.
        alpha: Here 1.
    """

    def __init__(
        self,
        sampler: StudentSampler | None = None,
        renoise_time: TimeLaw | None = None,
        critic_time: TimeLaw | None = None,
        critic_objective: DenoisingLoss | None = None,
        guidance: Guidance = Guidance(teacher=1.0, critic=0.0, critic_training=0.0),
        alpha: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sampler=sampler or StudentSampler(level=2.5, steps=4),
            renoise_time=renoise_time or UniformTime(0.02, 0.98),
            critic_time=critic_time or UniformTime(0.02, 0.98),
            critic_objective=critic_objective or DenoisingLoss("noise", "one", "sum"),
            guidance=guidance,
            alpha=alpha,
            **kwargs,
        )
