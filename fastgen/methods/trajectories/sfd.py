"""SFD: the teacher's trajectory, learned from noise to data on the student's own states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.methods.trajectories.base import Perceptual
from fastgen.objectives.metrics import AbsoluteError, Metric
from fastgen.optimizers import BetasAdam
from fastgen.sampling.samplers import JumpSampler
from fastgen.sampling.samplers.base import call
from fastgen.sampling.solvers import DPMSolverPP, Solver
from fastgen.times.refined import refined


class SFD(Perceptual):
    """Simple and Fast Distillation (Zhou et al. 2024, arXiv 2409.19681; github.com/zju-pi/diff-sampler, ``sfd-main``).

    The student is the teacher, asked at few times. From one noise the teacher's solver gives the states at these times;
    the student takes one Euler (DDIM) step after the other from its *own* last state, and each step is an update:
    ``|x_student - x_teacher|`` at its end. So a batch is as many updates as the student has calls. No data are needed.

    For one call the paper trains again: its teacher is the student of two calls, by Euler steps, with LPIPS at the end
    (``perceptual``); give that student's weights to the teacher, e.g. in a plan of ``fastgen stages``.

    Differs: the solver is DPM-Solver++(2M), which is 3M in the paper; the last step goes to data and not to the lowest
    level of the grid; no analytical first step; no embedding of the number of steps (SFD-v). Validation measures all
    steps of the chain.

    Args:
        substeps: Steps of the teacher's solver within one of the student's, evenly in the position of the levels.
        metric: Distance of the states: absolute errors.
        sampler: The times of the student's calls.
        solver: The teacher's; its guidance is distilled too.
        perceptual: Builds a distance of decoded pictures that is added at the last step.
    """

    teacher: Denoiser
    sampler: JumpSampler

    def __init__(
        self,
        substeps: int = 4,
        metric: Metric = AbsoluteError(),
        sampler: JumpSampler = JumpSampler(steps=2),
        solver: Solver = DPMSolverPP(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=5e-5),
        perceptual: Callable[[], PerceptualDistance] | None = None,
        **kwargs: Any,
    ) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, substeps=substeps)
        checks.kind(self, JumpSampler, sampler=sampler)
        super().__init__(
            perceptual=perceptual, sampler=sampler, solver=solver, student_optimizer=student_optimizer, **kwargs
        )
        self.substeps = substeps
        self.metric = metric

    def build_roles(self) -> None:
        super().build_roles()
        if self.teacher is None:
            raise UserError("SFD needs a teacher; give model.init_args.teacher.")

    def turns(self, iteration: int) -> tuple[str, ...]:
        return ("student",) * self.sampler.trained_steps()

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """The student's next step; all of them where nothing is trained."""
        times = [*self.sampler.schedule(self.student), self.student.process.t_clean]
        if not part.states:
            self.begin(part, times)
        number, last = part.turn("student"), len(times) - 2
        numbers = range(last + 1) if number < 0 else range(number, number + 1)
        distances: list[Tensor] = []
        for i in numbers:
            x = part.states[i]
            t, s = (x.new_full((len(x),), time, dtype=torch.float64) for time in times[i : i + 2])
            prediction = call(self.student, x, t, part.condition, times[i + 1])
            reached, target = prediction.process.jump(prediction, s), part.targets[i]
            distance = self.metric(reached, target)
            if i == last and self.perceptual is not None:
                distance = distance + self.looks(reached, target)
            distances.append(distance.mean())
            part.states[i + 1 :] = [reached.detach()]
        return {"trajectory": torch.stack(distances).mean()}

    @torch.no_grad()
    def begin(self, part: MicroBatch, times: list[float]) -> None:
        """Where both begin, and where the teacher's solver is at the student's times."""
        process = self.student.process
        noise = part.draws.normal("noise", self.student.sample_shape, self.noise_dtype())
        grid = refined(process, times, self.substeps)
        fine = [noise.new_full((len(noise),), time, dtype=torch.float64) for time in grid]
        start = process.start(noise, fine[0])
        states = self.solver.path(on_process(self.teacher, process), start, fine, part.condition)
        part.states.append(start)
        part.targets.extend(state for i, state in enumerate(states, 1) if i % self.substeps == 0)
