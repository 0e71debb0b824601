"""D-ODE solvers: one scalar a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.borrowed import WithNumbers
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.solvers.base import SolverDistiller
from fastgen.sampling.corrections import difference, least_squares, quotient
from fastgen.sampling.samplers.corrected import CorrectedSampler
from fastgen.sampling.solvers import Euler
from fastgen.sharding import sharded_like
from fastgen.times.refined import refined


class DODE(SolverDistiller):
    """Distilling ODE Solvers of Diffusion Models into Smaller Steps (Kim et al. 2023, arXiv 2309.16421;
    github.com/kim-sanghwan/D-ODE-Solvers).

    The student is the teacher with DDIM steps that are corrected by one scalar each, ``DDIM(x_t) + lambda_i d_i``,
    where d_i is the change of what the network predicted since the last call. The scalars are fitted by least squares
    over all samples and elements of the first batch, ``<d, x* - x> / <d, d>``, one after the other: each with the
    states that the scalars before it have corrected. x* are the states of the same solver with ``scale`` times the
    steps.

    An "update" fits on its batch together with all before it, whose sums are kept; ``trainer.max_steps: 1`` is the
    official procedure. No gradient is computed. Differs: for DDIM (Euler on EDM) only, not for DPM-Solver, PNDM and
    Heun steps.

    A checkpoint holds the scalars alone; whoever samples from it needs the teacher's weights.

    Args:
        sampler: Its ``steps`` are the network calls, its ``form`` says what d is: data as on EDM, noise as on VP.
        scale: Steps of the teacher within one of the student's.
    """

    sampler: CorrectedSampler
    student: WithNumbers
    sums: Tensor

    def __init__(self, sampler: CorrectedSampler = CorrectedSampler(), scale: int = 10, **kwargs: Any) -> None:
        checks.kind(self, CorrectedSampler, sampler=sampler)
        checks.whole(self, 1, checks.MOST_STEPS, scale=scale)
        super().__init__(sampler=sampler, **kwargs)
        self.scale = scale
        self.register_buffer("sums", torch.zeros(sampler.steps, 2, dtype=torch.float64))

    def build_role(self, role: str) -> Denoiser:
        """The teacher itself with scalars of 0, which are plain DDIM."""
        scalars = torch.zeros(self.sampler.steps, dtype=torch.float64)
        return WithNumbers(self.frozen_teacher(), {"scalars": scalars}, self.solver.guidance)

    def targets(self, part: MicroBatch) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Noise (B, ...), the times of the student's steps, and where the teacher is at their ends."""
        noise = part.draws.normal("noise", self.student.sample_shape, self.noise_dtype_of_teacher())
        process, times = self.student.process, self.sampler.times(self.student, noise, None)
        grid = refined(process, [float(t[0]) for t in times], self.scale)
        fine = [noise.new_full((len(noise),), time, dtype=torch.float64) for time in grid]
        states = Euler(guidance=self.student.guidance).path(
            self.frozen_teacher(), process.start(noise, fine[0]), fine, part.condition
        )
        return noise, times, [state for i, state in enumerate(states, 1) if i % self.scale == 0]

    def update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        """Fit the scalars to all samples so far; the optimizer has no gradient and only counts."""
        with self.only(role), torch.no_grad():
            scalars = self.student.numbers["scalars"]
            scalars.data.copy_(sharded_like(self.fit(parts), scalars))
            for part in parts:
                for name, value in self.losses(role, part).items():
                    self.record(f"{role}/{name}", value)
        self.wrapped_optimizer(role).step()

    def fit(self, parts: Sequence[MicroBatch]) -> Tensor:
        """The scalars (steps,), each by least squares over all pieces and processes."""
        known = [self.targets(part) for part in parts]
        process = self.student.process
        states = [process.start(noise, times[0]) for noise, times, _ in known]
        before: list[Any] = [None] * len(parts)
        scalars = torch.zeros(self.sampler.steps, dtype=torch.float64, device=states[0].device)
        for i in range(self.sampler.steps):
            sums = torch.zeros(2, dtype=torch.float64, device=states[0].device)
            made = []
            for k, (part, (noise, times, targets)) in enumerate(zip(parts, known, strict=True)):
                prediction = self.student(states[k], times[i], part.condition)
                moved = process.jump(prediction, times[i + 1])
                d = difference(self.sampler.form, prediction, before[k], noise)
                if d is not None:
                    sums += torch.stack(least_squares(moved, d, targets[i]))
                made.append((moved, d))
                before[k] = prediction
            self.sums[i] += self.trainer.strategy.reduce(sums, reduce_op="sum")
            scalars[i] = quotient(*self.sums[i])
            states = [m if d is None else m + scalars[i].to(d.dtype) * d for m, d in made]
        return scalars

    @torch.no_grad()
    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Mean squared distance between the ends of the student's and the teacher's trajectories."""
        noise, times, targets = self.targets(part)
        scalars = self.sampler.scalars(self.student, self.sampler.steps)
        *_, (x, _, _) = self.sampler.states(self.student, noise, part.condition, times, scalars)
        return {"distance": (x - targets[-1]).square().mean()}
