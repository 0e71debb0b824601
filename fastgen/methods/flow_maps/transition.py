"""Transitions: from ``x_t`` at ``t`` to the point at ``r < t`` where a bootstrap target is evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.errors import UserError
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.sampling.solvers import Euler, Heun, Solver


class Transition(Component, ABC):
    """A short step of the flow."""

    needs_teacher: ClassVar[bool] = False

    @abstractmethod
    def step(self, networks: MapNetworks, state: MapState) -> Tensor:
        """``x_r`` (B, ...), without gradient.

        Raises:
            UserError: If it needs a datum that the state does not have.
        """


@dataclass(frozen=True)
class SameNoise(Transition):
    """The datum with the same noise at ``r`` (consistency training): the flow's own step in expectation as r -> t."""

    def step(self, networks: MapNetworks, state: MapState) -> Tensor:
        return networks.coordinates.add_noise(state.datum(self), state.noise, state.times.r)


@dataclass(frozen=True)
class TeacherStep(Transition):
    """One solver step of the guided teacher (consistency distillation).

    Args:
        solver: The solver; Euler is DDIM on VP. Its own guidance must stay 1: the method's acts.
    """

    needs_teacher: ClassVar[bool] = True
    solver: Solver = Euler()

    def __post_init__(self) -> None:
        if self.solver.guidance != 1.0:
            raise UserError("TeacherStep: its solver takes no guidance; leave that at 1 and set the method's guidance.")

    @torch.no_grad()
    def step(self, networks: MapNetworks, state: MapState) -> Tensor:
        t, r = state.times.t, state.times.r
        return self.solver.step(networks.guided_teacher(state), state.x_t, t, r, state.condition)


@dataclass(frozen=True)
class TeacherWalk(Transition):
    """Steps of the guided teacher from ``t`` to ``r`` by way of all the times between them on the process's own grid.

    All samples are asked until the last has arrived; a law that gives all of them as many steps wastes nothing, and
    keeps the ranks of a sharded teacher together (CTM, arXiv 2310.02279: ``SubGridTimes``).

    Args:
        solver: Its steps; its own guidance must stay 1: the method's acts.
        steps: Number of times of the grid; the clean end follows the last.
    """

    needs_teacher: ClassVar[bool] = True
    solver: Solver = Heun()
    steps: int = 18

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)
        if self.solver.guidance != 1.0:
            raise UserError("TeacherWalk: its solver takes no guidance; leave that at 1 and set the method's guidance.")

    @torch.no_grad()
    def step(self, networks: MapNetworks, state: MapState) -> Tensor:
        process, teacher = networks.coordinates, networks.guided_teacher(state)
        x, now, r = state.x_t, state.times.t, state.times.r
        grid = torch.tensor([process.t_clean, *process.grid(self.steps)[::-1]], dtype=now.dtype, device=now.device)
        while bool((now > r).any()):
            below = grid[(torch.searchsorted(grid, now * (1.0 - 1e-9)) - 1).clamp(min=0)]
            following = torch.where(now > r, torch.maximum(below, r), now)
            # Who has arrived is asked again where it stands and not moved; no network is called at the clean end.
            asked = now.clamp(min=grid[1].item())
            moved = self.solver.step(teacher, x, asked, torch.minimum(following, asked), state.condition)
            x = torch.where((now > r).reshape(-1, *[1] * (x.ndim - 1)), moved, x)
            now = following
        return x


@dataclass(frozen=True)
class TeacherSpan(Transition):
    """Some steps of the guided teacher from ``t`` to ``r``, even in the levels that networks are trained at.

    Args:
        solver: Its steps; its own guidance must stay 1: the method's acts.
        steps: Number of steps.
    """

    needs_teacher: ClassVar[bool] = True
    solver: Solver = Heun()
    steps: int = 4

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)
        if self.solver.guidance != 1.0:
            raise UserError("TeacherSpan: its solver takes no guidance; leave that at 1 and set the method's guidance.")

    @torch.no_grad()
    def step(self, networks: MapNetworks, state: MapState) -> Tensor:
        process, teacher, x = networks.coordinates, networks.guided_teacher(state), state.x_t
        now, first, last = state.times.t, process.fraction(state.times.t), process.fraction(state.times.r)
        for i in range(1, self.steps + 1):
            end = state.times.r if i == self.steps else process.position(first + (last - first) * (i / self.steps))
            end = torch.minimum(end, now)  # to rounding
            x = self.solver.step(teacher, x, now.clamp(min=1e-6), end, state.condition)
            now = end
        return x
