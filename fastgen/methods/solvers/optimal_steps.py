"""Optimal steps: no training at all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher
from fastgen.denoisers.wrappers.on_grid import OnGrid
from fastgen.distiller.base import Distiller
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.sampling.optimal_steps import lower_median, optimal_steps
from fastgen.sampling.samplers import GridSampler
from fastgen.sharding import sharded_like, whole


class OptimalSteps(Distiller):
    """Optimal Stepsize for Diffusion Sampling (Pei et al. 2025, arXiv 2503.21774; github.com/bebebe666/OptimalSteps).

    The student is the teacher with a better grid of times: for each sample the search finds the grid on which Euler
    (DDIM) steps end nearest to the end of the teacher's fine trajectory, and the student takes the median over samples.
    An "update" searches one batch and takes the median over all batches so far; ``trainer.max_steps`` is the number of
    batches. No gradient is computed. The official code takes the median of an even number of samples by integer means;
    here it is the lower median, which is always a grid.

    A checkpoint holds the grid alone; whoever samples from it needs the teacher's weights.

    Args:
        sampler: Its ``steps`` are the network calls of the student.
        fine_steps: Euler steps of the teacher's trajectory, from which the student's times are chosen.
        free_start: Whether the first call too may be told any time of the fine grid: sampling begins with pure noise of
            that time's level. So the official search does, whose grid for FLUX.1 begins at 0.9968.
    """

    samples_with_teacher = True
    teacher: Denoiser
    student: OnGrid
    sampler: GridSampler
    counts: Tensor

    def __init__(
        self,
        sampler: GridSampler = GridSampler(steps=4),
        fine_steps: int = 100,
        free_start: bool = False,
        **kwargs: Any,
    ) -> None:
        checks.kind(self, GridSampler, sampler=sampler)
        checks.whole(self, 1, checks.MOST_STEPS, fine_steps=fine_steps)
        checks.ascending(self, steps=sampler.steps, fine_steps=fine_steps)
        super().__init__(sampler=sampler, **kwargs)
        if not isinstance(self.factories["student"], CopyOfTeacher):
            raise UserError("OptimalSteps trains no network; leave model.init_args.student out.")
        unused = {"extras": self.extras, "gradient_clip": self.gradient_clip is not None}
        unused["student_lr_scheduler"] = self.lr_scheduler_factories["student"] is not None
        if given := [name for name, is_given in unused.items() if is_given]:
            raise UserError(f"OptimalSteps follows no gradient; leave model.init_args.{given[0]} out.")
        self.fine_steps = fine_steps
        self.free_start = free_start
        self.register_buffer("counts", torch.zeros(sampler.steps, fine_steps, dtype=torch.int64))

    def build_role(self, role: str) -> Denoiser:
        """The teacher itself on its own grid of so many steps, until a better one is found."""
        times = torch.tensor(self.teacher.process.solver_grid(self.sampler.steps), dtype=torch.float64)
        return OnGrid(self.teacher, times, self.solver.guidance)

    def noise_of(self, part: MicroBatch) -> Tensor:
        """What the samples of a batch begin with, standard normal, (B, ...)."""
        return part.draws.normal("noise", self.teacher.sample_shape)

    def trajectory(self, part: MicroBatch) -> tuple[list[float], list[Tensor]]:
        """Times (fine_steps + 1) and states of the teacher, from noise to data."""
        process = self.teacher.process
        times = [*process.solver_grid(self.fine_steps), process.t_clean]
        noise = self.noise_of(part)
        states = [process.start(noise, noise.new_full((len(noise),), times[0], dtype=torch.float64))]
        for start, end in pairwise(times):
            states.append(self.moved(states[-1], start, end, part.condition))
        return times, states

    def moved(self, x_t: Tensor, start: float, end: float, condition: Condition) -> Tensor:
        """One Euler step from time ``start`` to ``end``."""
        t, s = (x_t.new_full((len(x_t),), time, dtype=torch.float64) for time in (start, end))
        return self.teacher.process.jump(self.student(x_t, t, condition), s)

    @torch.no_grad()
    def search(self, part: MicroBatch) -> Tensor:
        """How often each time of the fine grid is call k of the best grid of a sample, (steps, fine_steps)."""
        times, states = self.trajectory(part)
        noise = self.noise_of(part)

        def at(i: int) -> Tensor:
            return states[0].new_full((len(states[0]),), times[i], dtype=torch.float64)

        calls, _ = optimal_steps(
            states,
            predict=lambda x, i: self.student(x, at(i), part.condition),
            move=lambda prediction, j: self.teacher.process.jump(prediction, at(j)),
            steps=self.sampler.steps,
            starts=(lambda i: self.teacher.process.start(noise, at(i))) if self.free_start else None,
        )
        return torch.nn.functional.one_hot(calls, self.fine_steps).sum(0)

    def update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """Search, and take the median over all samples so far; the optimizer has no gradient and only counts."""
        with self.only(role):
            found = torch.stack([self.search(part) for part in parts]).sum(0)
            self.counts += self.trainer.strategy.reduce(found, reduce_op="sum")
            fine = torch.tensor(self.teacher.process.solver_grid(self.fine_steps), dtype=torch.float64)
            times = self.student.times
            times.data.copy_(sharded_like(fine[lower_median(self.counts).cpu()].to(times.device), times))
            for part in parts:
                for name, value in self.losses(role, part).items():
                    self.record(f"{role}/{name}", value)
        self.wrapped_optimizer(role).step()

    @torch.no_grad()
    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Mean squared distance between the ends of the student's and the teacher's trajectories."""
        times, states = self.trajectory(part)
        grid = [*whole(self.student.times).tolist(), times[-1]]
        noise = self.noise_of(part)
        x = self.teacher.process.start(noise, noise.new_full((len(noise),), grid[0], dtype=torch.float64))
        for start, end in pairwise(grid):
            x = self.moved(x, start, end, part.condition)
        return {"distance": (x - states[-1]).square().mean()}
