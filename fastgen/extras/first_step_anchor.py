"""First-step anchor: the student's first step keeps to the teacher's path, and with it to all that there is."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.objectives.progressive import ddim_target
from fastgen.objectives.regression import flow_velocity
from fastgen.processes import Prediction
from fastgen.sampling.solvers import Euler, Solver

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class FirstStepAnchor(Extra):
    """The student's first call leads, in a straight line, where the teacher is after some steps from the same noise.

    ``weight mean (v - v*)^2`` with the velocities ``noise - x0`` of rectified flow; there ``v* = (z - z_k) / (1 -
    t_k)`` for the teacher's state z_k after k guided steps. It is the diversity loss of DP-DMD (arXiv 2602.03139;
    github.com/Multimedia-Analytics-Laboratory/dpdmd), which ModelTC/LightX2V also puts beside Phased DMD: what matching
    would let collapse is decided in the first step. One more call of the student, as its own chain begins without a
    gradient.

    Args:
        weight: Factor of the term.
        start: Student update from which it is active.
        solver: The teacher's steps and guidance.
        anchor: How many of them are taken; the paper's text has 5, its script 10.
    """

    def __init__(self, weight: float = 0.05, start: int = 0, solver: Solver = Euler(30, 3.5), anchor: int = 10) -> None:
        checks.whole(self, 1, solver.steps, anchor=anchor)
        super().__init__(weight, start)
        self.solver = solver
        self.anchor = anchor

    def build(self, method: Distiller) -> None:
        if method.teacher is None:
            raise UserError("FirstStepAnchor follows a teacher; give model.init_args.teacher.")

    @torch.no_grad()
    def target(self, method: Distiller, first: Prediction, condition: Condition) -> Tensor:
        """The velocity ``noise - x0`` (B, ...) of the line from the first input to the teacher's later state."""
        assert method.teacher is not None  # build
        process, teacher = method.student.process, on_process(method.teacher, method.student.process)
        end = process.t_clean
        times = [*process.grid(self.solver.steps, float(first.t[0])), end][: self.anchor + 1]
        x = first.x_t
        for t, s in pairwise(torch.full_like(first.t, time) for time in times):
            x = self.solver.step(teacher, x, t, s, condition)
        x0 = ddim_target(process, first.x_t, first.t, x, torch.full_like(first.t, times[-1])).to(x.dtype)
        return flow_velocity(Prediction(process, first.x_t, first.t, x0, "x0"))

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        rollout = method.rollout(part, "student")
        if not rollout.trajectory:
            raise UserError(
                "FirstStepAnchor needs a sampler that tells its calls, such as JumpSampler or PhasedSampler."
            )
        first = rollout.trajectory[0]
        told = method.student_condition(rollout.condition, part.draws.scoped("anchor"))
        asked = method.student(first.x_t.detach(), first.t, told)
        known = method.role_condition(part, "teacher", rollout.condition)
        gap = flow_velocity(asked) - self.target(method, first.detach(), known)
        return {"anchor": self.weight * gap.square().mean()}
