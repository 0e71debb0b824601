"""Distribution backtracking."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import GuidedPrediction, guided
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.distiller.stages import overwrite, snapshot_of
from fastgen.errors import UserError
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.scores import ScoreInputs


class DisBack(DMD2):
    """Distribution Backtracking (Zhang et al. 2024, arXiv 2408.15991; github.com/SYZhang0805/DisBack), on DMD2.

    A student far from the teacher gets useless directions from it. So first, with the student at rest, the critic goes
    from the teacher to the student's law, and snapshots mark its way (degradation recording). Then the student learns
    as in DMD2, but the real score is that of the last snapshot but one, then of the one before, and so on, one step
    towards the teacher every ``interval`` student updates, until it is the teacher's (backtracking). The critic goes on
    from where it has come to.

    Snapshots are copies of the critic, in memory and in the checkpoint: of a ``LoRA`` they are small. Guidance is the
    teacher's alone: the critic's law is the student's, which knows none.

    Differs from the code, of which the README's algorithm and the configuration were read: fewer snapshots (official:
    every 100 of at most 25,000 updates, 150 of them), the ``//`` of the README is read as ``%``, and whether snapshots
    are guided is not verified.

    Args:
        degradation: Critic updates before the student's first.
        snapshots: Number of them, evenly spaced, the last where the critic ends.
        interval: Student updates from one snapshot to the next.
        schedule: Turns of critic and student, once the student learns.
        student_optimizer: Builds the student's optimizer.
        critic_optimizer: Builds the critic's optimizer.
    """

    recorded: Tensor

    def __init__(
        self,
        degradation: int = 2000,
        snapshots: int = 5,
        interval: int = 1000,
        schedule: UpdateSchedule = UpdateSchedule(critic_updates=5, critic_first=False, reuse_rollout=True),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-7),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-7),
        **kwargs: Any,
    ) -> None:
        checks.whole(self, degradation=degradation, snapshots=snapshots, interval=interval)
        if degradation % snapshots:
            raise UserError(
                f"DisBack: {degradation} updates of degradation are no whole number of times {snapshots} snapshots; "
                "change one of them."
            )
        if schedule.student_start:
            raise UserError("DisBack: degradation is the start of the student; leave schedule.student_start at 0.")
        super().__init__(
            schedule=replace(schedule, student_start=degradation),
            student_optimizer=student_optimizer,
            critic_optimizer=critic_optimizer,
            **kwargs,
        )
        self.degradation = degradation
        self.interval = interval
        self.snapshots = snapshots
        self.register_buffer("recorded", torch.zeros((), dtype=torch.int64))

    def build_roles(self) -> None:
        super().build_roles()
        self.path = nn.ModuleList(snapshot_of(self.critic) for _ in range(self.snapshots))

    def after_update(self, role: str) -> None:
        """Mark the critic's way."""
        count = self.updates["critic"]
        if role == "critic" and count <= self.degradation and count % (self.degradation // self.snapshots) == 0:
            overwrite(cast(nn.Module, self.path[int(self.recorded)]), self.critic)
            self.recorded += 1

    def target(self) -> Denoiser | None:
        """The network whose score is the real one now; ``None`` for the teacher."""
        index = int(self.recorded) - 2 - self.student_updates // self.interval
        return cast(Denoiser, self.path[index]) if index >= 0 else None

    def teacher_scores(self, part: MicroBatch, inputs: ScoreInputs) -> GuidedPrediction:
        network = self.target()
        if network is None:
            return super().teacher_scores(part, inputs)
        condition = self.role_condition(part, "teacher", inputs.rollout.condition)
        return guided(self.seen(network), inputs.x_t, inputs.t, condition, 1.0)
