"""Whose turn it is."""

from __future__ import annotations

from dataclasses import dataclass

from fastgen import checks
from fastgen.errors import UserError


@dataclass(frozen=True)
class UpdateSchedule:
    """Turns of student and critic; one iteration is one batch.

    Args:
        critic_updates: Critic updates per student update (the k of "k:1", TTUR).
        exclusive: The critic rests in the iterations in which the student is updated.
        critic_first: In an iteration with both, the critic is updated before the student (SiD), else after it (DMD2).
        student_start: Number of first iterations in which only the critic is updated.
        reuse_rollout: Both learn from the same student samples (DMD2), else each draws its own (SiD).
    """

    critic_updates: int = 1
    exclusive: bool = False
    critic_first: bool = True
    student_start: int = 0
    reuse_rollout: bool = False

    def __post_init__(self) -> None:
        checks.whole(self, critic_updates=self.critic_updates)
        checks.whole(self, 0, student_start=self.student_start)
        if self.exclusive and self.reuse_rollout:
            raise UserError(
                "UpdateSchedule: exclusive and reuse_rollout exclude each other, because student and critic have no "
                "iteration in common whose samples they could share; set one of them to false."
            )

    def turns(self, iteration: int) -> tuple[str, ...]:
        """Roles to update in iteration 0, 1, ..., in order."""
        since = iteration - self.student_start
        period = self.critic_updates + 1 if self.exclusive else self.critic_updates
        if since < 0 or since % period:
            return ("critic",)
        if self.exclusive:
            return ("student",)
        return ("critic", "student") if self.critic_first else ("student", "critic")
