"""Progressive distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import guided
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.stages import Staged, overwrite, snapshot_of
from fastgen.errors import UserError
from fastgen.methods.trajectories.base import TrajectoryDistiller
from fastgen.objectives.progressive import ddim_target, halving_loss
from fastgen.objectives.weights import LevelWeight, TruncatedSNRWeight
from fastgen.optimizers import BetasAdam
from fastgen.sampling.samplers import JumpSampler


class Progressive(Staged, TrajectoryDistiller):
    """Progressive Distillation (Salimans & Ho 2022, arXiv 2202.00512, algorithm 2).

    Each stage halves the steps: one DDIM step of the student learns two of the stage's teacher, which is the teacher
    first and then the student as the last stage left it. At a stage's begin the optimizer's state is dropped and the
    learning-rate schedule starts anew. Samples are drawn with the steps of the current stage.

    The steps of all stages lie on one grid of ``2 steps[0]`` times, the process's own. Targets are not clipped. The
    first stage's teacher is guided by ``solver.guidance``.

    Args:
        steps: The student's steps in each stage; each is half of the one before.
        stage_updates: Student updates per stage, one number for all or one per stage; ``trainer.max_steps`` should be
            their sum. Training beyond goes on with the last stage.
        weight: Weight of the x0 error at a noise level: the paper's truncated SNR.
    """

    teacher: Denoiser

    def __init__(
        self,
        steps: Sequence[int] = (4, 2, 1),
        stage_updates: int | Sequence[int] = 1000,
        weight: LevelWeight = TruncatedSNRWeight(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=5e-5),
        **kwargs: Any,
    ) -> None:
        checks.not_empty(self, steps=steps)
        checks.whole(self, 1, checks.MOST_STEPS, steps=steps)
        super().__init__(student_optimizer=student_optimizer, **kwargs)
        self.steps = list(steps)
        if any(a != 2 * b for a, b in pairwise(self.steps)):
            raise UserError(f"model.init_args.steps must halve from stage to stage, e.g. [4, 2, 1], got {self.steps}.")
        checks.whole(self, stage_updates=stage_updates)
        updates = [stage_updates] * len(self.steps) if isinstance(stage_updates, int) else list(stage_updates)
        if len(updates) != len(self.steps):
            raise UserError(
                f"model.init_args.stage_updates must be a number, or {len(self.steps)} of them (one per stage), "
                f"got {stage_updates}."
            )
        if self.sampler != JumpSampler():
            raise UserError("Progressive samples at the times of its stages; give 'steps' and leave 'sampler' out.")
        self.weight = weight
        self.have_stages(list(accumulate(updates)))

    def build_roles(self) -> None:
        if self.teacher is None:
            raise UserError("Progressive needs a teacher; give model.init_args.teacher.")
        self.snapshot = snapshot_of(self.student)
        self.enter(0)

    def times(self, steps: int) -> list[float]:
        """The times of ``steps`` calls on the grid that all stages share."""
        grid = self.student.process.grid(2 * self.steps[0])
        return grid[:: len(grid) // steps]

    def enter(self, stage: int) -> None:
        """Sample and train with the steps of ``stage``."""
        super().enter(stage)
        self.sampler = JumpSampler(self.times(self.steps[stage]))

    def begin_stage(self, stage: int) -> None:
        """The student becomes the teacher."""
        overwrite(self.snapshot, self.student)
        super().begin_stage(stage)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        self.log("steps", float(self.steps[int(self.stage)]))

    # ------------------------------------------------------------------ the loss

    @torch.no_grad()
    def two_steps(self, x_t: Tensor, t: Tensor, r: Tensor, s: Tensor, part: MicroBatch) -> Tensor:
        """Where two DDIM steps of the stage's teacher lead, by way of ``r``."""
        process = self.student.process
        for start, end in ((t, r), (r, s)):
            if int(self.stage) == 0:
                teacher = on_process(self.teacher, process)
                prediction = guided(teacher, x_t, start, part.condition, self.solver.guidance)
            else:
                prediction = self.snapshot(x_t, start, part.condition)
            x_t = process.jump(prediction, end)
        return x_t

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """One step of the student against two of the stage's teacher, from a random step of the stage's grid."""
        if part.x0 is None:
            raise UserError("Progressive noises real samples; the data module gives none ('x0' is missing).")
        process, draws = self.student.process, part.draws.scoped("student")
        steps = self.steps[int(self.stage)]
        grid = torch.tensor([*self.times(2 * steps), process.t_clean], dtype=torch.float64, device=part.x0.device)
        first = 2 * draws.integers("step", steps)
        t, r, s = grid[first], grid[first + 1], grid[first + 2]
        x_t = process.add_noise(part.x0, draws.normal("noise", part.x0.shape[1:], part.x0.dtype), t)
        target = ddim_target(process, x_t, t, self.two_steps(x_t, t, r, s, part), s)
        x0 = self.student(x_t, t, part.condition).x0
        return {"halving": halving_loss(process, t, x0, target.to(x0.dtype), self.weight)}
