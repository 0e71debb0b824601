"""State sources: where the points come from that a flow map learns at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.sampling.solvers import Euler, Solver
from fastgen.times import JumpTimes


class StateSource(Component, ABC):
    """Where the student is asked."""

    needs_teacher: ClassVar[bool] = False

    @abstractmethod
    def state(self, networks: MapNetworks, part: MicroBatch, pure: MapState) -> MapState:
        """The point and what is known of it, without gradient.

        Args:
            networks: Whom it may ask.
            part: The batch.
            pure: Times, noise, condition and guidance scale as they were drawn, with pure noise for the point and no
                datum.

        Raises:
            UserError: If the batch lacks what it needs.
        """


@dataclass(frozen=True)
class RealData(StateSource):
    """Real samples under noise."""

    def state(self, networks: MapNetworks, part: MicroBatch, pure: MapState) -> MapState:
        if part.x0 is None:
            raise UserError(
                "A flow map needs real samples for its states, and the data module gives none ('x0' is missing); give "
                "such data, or states: NoiseOnly or TeacherPath with the teacher's velocity."
            )
        return replace(pure, x_t=networks.coordinates.add_noise(part.x0, pure.noise, pure.times.t), x0=part.x0)


@dataclass(frozen=True)
class PairedData(StateSource):
    """Points between the ends of the data module's pairs of noise and sample (``Pairs``)."""

    def state(self, networks: MapNetworks, part: MicroBatch, pure: MapState) -> MapState:
        if part.x0 is None or part.noise is None:
            raise UserError("PairedData needs pairs of noise and samples; give the data module Pairs.")
        x_t = networks.coordinates.add_noise(part.x0, part.noise, pure.times.t)
        return replace(pure, x_t=x_t, x0=part.x0, noise=part.noise)


@dataclass(frozen=True)
class NoiseOnly(StateSource):
    """Pure noise at ``t_max``, where the flow begins: data-free. Of the drawn times only ``r`` and ``s`` count."""

    def state(self, networks: MapNetworks, part: MicroBatch, pure: MapState) -> MapState:
        t = torch.full_like(pure.times.t, networks.t_max)
        times = JumpTimes(t, pure.times.s, pure.times.r)
        return replace(pure, times=times, x_t=networks.coordinates.start(pure.noise, t))


@dataclass(frozen=True)
class TeacherPath(StateSource):
    """Points that the guided teacher's solver reaches from pure noise (TBCM, arXiv 2511.20410): data-free.

    Args:
        solver: Its steps; its own guidance must stay 1: the method's acts.
        steps: Number of steps from ``t_max`` to the state's time, even in the levels that networks are trained at.
    """

    needs_teacher: ClassVar[bool] = True
    solver: Solver = Euler()
    steps: int = 16

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)
        if self.solver.guidance != 1.0:
            raise UserError("TeacherPath: its solver takes no guidance; leave that at 1 and set the method's guidance.")

    def state(self, networks: MapNetworks, part: MicroBatch, pure: MapState) -> MapState:
        teacher = networks.guided_teacher(pure)

        def step(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return self.solver.step(teacher, x, t, s, pure.condition)

        return replace(pure, x_t=walked(networks, pure, self.steps, step))


@dataclass(frozen=True)
class StudentPath(StateSource):
    """Points where the student's own jumps from pure noise land: what it is called at when it samples. Data-free.

    Args:
        steps: Number of jumps from ``t_max`` to the state's time, even in the levels that networks are trained at.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        checks.whole(self, 1, checks.MOST_STEPS, steps=self.steps)

    def state(self, networks: MapNetworks, part: MicroBatch, pure: MapState) -> MapState:
        def step(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return networks.coordinates.jump(networks.predict(networks.student, x, t, s, pure), s)

        return replace(pure, x_t=walked(networks, pure, self.steps, step))


@torch.no_grad()
def walked(
    networks: MapNetworks, pure: MapState, steps: int, step: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Where ``steps`` calls of ``step(x, t, s)`` lead from pure noise at ``t_max`` to the time of a state, (B, ...)."""
    process, end = networks.coordinates, pure.times.t
    t = torch.full_like(end, networks.t_max)
    x = process.start(pure.noise, t)
    first, last = process.fraction(t), process.fraction(end)
    for i in range(1, steps + 1):
        s = end if i == steps else process.position(first + (last - first) * (i / steps)).clamp(max=networks.t_max)
        x, t = step(x, t, s), s
    return x
