"""Semigroup defect: one large step of the student agrees with two small ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.causal.base import CausalDenoiser
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.sampling.scores import last_call

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class SemigroupDefect(Extra):
    """``weight mean |Phi(t -> r) - sg Phi(m -> r) Phi(t -> m)|^2``, steps Phi along the student's own prediction.

    Salt's SC-DMD (Ge et al. 2026, arXiv 2604.03118; github.com/XingtongGe/Salt). The first call is the one that made
    the rollout, at t; the second is one more of the student, without gradient, at a drawn time m of the process's grid;
    the end r is one of the next two ends of ``segments`` equal parts of the grid below the following call. A field of
    constant velocity has no defect. A causal student sees, in the second call, the chunks that it has made.

    Differs: the code weighs the error by time; that weight is not verified and left out.

    Args:
        weight: Factor of the term.
        start: Student update from which it is active.
        segments: Number of parts of the grid.
        grid: Calls of the dense grid from which m is drawn; rollouts of fewer calls carry no defect.
    """

    def __init__(self, weight: float = 0.2, start: int = 0, segments: int = 4, grid: int = 8) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, segments=segments, grid=grid)
        super().__init__(weight, start)
        if grid % segments:
            raise UserError(f"SemigroupDefect: grid {grid} is no multiple of segments {segments}; change one of them.")
        self.segments = segments
        self.grid = grid

    def times(self, method: Distiller, part: MicroBatch, t: float) -> tuple[float, float] | None:
        """Times m and r for a call at ``t``, shared by all samples and ranks; ``None`` if none lie below it."""
        process, draws = method.student.process, part.draws.scoped("student/semigroup")
        dense = [*process.student_grid(self.grid), process.t_clean]
        below = [time for time in dense if time < t - 1e-9]
        following = below[0] if below else process.t_clean
        ends = [time for time in dense[:: self.grid // self.segments] if time < following - 1e-9][:2]
        if not ends:
            return None
        r = ends[draws.shared_integer("end", len(ends))]
        between = [time for time in below if time > r + 1e-9]
        return between[draws.shared_integer("middle", len(between))], r

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        rollout = method.rollout(part, "student")
        call, process = last_call(rollout), method.student.process
        found = self.times(method, part, float(call.t.flatten()[0]))
        if found is None or not self.dense(method, float(call.t.flatten()[0])):
            return {"semigroup": 0.0 * rollout.x0.sum()}
        m, r = (torch.full_like(call.t, time) for time in found)
        with torch.no_grad():
            told = self.told(method, part, rollout.condition, rollout.x0)
            middle = process.jump(call.detach(), m)
            target = process.jump(method.student(middle, m, told), r)
        return {"semigroup": self.weight * (process.jump(call, r) - target).square().mean()}

    def dense(self, method: Distiller, t: float) -> bool:
        """Whether a call at ``t`` is one of the dense grid."""
        return any(abs(time - t) < 1e-6 * max(t, 1.0) for time in method.student.process.student_grid(self.grid))

    def told(self, method: Distiller, part: MicroBatch, condition: Condition, x0: Tensor) -> Condition:
        """What the second call is told: of a causal student also the chunks that were made."""
        told = dict(method.student_condition(condition, part.draws.scoped("semigroup")))
        if isinstance(method.student.backbone, CausalDenoiser):
            told["clean"] = x0.detach()
        return told
