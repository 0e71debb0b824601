"""Bespoke solvers: a few times and scales, learned."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.borrowed import WithNumbers
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.denoisers.wrappers.policy import FLOW
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.solvers.base import SolverDistiller
from fastgen.optimizers import BetasAdam
from fastgen.sampling.runge_kutta import flow_velocity_of, rk1_lipschitz, rk2_lipschitz
from fastgen.sampling.samplers.bespoke import BespokeSampler
from fastgen.sampling.solvers import Heun
from fastgen.shapes import expand


class Bespoke(SolverDistiller):
    """Bespoke Solvers for Generative Flow Models (Shaul et al. 2023, arXiv 2310.19075).

    The student is the teacher, called by a Runge-Kutta method on the path ``s(r) x(t(r))``; t and s at the nodes, with
    their derivatives, are all that learns: at most 8 n numbers. The loss bounds the error at the end: ``sum_i M_i RMS(
    x(t_i) - step(x(t_(i-1))))`` with the true path x, so steps are judged one by one, and ``M_i`` the product of the
    Lipschitz bounds of the steps after i. The truth comes from a dense solver and is differentiable in its time as
    ``x + u (t_i - sg t_i)``.

    Everything is in the time of rectified flow. The formulas are a reconstruction, checked by their orders of accuracy;
    ``lipschitz`` and the optimizer are from memory. A checkpoint holds the numbers alone; whoever samples from it needs
    the teacher's weights.

    Args:
        sampler: Steps and order of the solver.
        dense: Steps of the dense solver within one of the student's.
        lipschitz: Lipschitz constant of the velocity in the bounds.
    """

    sampler: BespokeSampler
    student: WithNumbers

    def __init__(
        self,
        sampler: BespokeSampler = BespokeSampler(),
        dense: int = 20,
        lipschitz: float = 1.0,
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=2e-3),
        **kwargs: Any,
    ) -> None:
        checks.kind(self, BespokeSampler, sampler=sampler)
        checks.whole(self, 1, checks.MOST_STEPS, dense=dense)
        checks.not_negative(self, lipschitz=lipschitz)
        super().__init__(sampler=sampler, student_optimizer=student_optimizer, **kwargs)
        self.dense = dense
        self.lipschitz = lipschitz

    def build_role(self, role: str) -> Denoiser:
        """The teacher itself under the plain solver."""
        teacher = self.frozen_teacher()
        return WithNumbers(teacher, self.sampler.initial(), self.solver.guidance)

    def ends(self) -> Tensor:
        """Times of rectified flow at which steps begin and the last one ends, (steps + 1,), with their graph."""
        nodes, last, _ = self.sampler.nodes(self.student)
        return torch.stack([node[0] for node in nodes[:: self.sampler.per_step]] + [last])

    @torch.no_grad()
    def truth(self, part: MicroBatch, ends: Tensor) -> list[Tensor]:
        """The states of the dense solver at some times of rectified flow, in its coordinates."""
        noise = part.draws.normal("noise", self.student.sample_shape, self.noise_dtype_of_teacher())
        x = self.sampler.begin(self.student, noise)
        network, states = on_process(self.student, FLOW), [x]
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            grid = [start + (end - start) * i / self.dense for i in range(self.dense + 1)]
            times = [noise.new_full((len(noise),), time, dtype=torch.float64) for time in grid]
            *_, x = Heun().path(network, states[-1], times, part.condition)
            states.append(x)
        return states

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """The bound of the error at the end, over the steps from the true path."""
        ends = self.ends()
        states = self.truth(part, ends.detach())
        errors = []
        for i in range(self.sampler.steps):
            reached = self.sampler.step(self.student, self.moving(states[i], ends[i], part), i, part.condition)
            target = self.moving(states[i + 1], ends[i + 1], part)
            errors.append((reached - target).square().flatten(1).mean(1).clamp(min=1e-30).sqrt().mean())
        weights = self.weights()
        return {"bound": (weights.to(errors[0].dtype) * torch.stack(errors)).sum()}

    def moving(self, x: Tensor, t: Tensor, part: MicroBatch) -> Tensor:
        """A state of the true path as a function of its time: ``x + u (t - sg t)``."""
        if float(t.detach()) <= 0.0:
            return x  # the end is data, whatever else moves
        with torch.no_grad():
            u = flow_velocity_of(self.student, x, t, part.condition)
        return x + u * expand((t - t.detach()).expand(len(x)), x)

    def weights(self) -> Tensor:
        """M_i, the product of the bounds of the steps after i, (steps,)."""
        nodes, _, last = self.sampler.nodes(self.student)
        per, h = self.sampler.per_step, 1.0 / self.sampler.steps
        bounds = []
        for i in range(self.sampler.steps):
            here = nodes[i * per]
            end = nodes[(i + 1) * per][2] if (i + 1) * per < len(nodes) else last
            if per == 1:
                bounds.append(rk1_lipschitz(here, end, h, self.lipschitz))
            else:
                bounds.append(rk2_lipschitz(here, nodes[i * per + 1], end, h, self.lipschitz))
        after = [torch.ones_like(bounds[0])]
        for bound in reversed(bounds[1:]):
            after.append(after[-1] * bound)
        return torch.stack(after[::-1])
