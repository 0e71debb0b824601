"""Transitions: from ``x_t`` at ``t`` to the point at ``r < t`` where a bootstrap target is evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.sampling.solvers import Euler, Solver

if TYPE_CHECKING:
    from fastgen.methods.flow_map import FlowMapDistiller, MapState


class Transition(ABC):
    """A short step of the flow."""

    needs_teacher = False

    @abstractmethod
    def step(self, method: FlowMapDistiller, state: MapState) -> Tensor:
        """``x_r`` (B, ...), without gradient."""


class SameNoise(Transition):
    """The datum with the same noise at ``r`` (consistency training): the flow's own step in expectation as r -> t."""

    def step(self, method: FlowMapDistiller, state: MapState) -> Tensor:
        return method.coordinates.add_noise(state.x0, state.noise, state.times.r)


class TeacherStep(Transition):
    """One solver step of the guided teacher (consistency distillation).

    Args:
        solver: The solver; default Euler, which is DDIM on VP. Its own guidance must stay 1: the method's acts.
    """

    needs_teacher = True

    def __init__(self, solver: Solver | None = None) -> None:
        self.solver = solver or Euler()
        if self.solver.guidance != 1.0:
            raise UserError("TeacherStep: its solver takes no guidance; leave that at 1 and set the method's guidance.")

    @torch.no_grad()
    def step(self, method: FlowMapDistiller, state: MapState) -> Tensor:
        t, r = state.times.t, state.times.r
        return self.solver.step(method.guided_teacher(state), state.x_t, t, r, state.condition)
