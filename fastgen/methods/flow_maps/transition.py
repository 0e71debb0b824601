"""Transitions: from ``x_t`` at ``t`` to the point at ``r < t`` where a bootstrap target is evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastgen.configuration.components import Component
from fastgen.errors import UserError
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.sampling.solvers import Euler, Solver


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
