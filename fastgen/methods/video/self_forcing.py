"""Self Forcing."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen import checks
from fastgen.conditions import Guidance
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import ChunkSampler
from fastgen.times import ClampedTime, TimeLaw


class SelfForcing(DMD2):
    """Self Forcing (Huang et al. 2025, arXiv 2506.08009; github.com/guandeh17/Self-Forcing).

    A causal student makes clips chunk by chunk, in training as when it streams: each chunk sees what the student's own
    earlier chunks left behind. The loss is that of the whole clip, which a bidirectional teacher and critic see at one
    noise level: DMD's by default, ``form: SiDForm`` with alpha 1 is the paper's SiD, ``extras: [GAN]`` its GAN. One
    chunk and nothing forgotten is :class:`DMD2` with several steps.

    The student begins as :class:`ODEInitialisation` leaves it. Real samples are not needed.

    Differs: student and critic draw other noise for the same conditions, not other conditions. The image latent that
    begins a window of a long rollout is not encoded anew.

    Args:
        sampler: How the student generates: four calls per chunk on the process's own grid (with Wan's shift of 5 the
            paper's list of 1000, 750, 500, 250), then one that remembers.
        renoise_time: Law of the noise levels at which the scores are compared: one for a clip, uniform steps at shift
            5, kept within 20 and 980.
        critic_time: Law of the noise levels at which the critic learns: the same.
        critic_objective: The critic's loss: the squared error of the velocity.
        guidance: 4 for the teacher, ``cond + 3 (cond - uncond)``; none for the critic.
        schedule: Turns of critic and student: the student in every fifth iteration, before the critic, on other noise.
        gradient_clip: Largest gradient norm.
    """

    def __init__(
        self,
        sampler: ChunkSampler = ChunkSampler(steps=4),
        renoise_time: TimeLaw = ClampedTime(),
        critic_time: TimeLaw = ClampedTime(),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        guidance: Guidance = Guidance(teacher=4.0),
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=5, critic_first=False),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=4e-7, beta1=0.0),
        gradient_clip: float | dict[str, float] | None = 10.0,
        **kwargs: Any,
    ) -> None:
        checks.kind(self, ChunkSampler, sampler=sampler)
        super().__init__(
            sampler=sampler,
            renoise_time=renoise_time,
            critic_time=critic_time,
            critic_objective=critic_objective,
            guidance=guidance,
            schedule=schedule,
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            gradient_clip=gradient_clip,
            **kwargs,
        )
