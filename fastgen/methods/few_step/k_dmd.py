"""K-DMD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfStudent, FromTeacher
from fastgen.distiller.extra import Extra
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras.few_step_teacher import FewStepTeacher
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.weights import UniformWeight
from fastgen.sampling.samplers import RenoiseSampler, Sampler


class KDMD(DMD2):
    """Knowledge-guided DMD of SnapGen++ (arXiv 2601.08303; no code): a small few-step student of a large teacher.

    DMD with the large teacher, whose prediction a small critic, begun as the student, can follow; and beside it outputs
    and features of a few-step teacher at the student's own inputs (``FewStepTeacher``), all with the weight 1. A
    student that is no copy of the teacher is given with weights of its own.

    Not verified: learning rates, and how many critic updates there are for each of the student's ("alternating", here
    1:1 on the same samples).

    Args:
        critic: Builds the critic, or says what it is made from: the student.
        sampler: How the student generates: four steps of the process's own grid.
        critic_objective: The critic's loss: the squared error of the velocity.
        schedule: Turns of critic and student: 1:1.
        extras: Further loss terms; ``published`` is a ``FewStepTeacher``, whose network is the teacher.
    """

    def __init__(
        self,
        critic: Callable[[], Denoiser] | FromTeacher = CopyOfStudent(),
        sampler: Sampler = RenoiseSampler(steps=4),
        critic_objective: DenoisingLoss = DenoisingLoss("velocity", UniformWeight()),
        schedule: UpdateSchedule = UpdateSchedule(critic_first=False, reuse_rollout=True),
        extras: Sequence[Extra] | Literal["published"] = "published",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            critic=critic,
            sampler=sampler,
            critic_objective=critic_objective,
            schedule=schedule,
            extras=[FewStepTeacher()] if isinstance(extras, str) else extras,
            **kwargs,
        )
