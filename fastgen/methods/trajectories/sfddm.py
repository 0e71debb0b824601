"""SFDDM: one fold, whatever the number of steps."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.trajectories.base import TrajectoryDistiller
from fastgen.objectives.progressive import ddim_target, halving_loss, hidden_loss
from fastgen.objectives.weights import LevelWeight, TruncatedSNRWeight
from fastgen.optimizers import BetasAdam
from fastgen.sampling.samplers import JumpSampler
from fastgen.sampling.solvers import Euler, Solver
from fastgen.times.refined import refined


class SFDDM(TrajectoryDistiller):
    """Single-fold Distillation for Diffusion Models, SFDDM (Hong et al. 2024, arXiv 2405.14961); no text, no code.

    A student of any number of steps in one training: its process is the teacher's at a part of its steps, so one DDIM
    step of it must do the work of ``substeps`` of the teacher's. The target is that of progressive distillation with
    so many inner steps, ``(x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)``. The hidden
    variables that the abstract compares as well are read as the same error where the step ends: with the weight
    ``(alpha_s - (sigma_s / sigma_t) alpha_t)^2``. All this is derived from the abstract; it needs real samples.

    Args:
        substeps: Steps of the teacher within one of the student's, evenly in the position of the levels.
        weight: Weight of the x0 error at a noise level.
        hidden: Factor of the loss of hidden variables.
        sampler: The times of the student's calls.
        solver: How the teacher takes its steps; only single steps, DDIM in the paper.
    """

    teacher: Denoiser
    sampler: JumpSampler

    def __init__(
        self,
        substeps: int = 8,
        weight: LevelWeight = TruncatedSNRWeight(),
        hidden: float = 1.0,
        sampler: JumpSampler = JumpSampler(steps=4),
        solver: Solver = Euler(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=5e-5),
        **kwargs: Any,
    ) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, substeps=substeps)
        checks.not_negative(self, hidden=hidden)
        checks.kind(self, JumpSampler, sampler=sampler)
        super().__init__(sampler=sampler, solver=solver, student_optimizer=student_optimizer, **kwargs)
        self.substeps = substeps
        self.weight = weight
        self.hidden = hidden

    def build_roles(self) -> None:
        super().build_roles()
        if self.teacher is None:
            raise UserError("SFDDM needs a teacher; give model.init_args.teacher.")

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """One step of the student from a noised sample, against so many of the teacher."""
        if part.x0 is None:
            raise UserError("SFDDM noises real samples, but 'x0' is missing; give a data module with samples.")
        process, draws = self.student.process, part.draws.scoped("student")
        times = [*self.sampler.schedule(self.student), process.t_clean]
        grid = torch.tensor(refined(process, times, self.substeps), dtype=torch.float64, device=part.x0.device)
        step = draws.integers("step", len(times) - 1)
        inner = [grid[self.substeps * step + i] for i in range(self.substeps + 1)]
        t, s = inner[0], inner[-1]
        x_t = process.add_noise(part.x0, draws.normal("noise", part.x0.shape[1:], part.x0.dtype), t)
        with torch.no_grad():
            *_, x_s = self.solver.path(on_process(self.teacher, process), x_t, inner, part.condition)
            target = ddim_target(process, x_t, t, x_s, s).to(x_t.dtype)
        x0 = self.student(x_t, t, part.condition).x0
        losses = {"output": halving_loss(process, t, x0, target, self.weight)}
        if self.hidden:
            losses["hidden"] = self.hidden * hidden_loss(process, t, s, x0, target)
        return losses
